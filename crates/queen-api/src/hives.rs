//! `/v1/hives/…`.

use std::path::PathBuf;

use fleet::{
    Capabilities, Desired, DesiredBy, HiveId, HiveMode, HivePhase, HiveSource, HiveStatus, Hostname,
    LaunchId, StartPolicy, Timestamp, TlsFingerprint,
};
use serde::{Deserialize, Serialize};

/// `POST /v1/hives/register`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The hive's id; its hostname if absent, and `local` for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<HiveId>,
    /// Its machine; this one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// The hive's port; 7835 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the queen reaches it; told from the hostname if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<HiveMode>,
    /// The token of a hive that already runs: with it the hive is used, never started or stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Fingerprint of its certificate, SHA-256 in hexadecimal digits. A hive that listens beyond its own machine has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<TlsFingerprint>,
    /// Private key file on the queen's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_key_path: Option<PathBuf>,
    /// Remote account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_user: Option<String>,
    /// Port of the SSH server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_port: Option<u16>,
    /// Where the machine stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Free words of the owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// When the queen starts it; always if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartPolicy>,
}

/// 201 for a new hive, 200 for one that was registered the same way before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// Whether it is new.
    pub created: bool,
    /// The hive.
    pub hive: HiveInfo,
}

/// `GET /v1/hives/list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HivesReply {
    /// All hives, by id.
    pub hives: Vec<HiveInfo>,
}

/// One hive: what was registered, what is wanted, and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HiveInfo {
    /// Its id.
    pub id: HiveId,
    /// Its machine.
    pub hostname: Hostname,
    /// Its port.
    pub port: u16,
    /// How the queen reaches it.
    pub mode: HiveMode,
    /// Private key file, for network mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_key_path: Option<PathBuf>,
    /// Remote account, for network mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_user: Option<String>,
    /// Port of the SSH server, for network mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_port: Option<u16>,
    /// What it reported of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// When it last answered, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// `online`, `offline` or `error`.
    pub status: HiveStatus,
    /// The finer state behind the status.
    pub phase: HivePhase,
    /// Why it stands there, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What should be true of its process.
    pub desired: Desired,
    /// Who decided so.
    pub desired_by: DesiredBy,
    /// When the queen starts it; one that does not say always does.
    #[serde(default)]
    pub start: StartPolicy,
    /// Who registered it.
    pub source: HiveSource,
    /// Whether the queen only uses it.
    pub attached: bool,
    /// Where the machine stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Free words of the owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The start that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_id: Option<LaunchId>,
}

//! `/healthz`, `/readyz` and `/v1/shutdown`.

use fleet::ProcessIdentity;
use serde::{Deserialize, Serialize};

/// `GET /healthz`: the process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReply {
    /// `ok`.
    pub status: String,
    /// Version of the queen.
    pub version: String,
}

/// `GET /readyz`: 200 when requests can be taken, 503 otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyReply {
    /// How it stands.
    pub status: ReadyState,
    /// Hives that are online.
    pub hives_online: u32,
    /// Workers that are ready.
    pub workers_ready: u32,
}

/// Whether the queen takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyState {
    /// It does.
    Ready,
    /// It is stopping and takes no new ones.
    Stopping,
}

/// `POST /v1/shutdown`. An empty body means the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// What becomes of the hives.
    #[serde(default)]
    pub hives: HivesOnStop,
}

/// What becomes of the hives when the queen stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HivesOnStop {
    /// They stop, and their workers first.
    #[default]
    Stop,
    /// They go on; the next queen takes them over.
    Keep,
}

/// 202 to a shutdown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownReply {
    /// `stopping`.
    pub status: String,
    /// The process that stops, for whoever waits on the same machine until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessIdentity>,
}

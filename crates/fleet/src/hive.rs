//! Hives: where they are, what their owner wants of them, and what is known of them.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Capabilities, HiveId, LaunchId, Timestamp, TlsFingerprint, Token};

/// A host name or an IP address, without a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

/// Why a string is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a host name nor an IP address (letters, digits, `.`, `-` and `_`; no port, no user)"
)]
pub struct HostnameError(String);

impl Hostname {
    /// The name as text; an IPv6 address stands without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name means the machine it is read on: `localhost`, `127.0.0.0/8` or `::1`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.0.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.0.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
        }
    }

    /// The loopback address at which a hive of this machine listens and is reached: this one if it is one, else 127.0.0.1. A name
    /// of the machine may stand for an address that others reach, too.
    #[must_use]
    pub fn on_this_machine(&self) -> Self {
        let is_address = self.0.parse::<IpAddr>().is_ok();
        if is_address && self.is_loopback() { self.clone() } else { Self("127.0.0.1".to_owned()) }
    }

    /// `host:port` as it stands in a URL, an IPv6 address in brackets.
    #[must_use]
    pub fn with_port(&self, port: u16) -> String {
        if self.0.contains(':') { format!("[{}]:{port}", self.0) } else { format!("{}:{port}", self.0) }
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let refused = || HostnameError(text.chars().take(80).collect());
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        let labels = text.strip_suffix('.').unwrap_or(text);
        let legal_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        // A name of digits and dots only would be read as an address by some resolvers (`127.1`, `2130706433`).
        let numeric = labels.bytes().all(|b| b.is_ascii_digit() || b == b'.') || labels.starts_with("0x");
        if labels.len() > 253 || numeric || !labels.split('.').all(legal_label) {
            return Err(refused());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Hostname {
    type Error = HostnameError;

    fn try_from(text: String) -> Result<Self, HostnameError> {
        text.parse()
    }
}

impl From<Hostname> for String {
    fn from(host: Hostname) -> Self {
        host.0
    }
}

/// How the queen reaches a hive's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiveMode {
    /// The queen's own machine: the hive is a child process and shares the file system.
    Local,
    /// Another machine: the hive is started over SSH.
    Network,
}

impl HiveMode {
    /// The mode of a host whose owner did not say: local for this machine's loopback names, network for all else.
    #[must_use]
    pub fn detect(hostname: &Hostname) -> Self {
        if hostname.is_loopback() { Self::Local } else { Self::Network }
    }

    /// The word that configuration, rows and replies use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Network => "network",
        }
    }
}

/// Who made the row: the configuration file, or somebody over the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiveSource {
    /// `queen.toml`; follows the file.
    Config,
    /// `POST /v1/hives/register`; stays until it is deleted.
    Api,
}

/// Whether the queen owns the hive's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum HiveKind {
    /// The queen starts and stops it.
    Managed,
    /// Somebody else started it; the queen only uses it.
    Attached {
        /// The hive's own token, as found in its `<data-dir>/token`.
        #[serde(skip)]
        token: Option<Token>,
        /// Its certificate, as found in its `hive.json`; without one it is reached over plain HTTP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pin: Option<TlsFingerprint>,
    },
}

/// When the hive should run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartPolicy {
    /// As long as the queen runs.
    #[default]
    Always,
    /// When a request needs it, until it has been without a worker for a while.
    OnDemand,
}

/// How to log in to a network hive's machine. What is absent comes from `~/.ssh/config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshTarget {
    /// Remote account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Port of the SSH server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Private key file on the queen's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_path: Option<PathBuf>,
    /// The host key that was accepted, in `known_hosts` form (`ssh-ed25519 AAAA…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
}

/// What somebody registered: everything about a hive that does not change by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiveSpec {
    /// The hive's name.
    pub id: HiveId,
    /// Its machine.
    pub hostname: Hostname,
    /// The port that the hive listens on.
    pub port: u16,
    /// How the queen reaches the machine.
    pub mode: HiveMode,
    /// How to log in there, for [`HiveMode::Network`].
    pub ssh: SshTarget,
    /// Where the machine stands, as its owner calls it.
    pub region: Option<String>,
    /// Free words of the owner, for choosing hives.
    pub labels: Vec<String>,
    /// Who made the row.
    pub source: HiveSource,
    /// Whether the queen owns the process.
    pub kind: HiveKind,
    /// When it should run.
    pub start: StartPolicy,
}

impl HiveSpec {
    /// A local, managed hive that always runs: what a queen without any configuration has.
    #[must_use]
    pub fn local(id: HiveId, hostname: Hostname, port: u16) -> Self {
        Self {
            id,
            hostname,
            port,
            mode: HiveMode::Local,
            ssh: SshTarget::default(),
            region: None,
            labels: Vec::new(),
            source: HiveSource::Config,
            kind: HiveKind::Managed,
            start: StartPolicy::Always,
        }
    }

    /// Whether `other` describes the same connection, so that registering it again is no conflict. Token and certificate of
    /// an attached hive are not part of it: a hive that is started by hand again has made itself new ones.
    #[must_use]
    pub fn same_connection(&self, other: &Self) -> bool {
        self.hostname == other.hostname
            && self.port == other.port
            && self.mode == other.mode
            && self.ssh == other.ssh
            && std::mem::discriminant(&self.kind) == std::mem::discriminant(&other.kind)
    }
}

/// What should be true of a hive's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It runs and takes work.
    Running,
    /// It does not run.
    Stopped,
    /// It runs and takes no new work.
    Drained,
    /// It runs, its workers are stopped at once, and it takes no new work: its owner wants the machine back.
    Paused,
}

/// Who decided so. Placement never undoes what a person decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredBy {
    /// Somebody, over the API or the command line, or the configuration.
    Person,
    /// The queen, following demand.
    Placement,
}

/// The stored state of a hive: the nearest of three to its live [`HivePhase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiveStatus {
    /// It answers.
    Online,
    /// It does not run, and should not or not yet.
    Offline,
    /// It should run and does not answer, or cannot be used.
    Error,
}

/// The live state of a hive, as the queen sees it.
///
/// ```text
///           start            first beat
/// offline ─────────▶ starting ─────────▶ online ◀──────▶ unreachable
///    ▲                  │                 │  │   silence,     │
///    │                  ▼                 │  ▼   beats again  │
///    │                error ◀─────────────┼─ draining         │
///    │                                    ▼                   │
///    └──────────────────────────────── stopping ◀─────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HivePhase {
    /// Its process is being started or looked for.
    Starting,
    /// It answers and takes work.
    Online,
    /// It has been silent for too long; its workers get no requests.
    Unreachable,
    /// It answers, finishes what it has and takes nothing new.
    Draining,
    /// It is being stopped.
    Stopping,
    /// It does not run.
    Offline,
    /// It cannot be used; the reason stands beside.
    Error,
}

impl HivePhase {
    /// The stored status nearest to this phase.
    #[must_use]
    pub const fn status(self) -> HiveStatus {
        match self {
            Self::Online | Self::Draining => HiveStatus::Online,
            Self::Starting | Self::Stopping | Self::Offline => HiveStatus::Offline,
            Self::Unreachable | Self::Error => HiveStatus::Error,
        }
    }

    /// The word that replies and events use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Online => "online",
            Self::Unreachable => "unreachable",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Offline => "offline",
            Self::Error => "error",
        }
    }
}

/// A hive's row: what was registered, what is wanted, and what was last known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiveRecord {
    /// What was registered.
    pub spec: HiveSpec,
    /// What should be true of its process.
    pub desired: Desired,
    /// Who decided so.
    pub desired_by: DesiredBy,
    /// What it last reported of its machine.
    pub capabilities: Option<Capabilities>,
    /// When it last answered. For display only.
    pub last_seen: Option<Timestamp>,
    /// The last stored state.
    pub status: HiveStatus,
}

/// Where a running hive takes requests, and how to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiveEndpoint {
    /// The hive.
    pub hive_id: HiveId,
    /// The launch that the token belongs to; sent with every call.
    pub launch_id: LaunchId,
    /// Its machine.
    pub host: Hostname,
    /// Its port.
    pub port: u16,
    /// What it asks for in `Authorization`.
    pub token: Token,
    /// The only certificate that it may show. Without one it is reached over plain HTTP.
    pub pin: Option<TlsFingerprint>,
}

impl HiveEndpoint {
    /// The URL that the hive's paths are appended to, without a trailing slash.
    #[must_use]
    pub fn base_url(&self) -> String {
        let scheme = if self.pin.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.host.with_port(self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        text.parse().expect("a legal host name")
    }

    #[test]
    fn only_loopback_names_are_local() {
        for text in
            ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"]
        {
            assert_eq!(HiveMode::detect(&host(text)), HiveMode::Local, "{text}");
        }
        for text in ["192.168.1.100", "box", "box.local", "localhost.example", "fe80::1", "0.0.0.0"] {
            assert_eq!(HiveMode::detect(&host(text)), HiveMode::Network, "{text}");
        }
    }

    #[test]
    fn hosts_that_are_options_urls_or_shell_words_are_refused() {
        for text in [
            "",
            ".",
            "-oProxyCommand=id",
            "a b",
            "a;id",
            "user@host",
            "host:22",
            "http://host",
            "a/b",
            "a\nb",
            "ä.de",
            "127.1",
            "2130706433",
            "0x7f000001",
            "[::1]",
            "a..b",
            &"a".repeat(64),
            "a%00b",
            "a\\b",
            "$(id)",
        ] {
            assert!(text.parse::<Hostname>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn an_ipv6_host_stands_in_brackets_before_a_port() {
        assert_eq!(host("::1").with_port(7835), "[::1]:7835");
        assert_eq!(host("box").with_port(7835), "box:7835");
    }
}

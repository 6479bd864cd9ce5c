//! Starting, finding and ending the hive process of a machine.

use std::{io, path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{HiveId, HiveSpec, Hostname, LaunchId, StoreError, TlsFingerprint, Token};

/// A process that cannot be mistaken for another one that got the same pid later.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: u32,
    /// When it started, in the kernel's own unit since boot (clock ticks on Linux, microseconds on macOS).
    pub start_time: u64,
    /// Which boot of the machine that was.
    pub boot_id: String,
}

/// A hive process that was found or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningHive {
    /// The launch that it answers for.
    pub launch_id: LaunchId,
    /// The process.
    pub process: ProcessIdentity,
    /// The port that it listens on, which is another than the wished one if that was 0.
    pub port: u16,
    /// The certificate that it shows, if it serves TLS.
    pub tls_fingerprint: Option<TlsFingerprint>,
}

/// The order to start one hive.
#[derive(Debug, Clone)]
pub struct LaunchOrder {
    /// Which hive, where.
    pub spec: HiveSpec,
    /// The launch, already in the journal.
    pub launch_id: LaunchId,
    /// What the hive will ask for in `Authorization`.
    pub token: Token,
}

/// How a hive process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiveExit {
    /// Exit code; absent when a signal ended it or when that could not be seen.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Last lines of its log.
    pub log_tail: Vec<String>,
}

/// Why a hive could not be started, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No `rbee-hive` for that machine.
    #[error("no rbee-hive binary for hive {hive_id}: looked for {}", paths(.tried))]
    BinaryMissing {
        /// The hive.
        hive_id: HiveId,
        /// Every place that was looked at, in order.
        tried: Vec<PathBuf>,
    },
    /// The operating system did not start the process, or a file beside it could not be written.
    #[error("hive {hive_id}: could not {action} {}", path.display())]
    Io {
        /// The hive.
        hive_id: HiveId,
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file it concerns.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The process ended before it listened.
    #[error("hive {hive_id} ended {}before it listened; its last lines:\n{}", ending(.exit), .exit.log_tail.join("\n"))]
    Exited {
        /// The hive.
        hive_id: HiveId,
        /// How.
        exit: HiveExit,
    },
    /// The process runs and did not listen in time.
    #[error("hive {hive_id} did not listen within {within:?}; its last lines:\n{}", log_tail.join("\n"))]
    NotListening {
        /// The hive.
        hive_id: HiveId,
        /// How long it was given.
        within: Duration,
        /// Last lines of its log.
        log_tail: Vec<String>,
    },
    /// A step on another machine failed. What was done before it stays there, and does no harm: the next launch goes on
    /// from it.
    #[error("hive {hive_id}: could not {} {host}", stage.attempt())]
    Remote {
        /// The hive.
        hive_id: HiveId,
        /// Its machine.
        host: Hostname,
        /// The step.
        stage: LaunchStage,
        /// Whether the same attempt may succeed later without anybody doing anything.
        retry: bool,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The journal could not take a step, so nothing further was done.
    #[error("hive {hive_id}: the launch could not be recorded")]
    Journal {
        /// The hive.
        hive_id: HiveId,
        /// The store's reason.
        #[source]
        source: StoreError,
    },
}

fn paths(tried: &[PathBuf]) -> String {
    tried.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn ending(exit: &HiveExit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("with exit code {code} "),
        (None, Some(signal)) => format!("by signal {signal} "),
        (None, None) => String::new(),
    }
}

impl LaunchError {
    /// Whether the same attempt may succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::BinaryMissing { .. } => false,
            Self::Remote { retry, .. } => *retry,
            Self::Io { .. } | Self::Exited { .. } | Self::NotListening { .. } | Self::Journal { .. } => true,
        }
    }
}

/// A step of a launch on another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchStage {
    /// Opening an SSH connection and checking the host key.
    Connect,
    /// Logging in.
    Authenticate,
    /// Asking what machine it is, and whether a hive runs there.
    Probe,
    /// Fetching an engine that goes there.
    Fetch,
    /// Bringing files that are missing there.
    Upload,
    /// Starting the hive.
    Start,
    /// Asking the hive for its health from here.
    Reach,
}

impl LaunchStage {
    /// The step as it stands before the name of a host.
    #[must_use]
    pub const fn attempt(self) -> &'static str {
        match self {
            Self::Connect => "connect to",
            Self::Authenticate => "log in to",
            Self::Probe => "look at",
            Self::Fetch => "fetch an engine for",
            Self::Upload => "copy files to",
            Self::Start => "start the hive on",
            Self::Reach => "reach the hive on",
        }
    }
}

/// What a launch is doing, for whoever waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchProgress {
    /// The step that it is at.
    pub stage: LaunchStage,
    /// What was found or is being brought, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Bytes brought so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes to bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// Told of each step of a launch before the launcher goes on, so that the journal is ahead of the machine.
#[async_trait]
pub trait LaunchObserver: Send + Sync {
    /// The launch has come to a step, or further in it. For people: nothing depends on it.
    fn progress(&self, launch: &LaunchId, progress: LaunchProgress);

    /// The process exists and may already listen.
    async fn spawned(&self, launch: &LaunchId, process: &ProcessIdentity) -> Result<(), StoreError>;
}

/// Starts, finds and ends the hive process of one kind of machine.
///
/// Every method ends by itself within a bound that the adapter documents.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait HiveLauncher: Send + Sync {
    /// Starts the hive and returns once it listens.
    ///
    /// The caller has committed `order.launch_id` to the journal and made sure that no hive of this id runs.
    async fn launch(
        &self,
        order: &LaunchOrder,
        observer: std::sync::Arc<dyn LaunchObserver>,
    ) -> Result<RunningHive, LaunchError>;

    /// The hive process that the machine's `hive.json` names, if it is still that very process.
    async fn discover(&self, spec: &HiveSpec) -> Result<Option<RunningHive>, LaunchError>;

    /// Ends when the process does. For a machine that cannot tell, it never ends.
    fn exited(&self, spec: &HiveSpec, running: &RunningHive) -> BoxFuture<'static, HiveExit>;

    /// Ends the process by force and then every worker that its journal names; does nothing to any other process.
    /// Returns how many processes were ended.
    async fn kill(&self, spec: &HiveSpec, running: &RunningHive) -> Result<u32, LaunchError>;

    /// Where the machine is reached from here, which need not be what it is called: `~/.ssh/config` may have a name of its own
    /// for an address.
    async fn address(&self, spec: &HiveSpec) -> Hostname {
        spec.hostname.clone()
    }

    /// Whether the way to the machine is open just now, as its SSH server's greeting shows; cheap, and within two seconds. Asked
    /// between attempts that could not connect. A launcher that has no such way says no.
    async fn greets(&self, _spec: &HiveSpec) -> bool {
        false
    }

    /// The last `lines` lines of the hive's log.
    async fn log_tail(&self, spec: &HiveSpec, lines: usize) -> Vec<String>;
}

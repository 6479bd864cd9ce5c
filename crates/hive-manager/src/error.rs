//! Why the manager did not do what it was asked.

use fleet::{HiveId, HivePhase, HiveSpec, StoreError, WorkerId};
use hive_api::client::ClientError;

/// Why the manager did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The registry did not take it.
    #[error("hive {hive_id}: {action}")]
    Store {
        /// The hive.
        hive_id: HiveId,
        /// What was attempted.
        action: &'static str,
        /// The registry's reason.
        #[source]
        source: StoreError,
    },
    /// The registry could not be read.
    #[error("the registered hives could not be read")]
    Rows(#[source] StoreError),
    /// Another hive has that id.
    #[error(
        "hive {} is registered already, as {} {}; remove it first, or choose another id",
        existing.id, existing.mode.as_str(), existing.hostname.with_port(existing.port)
    )]
    Conflict {
        /// What is registered under the id.
        existing: Box<HiveSpec>,
    },
    /// The id belongs to the configuration file.
    #[error(
        "hive {hive_id} comes from the queen's configuration; change it there (`hive = []` is no hive at all)"
    )]
    Configured {
        /// The hive.
        hive_id: HiveId,
    },
    /// There is no such hive.
    #[error("no hive {hive_id} is registered")]
    Unknown {
        /// The hive.
        hive_id: HiveId,
    },
    /// Nothing here can start a hive on such a machine.
    #[error(
        "hive {hive_id}: this queen starts hives on its own machine only; start rbee-hive on {host} by hand and \
         register it with the token from its <data-dir>/token"
    )]
    NoLauncher {
        /// The hive.
        hive_id: HiveId,
        /// Its machine.
        host: String,
    },
    /// The hive itself was asked, and did not give it.
    #[error(transparent)]
    Hive {
        /// What it said.
        source: ClientError,
    },
    /// The hive knows no such worker.
    #[error("hive {hive_id} has no worker {worker_id}, and no log of one")]
    NoWorker {
        /// The hive.
        hive_id: HiveId,
        /// The worker.
        worker_id: WorkerId,
    },
    /// The log lies where only the hive can read it, and the hive does not answer.
    #[error("hive {hive_id} is {}, and only a hive that answers can show this log; look at its own machine", phase.as_str())]
    NoLog {
        /// The hive.
        hive_id: HiveId,
        /// How it stands.
        phase: HivePhase,
    },
    /// The queen itself failed on the way.
    #[error("hive {hive_id}: the queen failed on the way; its log has more")]
    Lost {
        /// The hive.
        hive_id: HiveId,
    },
    /// The queen is stopping.
    #[error("the queen is stopping")]
    Stopping,
}

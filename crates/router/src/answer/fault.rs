//! How an answer breaks off.

use std::time::Duration;

use fleet::{HiveId, WorkerId};
use queen_api::{ErrorCode, ErrorDetail};

/// Why an answer ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BodyError {
    /// The worker's hive stopped answering.
    #[error("hive {0} stopped answering in the middle of the answer")]
    HiveLost(HiveId),
    /// The connection broke.
    #[error("worker {worker_id} on hive {hive_id} broke off in the middle of the answer")]
    Broke {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
    },
    /// The queen stops, and the grace is over.
    #[error("the queen stopped before the answer of worker {worker_id} on hive {hive_id} was complete")]
    Stopping {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
    },
    /// The stream ended without its terminator.
    #[error("the answer of worker {worker_id} on hive {hive_id} ended without its terminator")]
    Truncated {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
    },
    /// A line of the stream, or the whole answer, is beyond all reason.
    #[error("the answer of worker {worker_id} on hive {hive_id} is longer than any answer may be")]
    Overlong {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
    },
    /// Nothing came for too long.
    #[error("worker {worker_id} on hive {hive_id} sent nothing for {} s in the middle of the answer", idle.as_secs())]
    Silent {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
        /// How long it was waited for.
        idle: Duration,
    },
}

impl BodyError {
    /// The code that the client is told.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Silent { .. } => ErrorCode::WorkerTimeout,
            Self::Stopping { .. } => ErrorCode::Stopping,
            Self::HiveLost(_) | Self::Broke { .. } | Self::Truncated { .. } | Self::Overlong { .. } => {
                ErrorCode::WorkerFailed
            }
        }
    }

    /// What the client is told.
    #[must_use]
    pub fn detail(&self) -> ErrorDetail {
        ErrorDetail::new(self.code(), self.to_string())
    }
}

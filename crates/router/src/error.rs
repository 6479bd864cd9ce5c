//! Why a request got no answer.

use std::{sync::Arc, time::Duration};

use fleet::{FailureCode, HiveId, ModelRef, WorkerId};
use model_provisioner::ProvisionError;
use placement::PlacementError;
use queen_api::{ErrorCode, ErrorDetail};

/// Why a request got no answer. Nothing of an answer was sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RouteError {
    /// No worker could be started.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// Too many wait already.
    #[error("{waiting} requests wait for {model} already, which is as many as may")]
    QueueFull {
        /// The model.
        model: ModelRef,
        /// How many wait.
        waiting: u32,
    },
    /// It would wait for too long.
    #[error(
        "{ahead} requests for {model} are served before, which takes about {} s; nobody waits for more than {} s",
        expected.as_secs(), bound.as_secs()
    )]
    QueueSlow {
        /// The model.
        model: ModelRef,
        /// How many are served before.
        ahead: u32,
        /// How long that takes.
        expected: Duration,
        /// How long one may wait.
        bound: Duration,
    },
    /// All workers failed too often.
    #[error(
        "every worker for {model} failed several requests in a row; the next one is tried in {} s, see rbee hive logs",
        again.as_secs().max(1)
    )]
    Failing {
        /// The model.
        model: ModelRef,
        /// When one of them is tried again.
        again: Duration,
    },
    /// No hive stands where the request may go.
    #[error(
        "no hive is in region {region}, so no worker for {model} is or can be started there; hives are in: {there}"
    )]
    NoRegion {
        /// The model.
        model: ModelRef,
        /// The region that was asked for.
        region: Arc<str>,
        /// Where there are some.
        there: String,
    },
    /// No slot became free in time.
    #[error("no slot for {model} became free within {} s", waited.as_secs())]
    QueueTimeout {
        /// The model.
        model: ModelRef,
        /// How long it waited.
        waited: Duration,
    },
    /// The worker failed, and there is no other to try.
    #[error("worker {worker_id} on hive {hive_id} failed: {reason}")]
    WorkerFailed {
        /// The last worker that was tried.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
        /// What happened.
        reason: String,
        /// How many were tried.
        attempts: u32,
    },
    /// The request ended two workers.
    #[error(
        "this request ended {attempts} workers, the last one {worker_id} on hive {hive_id}; it is not given another"
    )]
    KilledWorkers {
        /// The last worker that was tried.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
        /// How many were tried.
        attempts: u32,
    },
    /// The worker sent nothing for too long.
    #[error("worker {worker_id} on hive {hive_id} sent nothing for {} s", waited.as_secs())]
    WorkerTimeout {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The queen is stopping.
    #[error("the queen is stopping")]
    Stopping,
}

impl RouteError {
    /// The code that the client is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Placement(error) => placement_code(error),
            Self::QueueFull { .. } | Self::QueueSlow { .. } => ErrorCode::QueueFull,
            Self::Failing { .. } => ErrorCode::WorkersFailing,
            Self::NoRegion { .. } => ErrorCode::NoHive,
            Self::QueueTimeout { .. } => ErrorCode::QueueTimeout,
            Self::WorkerFailed { .. } => ErrorCode::WorkerFailed,
            Self::KilledWorkers { .. } => ErrorCode::RequestKilledWorker,
            Self::WorkerTimeout { .. } => ErrorCode::WorkerTimeout,
            Self::Stopping => ErrorCode::Stopping,
        }
    }

    /// When it makes sense to come again, where that can be said.
    #[must_use]
    pub fn again_after(&self) -> Option<Duration> {
        match self {
            // By then the line is as short as it may be.
            Self::QueueSlow { expected, bound, .. } => Some(expected.saturating_sub(*bound)),
            Self::Failing { again, .. } => Some(*again),
            _ => None,
        }
    }

    /// What the client is told.
    #[must_use]
    pub fn detail(&self) -> ErrorDetail {
        let detail = ErrorDetail::new(self.code(), self.to_string());
        match self {
            Self::QueueSlow { ahead, expected, .. } => detail.with_details(serde_json::json!({
                "ahead": ahead, "expected_wait_s": expected.as_secs(),
            })),
            Self::Placement(PlacementError::WorkerFailed { hive_id, worker_id, code, log_tail, .. }) => detail
                .with_details(serde_json::json!({
                    "hive_id": hive_id, "worker_id": worker_id, "failure": code.as_str(), "log_tail": log_tail,
                })),
            Self::Placement(PlacementError::NoHive { refusal, .. }) => {
                let hives: serde_json::Map<_, _> =
                    refusal.obstacles.iter().map(|(id, o)| (id.to_string(), o.to_string().into())).collect();
                detail.with_details(serde_json::json!({ "hives": hives }))
            }
            Self::Placement(PlacementError::Provision(ProvisionError::Refused { detail: hive, .. })) => {
                match &hive.details {
                    Some(details) => detail.with_details(details.clone()),
                    None => detail,
                }
            }
            _ => detail,
        }
    }
}

fn hive_code(code: Option<hive_api::ErrorCode>, otherwise: ErrorCode) -> ErrorCode {
    use hive_api::ErrorCode as H;
    match code {
        Some(H::ModelNotFound | H::ModelAmbiguous) => ErrorCode::ModelNotFound,
        Some(H::ModelInvalid) => ErrorCode::ModelInvalid,
        Some(H::InvalidRequest) => ErrorCode::InvalidRequest,
        Some(H::EngineUnavailable) => ErrorCode::EngineUnavailable,
        Some(H::StorageFull) => ErrorCode::StorageFull,
        Some(H::InsufficientMemory) => ErrorCode::InsufficientMemory,
        _ => otherwise,
    }
}

fn placement_code(error: &PlacementError) -> ErrorCode {
    match error {
        PlacementError::NoHive { refusal, .. } if refusal.is_for_memory() => ErrorCode::InsufficientMemory,
        PlacementError::NoHive { refusal, .. } if refusal.is_for_disk() => ErrorCode::StorageFull,
        PlacementError::NoHive { .. } | PlacementError::HiveLost { .. } => ErrorCode::NoHive,
        PlacementError::Provision(error) => hive_code(error.code(), ErrorCode::DownloadFailed),
        PlacementError::Refused { detail, .. } => hive_code(Some(detail.code), ErrorCode::HiveFailed),
        PlacementError::Call { .. } => ErrorCode::HiveFailed,
        PlacementError::WorkerFailed { code, .. } => match code {
            FailureCode::ModelInvalid | FailureCode::ModelUnreadable => ErrorCode::ModelInvalid,
            FailureCode::OutOfMemory => ErrorCode::InsufficientMemory,
            FailureCode::LoadTimeout => ErrorCode::LoadTimeout,
            FailureCode::SpawnFailed | FailureCode::ExitedWhileLoading | FailureCode::Crashed => {
                ErrorCode::WorkerStartFailed
            }
        },
        PlacementError::LoadStalled { .. } => ErrorCode::LoadTimeout,
        PlacementError::WorkerStopped { .. } | PlacementError::Abandoned { .. } => {
            ErrorCode::WorkerStartFailed
        }
        PlacementError::Lost { .. } => ErrorCode::Internal,
        PlacementError::Stopping => ErrorCode::Stopping,
    }
}

//! Why no worker became ready.

use std::time::Duration;

use fleet::{FailureCode, HiveId, ModelRef, WorkerId};
use hive_api::ErrorDetail;
use model_provisioner::ProvisionError;
use scheduler::Refusal;

/// Why no worker became ready.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlacementError {
    /// No hive can take a worker.
    #[error("no hive can start a worker for {model}: {refusal}")]
    NoHive {
        /// The model.
        model: ModelRef,
        /// Each hive, and why not.
        refusal: Refusal,
    },
    /// The model could not be brought to the hive.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The hive did not take the order.
    #[error("hive {hive_id} did not start a worker for {model}: {detail}")]
    Refused {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// What it said.
        detail: ErrorDetail,
    },
    /// The hive could not be asked, or answered what is no answer.
    #[error("hive {hive_id} could not be asked for a worker for {model}: {reason}")]
    Call {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// What happened.
        reason: String,
    },
    /// The worker ended before it was ready.
    #[error(
        "worker {worker_id} on hive {hive_id} did not become ready for {model} ({}); its last lines:\n{}",
        code.as_str(), log_tail.join("\n")
    )]
    WorkerFailed {
        /// The hive.
        hive_id: HiveId,
        /// The worker.
        worker_id: WorkerId,
        /// The model.
        model: ModelRef,
        /// For programs.
        code: FailureCode,
        /// Its last lines.
        log_tail: Vec<String>,
    },
    /// The worker was stopped before it was ready.
    #[error("worker {worker_id} on hive {hive_id} was stopped before it was ready for {model}")]
    WorkerStopped {
        /// The hive.
        hive_id: HiveId,
        /// The worker.
        worker_id: WorkerId,
        /// The model.
        model: ModelRef,
    },
    /// The worker's hive went away.
    #[error("hive {hive_id} went away while it started a worker for {model}")]
    HiveLost {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
    },
    /// Nothing moved while the worker loaded.
    #[error("worker {worker_id} on hive {hive_id} made no progress for {} s while it loaded {model}", idle.as_secs())]
    LoadStalled {
        /// The hive.
        hive_id: HiveId,
        /// The worker.
        worker_id: WorkerId,
        /// The model.
        model: ModelRef,
        /// For how long.
        idle: Duration,
    },
    /// Everybody who waited left before the worker was started.
    #[error("nobody waits for {model} any more")]
    Abandoned {
        /// The model.
        model: ModelRef,
    },
    /// The queen itself failed on the way.
    #[error("the queen failed while it started a worker for {model}; its log has more")]
    Lost {
        /// The model.
        model: ModelRef,
    },
    /// The queen is stopping.
    #[error("the queen is stopping")]
    Stopping,
}

impl PlacementError {
    /// Whether the model or the queen is at fault, so that no other hive would fare better. A file of a machine's is another one,
    /// or none, on each.
    pub(crate) fn is_final(&self, model: &ModelRef) -> bool {
        let is_file = matches!(model, ModelRef::File(_));
        match self {
            Self::Provision(_) | Self::Refused { .. } | Self::WorkerFailed { .. } if is_file => false,
            Self::NoHive { .. }
            | Self::Abandoned { .. }
            | Self::Lost { .. }
            | Self::Stopping
            | Self::WorkerStopped { .. } => true,
            Self::Provision(error) => error.is_about_the_model(),
            Self::Refused { detail, .. } => {
                use hive_api::ErrorCode as C;
                matches!(detail.code, C::ModelNotFound | C::ModelInvalid | C::InvalidRequest)
            }
            Self::WorkerFailed { code, .. } => matches!(code, FailureCode::ModelInvalid),
            Self::Call { .. } | Self::HiveLost { .. } | Self::LoadStalled { .. } => false,
        }
    }

    /// Whether the model's files may be other ones than they should be.
    pub(crate) const fn is_damage(&self) -> bool {
        matches!(self, Self::WorkerFailed { code: FailureCode::ModelInvalid, .. })
    }

    /// Whether the hive had no such model when it was told to start a worker.
    pub(crate) const fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { detail, .. } if matches!(detail.code, hive_api::ErrorCode::ModelNotFound))
    }

    /// Whether the cause lies in the model or in the machines, and so will be the same in a second.
    pub(crate) const fn is_worth_remembering(&self) -> bool {
        !matches!(self, Self::Abandoned { .. } | Self::Stopping | Self::WorkerStopped { .. })
    }
}

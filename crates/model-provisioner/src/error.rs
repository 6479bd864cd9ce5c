//! Why a model is not where it should be.

use std::time::Duration;

use fleet::{HiveId, ModelRef, Resolved, WorkerId};
use hive_api::{ErrorDetail, client::ClientError};

/// Why a model is not where it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProvisionError {
    /// The hive is not there to be asked.
    #[error("hive {hive_id} is not online, so nothing can be done about {model} there")]
    HiveGone {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
    },
    /// The hive said no.
    #[error("hive {hive_id} cannot have {model}: {detail}")]
    Refused {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// What it said.
        detail: ErrorDetail,
    },
    /// Workers run from its files.
    #[error(
        "{model} is in use on hive {hive_id} by {}; stop what uses it first",
        workers.iter().map(|worker| format!("worker {worker}")).collect::<Vec<_>>().join(", ")
    )]
    InUse {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// The workers.
        workers: Vec<WorkerId>,
    },
    /// It did not remove the model.
    #[error("hive {hive_id} did not remove {model}: {detail}")]
    Kept {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// What it said.
        detail: ErrorDetail,
    },
    /// It brought something else.
    #[error("hive {hive_id} brought {found} for {model}, which stands for {wanted}")]
    Another {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// What it stands for.
        wanted: Resolved,
        /// What came.
        found: Resolved,
    },
    /// The transfer failed.
    #[error("{model} did not arrive on hive {hive_id}: {message}")]
    Failed {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// For programs, in the words of the hive.
        code: String,
        /// What was tried and why it failed.
        message: String,
    },
    /// Nothing moved.
    #[error("{model} did not move for {} s on its way to hive {hive_id}, at {bytes} bytes", idle.as_secs())]
    Stalled {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// For how long.
        idle: Duration,
        /// How far it had come.
        bytes: u64,
    },
    /// The hive could not be asked, or answered what is no answer.
    #[error("hive {hive_id} could not be asked for {model}: {reason}")]
    Call {
        /// The hive.
        hive_id: HiveId,
        /// The model.
        model: ModelRef,
        /// What happened.
        reason: String,
    },
}

impl ProvisionError {
    pub(crate) fn of(error: &ClientError, hive_id: &HiveId, model: &ModelRef) -> Self {
        let (hive_id, model) = (hive_id.clone(), model.clone());
        match error.refused() {
            Some(detail) => Self::Refused { hive_id, model, detail: detail.clone() },
            None => Self::Call { hive_id, model, reason: error.kind.to_string() },
        }
    }

    /// The hive's code, where the hive gave one.
    #[must_use]
    pub fn code(&self) -> Option<hive_api::ErrorCode> {
        match self {
            Self::Refused { detail, .. } | Self::Kept { detail, .. } => Some(detail.code),
            Self::InUse { .. } => Some(hive_api::ErrorCode::ModelInUse),
            Self::Failed { code, .. } => hive_api::ErrorCode::ALL.iter().copied().find(|c| c.text() == *code),
            Self::HiveGone { .. } | Self::Another { .. } | Self::Stalled { .. } | Self::Call { .. } => None,
        }
    }

    /// Whether the model itself is at fault, so that no other hive would fare better.
    #[must_use]
    pub fn is_about_the_model(&self) -> bool {
        use hive_api::ErrorCode as C;
        matches!(
            self.code(),
            Some(C::ModelNotFound | C::ModelAmbiguous | C::ModelInvalid | C::InvalidRequest)
        )
    }
}

//! Why a request went where it went, as `/v1/decisions` tells it.

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize, Serializer};

use crate::{HiveId, ModelRef, RequestId, RequestOutcome, Timestamp, WorkerId};

/// All that was decided of one request, with the reasons in seconds and tokens. Never holds a prompt, an answer or a
/// secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestDecisions {
    /// The request.
    pub request_id: RequestId,
    /// The model it asked for.
    pub model: ModelRef,
    /// When it came, for display.
    pub at: Timestamp,
    /// Length of its prompt, in bytes.
    pub prompt_bytes: u64,
    /// Most tokens that it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The only region that it might go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What was decided, in order.
    pub steps: Vec<DecisionStep>,
    /// How it ended; absent while it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RequestOutcome>,
    /// Error code, unless it was completed or cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How many workers were sent it.
    pub attempts: u32,
}

/// One decision of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionStep {
    /// When, in milliseconds since the request came.
    pub after_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: DecisionKind,
}

/// How many workers a decision names beside the chosen one.
pub const ALTERNATIVES: usize = 3;

/// What can be decided of a request. It lies where it is kept, with nothing behind a pointer that every request has.
#[expect(clippy::large_enum_variant, reason = "the large one is the one that every request has")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DecisionKind {
    /// No slot was free, or none that was worth taking.
    Queued {
        /// Requests that are served before.
        ahead: u32,
        /// How long it was expected to wait, where that was known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_wait_s: Option<f64>,
    },
    /// No worker served the model: one had to be started.
    ColdStart,
    /// It was given to a worker.
    Sent {
        /// The worker's hive.
        hive_id: HiveId,
        /// The worker.
        worker_id: WorkerId,
        /// What was expected of it.
        expected: ExpectedTime,
        /// How many workers were compared.
        compared: u32,
        /// The next best ones, best first.
        others: ArrayVec<Alternative, ALTERNATIVES>,
    },
    /// The worker did not answer, or its answer broke off.
    Failed {
        /// The worker's hive.
        hive_id: HiveId,
        /// The worker.
        worker_id: WorkerId,
        /// How, without the worker's own words.
        reason: String,
    },
    /// Another worker was not tried.
    NotAgain {
        /// Why not.
        reason: String,
    },
}

/// What was expected of a request on one worker, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ExpectedTime {
    /// Until it has a slot and the worker has read what came before.
    #[serde(serialize_with = "rounded")]
    pub wait_s: f64,
    /// To read what the worker does not remember of the prompt.
    #[serde(serialize_with = "rounded")]
    pub prefill_s: f64,
    /// To write the answer.
    #[serde(serialize_with = "rounded")]
    pub decode_s: f64,
    /// To the worker and back.
    #[serde(serialize_with = "rounded")]
    pub round_trip_s: f64,
    /// Tokens of the prompt, estimated.
    pub prompt_tokens: u64,
    /// Of these the ones that the worker remembers.
    pub cached_tokens: u64,
}

/// To a tenth of a millisecond: more is not known.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn rounded<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((seconds * 1e4).round() / 1e4)
}

/// A worker that a request could have gone to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// Its hive.
    pub hive_id: HiveId,
    /// The worker.
    pub worker_id: WorkerId,
    /// What was expected of it.
    pub expected: ExpectedTime,
    /// Whether it had failed a request a moment ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
}

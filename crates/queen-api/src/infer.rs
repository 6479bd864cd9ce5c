//! `POST /v1/infer`.

use fleet::{HiveId, RequestId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, ErrorDetail};

/// The request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferRequest {
    /// A model reference, or an alias.
    pub model: String,
    /// Sent to the model as it is, without a chat template.
    pub prompt: String,
    /// Most tokens to generate.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// 0 is greedy; the engine's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus sampling, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Sampling among the k likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// For an answer that can be had again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Texts at which the answer ends; they are not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Whether the answer comes as events or as one object.
    #[serde(default = "default_stream")]
    pub stream: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

const fn default_max_tokens() -> u32 {
    256
}

const fn default_stream() -> bool {
    true
}

/// One stop text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Stop {
    /// The texts, in the order in which they were given.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// One event of the stream, a `data:` line each. A stream that was completed ends with `end` and then `data: [DONE]`; one
/// that failed ends with `error` and without it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InferEvent {
    /// No slot is free yet.
    Queued {
        /// Requests for the model that came before this one and wait too.
        ahead: u32,
    },
    /// A worker is being made ready for the model.
    Loading {
        /// What is being done.
        stage: LoadingStage,
        /// Part done, 0 to 1, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        progress: Option<f32>,
    },
    /// A worker has the request.
    Started {
        /// The request's name in logs and events.
        request_id: RequestId,
        /// The model that answers, by its full reference.
        model: String,
        /// The worker.
        worker_id: WorkerId,
        /// The worker's hive.
        hive_id: HiveId,
        /// How many workers it was sent to so far.
        #[serde(default)]
        attempts: u32,
        /// From its arrival until this worker was found for it.
        #[serde(default)]
        queued_ms: u64,
    },
    /// A piece of the answer.
    Token {
        /// The text.
        t: String,
        /// Counts the pieces from 0.
        i: u64,
    },
    /// The answer is complete.
    End {
        /// Tokens generated, as the engine counted them.
        tokens_out: u64,
        /// From the first piece to the last.
        decode_time_ms: u64,
        /// Why it ended.
        stop_reason: StopReason,
        /// How often another worker went on where one had broken off.
        #[serde(default, skip_serializing_if = "is_zero")]
        continued: u32,
    },
    /// The answer failed.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
        /// Figures and names behind the message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        details: Option<serde_json::Value>,
    },
}

impl From<ErrorDetail> for InferEvent {
    fn from(error: ErrorDetail) -> Self {
        Self::Error { code: error.code, message: error.message, details: error.details }
    }
}

/// What is being done to make a worker ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadingStage {
    /// A hive is being chosen.
    Choosing,
    /// The model's files are on their way to the hive.
    Downloading,
    /// The model's files are being checked.
    Verifying,
    /// The worker's process is being started.
    Starting,
    /// The engine reads the model.
    Loading,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// The whole answer, for `"stream": false`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferReply {
    /// The request's name in logs and events.
    pub request_id: RequestId,
    /// The model that answered, by its full reference.
    pub model: String,
    /// The worker.
    pub worker_id: WorkerId,
    /// The worker's hive.
    pub hive_id: HiveId,
    /// How many workers it was sent to before one answered.
    #[serde(default)]
    pub attempts: u32,
    /// From its arrival until the first answering worker was found for it.
    #[serde(default)]
    pub queued_ms: u64,
    /// The answer.
    pub text: String,
    /// Tokens generated, as the engine counted them.
    pub tokens_out: u64,
    /// From the first piece to the last.
    pub decode_time_ms: u64,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// How often another worker went on where one had broken off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub continued: u32,
}

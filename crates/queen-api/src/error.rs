//! What the queen says when it does not do what it was asked.

use serde::{Deserialize, Serialize};

/// The body of every answer with a status of 400 or above, but on the OpenAI routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The one error.
    pub error: ErrorDetail,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what was tried, on which hive or file, why it failed, what to do.
    pub message: String,
    /// Figures and names behind the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl ErrorDetail {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None }
    }

    /// The same with figures.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }
}

impl std::fmt::Display for ErrorDetail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorDetail {}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal $text:literal),+ $(,)?) => {
        /// Every code the queen may send, with its HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)+
            /// A code of a newer queen.
            #[serde(other)]
            Unknown,
        }

        impl ErrorCode {
            /// All known codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The HTTP status that the code is sent with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)+
                    Self::Unknown => 500,
                }
            }

            /// The code as it stands in the body.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

codes! {
    /// The body or a parameter is not of the required form.
    InvalidRequest = 400 "invalid_request",
    /// No token, or a wrong one.
    Unauthorized = 401 "unauthorized",
    /// No such path, or no such worker.
    NotFound = 404 "not_found",
    /// No such model, or one that may not be introduced here.
    ModelNotFound = 404 "model_not_found",
    /// No hive of that id.
    HiveNotFound = 404 "hive_not_found",
    /// The path exists, for another method.
    MethodNotAllowed = 405 "method_not_allowed",
    /// Another hive is registered under that id.
    HiveConflict = 409 "hive_conflict",
    /// A worker or a transfer uses the model.
    ModelInUse = 409 "model_in_use",
    /// The model's file is the machine owner's to remove.
    ModelNotOurs = 409 "model_not_ours",
    /// The body is longer than allowed.
    BodyTooLarge = 413 "body_too_large",
    /// The model's file is not one that an engine here reads.
    ModelInvalid = 422 "model_invalid",
    /// No engine of the hive serves such a model.
    EngineUnavailable = 422 "engine_unavailable",
    /// The request cannot be done by this queen.
    Unsupported = 422 "unsupported",
    /// The model's queue is full; `Retry-After` tells when to come again.
    QueueFull = 429 "queue_full",
    /// Something in the queen went wrong.
    Internal = 500 "internal",
    /// The worker failed, or answered what is no answer.
    WorkerFailed = 502 "worker_failed",
    /// The request ended two workers and is not given a third.
    RequestKilledWorker = 502 "request_killed_worker",
    /// The worker could not be started.
    WorkerStartFailed = 502 "worker_start_failed",
    /// A hive refused, or answered what is no answer.
    HiveFailed = 502 "hive_failed",
    /// The model could not be brought to the hive.
    DownloadFailed = 502 "download_failed",
    /// No hive can take the request now.
    NoHive = 503 "no_hive",
    /// No slot became free in time; `Retry-After` tells when to come again.
    QueueTimeout = 503 "queue_timeout",
    /// Every worker of the model failed several requests in a row; `Retry-After` tells when one is tried again.
    WorkersFailing = 503 "workers_failing",
    /// The queen is stopping.
    Stopping = 503 "stopping",
    /// The database cannot be written just now.
    StorageUnavailable = 503 "storage_unavailable",
    /// The worker sent nothing for too long.
    WorkerTimeout = 504 "worker_timeout",
    /// The worker did not become ready in time.
    LoadTimeout = 504 "load_timeout",
    /// The disk of the database or of a model store is full.
    StorageFull = 507 "storage_full",
    /// No hive has the memory for the model.
    InsufficientMemory = 507 "insufficient_memory",
}

//! What the queen and its clients say to each other: `docs/queen-api.md` in Rust.
//!
//! Bodies only: paths, authentication and status codes are `http-api`'s and `queen-client`'s. Requests are strict: an unknown
//! field is refused by name, because a misspelt option that is silently ignored costs its owner hours. Replies are
//! lenient: a client ignores what it does not know. The OpenAI routes forward bodies as they are and have no request
//! types here.
//!
//! Sizes are bytes and durations milliseconds; a name that ends in `_ms` says so.

mod error;
mod hives;
mod infer;
mod logs;
mod models;
mod openai;
mod operations;
mod workers;

pub use error::{ErrorBody, ErrorCode, ErrorDetail};
pub use hives::{HiveInfo, HivesReply, RegisterReply, RegisterRequest};
pub use infer::{InferEvent, InferReply, InferRequest, LoadingStage, Stop, StopReason};
pub use logs::{LogSource, LogSourceError, LogsReply};
pub use models::{
    CatalogHive, CatalogHiveState, CatalogModel, CatalogReply, EnsureEvent, EnsureRequest, RemoveModelReply,
};
pub use openai::{ModelCard, ModelsReply, OpenAiError, OpenAiErrorBody};
pub use operations::{HealthReply, HivesOnStop, ReadyReply, ReadyState, ShutdownReply, ShutdownRequest};
pub use workers::{WorkerInfo, WorkersReply};

/// Names a request in answers, events and logs. A client may send its own; the queen makes one otherwise.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The worker that answered.
pub const WORKER_HEADER: &str = "x-rbee-worker";

/// The hive of the worker that answered.
pub const HIVE_HEADER: &str = "x-rbee-hive";

/// How many workers the request was sent to.
pub const ATTEMPTS_HEADER: &str = "x-rbee-attempts";

/// From the request's arrival until its worker was found, in milliseconds.
pub const QUEUED_HEADER: &str = "x-rbee-queued-ms";

/// The only region that a request may go to.
pub const REGION_HEADER: &str = "x-rbee-region";

/// Whether a streamed answer may be gone on with by another worker when its own breaks off: `1` or `0`. Without it, an
/// answer that asks for the likeliest token every time may.
pub const CONTINUE_HEADER: &str = "x-rbee-continue";

/// A request's class: `high`, `normal` or `low`.
pub const PRIORITY_HEADER: &str = "x-rbee-priority";

#[cfg(test)]
mod tests;

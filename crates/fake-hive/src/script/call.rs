//! Faults of single calls of the contract.

use hive_api::ErrorCode;
use serde::{Deserialize, Serialize};

use super::WireScript;

/// The calls of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the call of that name in docs/hive-api.md")]
pub enum CallName {
    Health,
    Capabilities,
    Watch,
    Workers,
    Spawn,
    StopWorker,
    Proxy,
    Models,
    Inspect,
    Download,
    Progress,
    DeleteModel,
    GrantBlob,
    ReadBlob,
    WriteBlob,
    Logs,
    Shutdown,
    Metrics,
    /// Any path that the contract does not have.
    Other,
    /// In a script: every call without an entry of its own.
    All,
}

impl CallName {
    pub(crate) fn of(method: &http::Method, path: &str) -> Self {
        let blob = path.strip_prefix("/v1/models/blob/");
        match (method.as_str(), path) {
            (_, "/v1/health") => Self::Health,
            (_, "/v1/capabilities") => Self::Capabilities,
            (_, "/v1/watch") => Self::Watch,
            (_, "/v1/workers/list") => Self::Workers,
            (_, "/v1/workers/spawn") => Self::Spawn,
            (_, "/v1/models/list") => Self::Models,
            (_, "/v1/models/inspect") => Self::Inspect,
            (_, "/v1/models/download") => Self::Download,
            (_, "/v1/models/download/progress") => Self::Progress,
            ("DELETE", "/v1/models") => Self::DeleteModel,
            (_, "/v1/logs") => Self::Logs,
            (_, "/v1/shutdown") => Self::Shutdown,
            (_, "/metrics") => Self::Metrics,
            (_, path) if worker_of(path).is_some_and(|(_, rest)| rest.starts_with("proxy/")) => Self::Proxy,
            (_, path) if worker_of(path).is_some_and(|(_, rest)| rest == "stop") => Self::StopWorker,
            _ if blob.is_some_and(|rest| rest.ends_with("/grant")) => Self::GrantBlob,
            ("PUT", _) if blob.is_some() => Self::WriteBlob,
            _ if blob.is_some() => Self::ReadBlob,
            _ => Self::Other,
        }
    }
}

/// The worker's id in a path, and what follows it.
pub(crate) fn worker_of(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/v1/workers/")?.split_once('/')
}

/// What goes wrong with a call. The default is nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallScript {
    /// How many calls it goes wrong for, counted from when the script was set; all if absent.
    pub times: Option<u32>,
    /// How long it waits before it does anything.
    pub delay_ms: u64,
    /// What it answers.
    pub answer: Answer,
    /// Faults of the bytes on this call's connection, with offsets counted from this call on.
    pub wire: Option<WireScript>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// The proper answer.
    #[default]
    Proper,
    /// An error of the contract; the call is not done.
    Error {
        /// Its code, which gives the status.
        code: ErrorCode,
        /// Its message.
        #[serde(default)]
        message: String,
        /// Its details.
        #[serde(default)]
        details: Option<serde_json::Value>,
    },
    /// Any status and body; the call is not done.
    Status {
        /// The status.
        status: u16,
        /// The body.
        #[serde(default)]
        body: String,
        /// Its type; JSON if absent.
        #[serde(default)]
        content_type: Option<String>,
        /// The `Retry-After` header, in seconds.
        #[serde(default)]
        retry_after_s: Option<u32>,
        /// The `Location` header.
        #[serde(default)]
        location: Option<String>,
    },
    /// Bytes that are no proper answer; the call is not done.
    Garbage {
        /// Which.
        which: Garbage,
    },
    /// Nothing, for as long as the caller waits; the call is not done.
    Hang,
    /// The connection is reset before the call is done.
    DropRequest,
    /// The call is done and the connection is reset instead of the answer.
    DropReply,
}

/// Answers that keep no contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// 200 with a page of HTML, as a captive network gives.
    Html,
    /// 200, JSON by its type, and bytes that are not UTF-8.
    InvalidUtf8,
    /// Proper JSON of another program.
    OtherJson,
    /// JSON that ends in the middle, properly framed.
    CutJson,
    /// The right events, with the type of an image.
    WrongContentType,
    /// A chunk whose size is no number.
    BadChunk,
    /// A Content-Length larger than the body, then the end.
    LongContentLength,
    /// Two Content-Length headers that differ.
    TwoContentLengths,
    /// Interim 100 answers without end.
    Flood1xx,
    /// 101, switching protocols.
    Switching,
    /// A status line that is none.
    NotHttp,
    /// Nothing but a line feed between head and body, and headers that a worker must not set.
    InjectedHeaders,
    /// An event stream whose one line never ends.
    EndlessLine,
    /// Events without end, as fast as they are taken.
    EndlessEvents,
    /// A body of JSON nested 100,000 deep.
    DeepJson,
    /// A list of JSON numbers without end.
    EndlessJson,
    /// A small gzip body that would be large.
    GzipBomb,
}

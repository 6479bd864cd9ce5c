//! What a hive says when it does not do what it was asked.

use serde::{Deserialize, Serialize};

/// The body of every answer with a status of 400 or above.
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
    /// For people: what was tried, on which file or worker, why it failed, what to do.
    pub message: String,
    /// Figures and names behind the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal),+ $(,)?) => {
        /// Every code a hive may send, with its HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)+
            /// A code of a newer hive.
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
            pub fn text(self) -> String {
                serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
            }
        }
    };
}

codes! {
    /// The body or a parameter is not of the required form.
    InvalidRequest = 400,
    /// No token, or a wrong one.
    Unauthorized = 401,
    /// No such path, worker, download or log.
    NotFound = 404,
    /// The model is neither in the store nor at its source.
    ModelNotFound = 404,
    /// The reference fits several files; `details.choices` lists them.
    ModelAmbiguous = 404,
    /// The path exists, for another method.
    MethodNotAllowed = 405,
    /// The launch header is missing or names another launch.
    StaleLaunch = 409,
    /// The worker takes no requests in its state.
    WorkerNotReady = 409,
    /// A worker runs from the model's file, or a transfer writes it.
    ModelInUse = 409,
    /// The model's file is not the hive's to remove; the message says whose it is and how they remove it.
    ModelNotOurs = 409,
    /// The body is longer than allowed.
    BodyTooLarge = 413,
    /// The range is not within the file.
    RangeNotSatisfiable = 416,
    /// The file is not a model that an engine of this machine could read.
    ModelInvalid = 422,
    /// No engine of this machine serves such a model, or none of that name exists.
    EngineUnavailable = 422,
    /// Something in the hive went wrong.
    Internal = 500,
    /// The worker did not answer, or not in HTTP.
    WorkerUnreachable = 502,
    /// The model's source did not answer, or not as it should.
    SourceUnreachable = 502,
    /// The hive is draining or stopping.
    Draining = 503,
    /// The disk of the model store is full.
    StorageFull = 507,
    /// Main or device memory does not suffice.
    InsufficientMemory = 507,
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

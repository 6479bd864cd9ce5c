//! What a client is told when something is wrong, in OpenAI's shape.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::engine::EngineError;

/// Everything a request can fail with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    BadBody(String),
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("{name} {problem}")]
    BadParameter { name: String, problem: String },
    #[error("{name} is not supported by this worker{hint}")]
    Unsupported { name: String, hint: &'static str },
    #[error("the model {0:?} is not served here")]
    UnknownModel(String),
    #[error("there is no {method} {path} here")]
    UnknownRoute { method: String, path: String },
    #[error("the model is still loading")]
    Loading,
    #[error("{waiting} requests wait for a slot already")]
    QueueFull { waiting: usize },
    #[error("the worker is being stopped")]
    Stopping,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ApiError {
    pub(crate) fn parameter(name: &str, problem: impl Into<String>) -> Self {
        Self::BadParameter { name: name.to_owned(), problem: problem.into() }
    }

    pub(crate) fn unsupported(name: &str) -> Self {
        Self::Unsupported { name: name.to_owned(), hint: "" }
    }

    /// The one place where errors become statuses, types and codes. The types are OpenAI's; codes are OpenAI's where it
    /// has one.
    fn classify(&self) -> (StatusCode, &'static str, &'static str, Option<&str>) {
        const INVALID: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        const UNAVAILABLE: &str = "unavailable_error";
        match self {
            Self::BadBody(_) => (StatusCode::BAD_REQUEST, INVALID, "invalid_body", None),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, "body_too_large", None),
            Self::BadParameter { name, .. } => {
                (StatusCode::BAD_REQUEST, INVALID, "invalid_value", Some(name))
            }
            Self::Unsupported { name, .. } => {
                (StatusCode::BAD_REQUEST, INVALID, "unsupported_parameter", Some(name))
            }
            Self::UnknownModel(_) => (StatusCode::NOT_FOUND, INVALID, "model_not_found", Some("model")),
            Self::UnknownRoute { .. } => (StatusCode::NOT_FOUND, INVALID, "unknown_url", None),
            Self::Loading => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, "model_loading", None),
            Self::QueueFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, "queue_full", None),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, "worker_stopping", None),
            Self::Engine(EngineError::PromptTooLong { .. }) => {
                (StatusCode::BAD_REQUEST, INVALID, "context_length_exceeded", None)
            }
            Self::Engine(EngineError::BadPrompt(_)) => {
                (StatusCode::BAD_REQUEST, INVALID, "invalid_prompt", None)
            }
            Self::Engine(EngineError::Failed(_)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "engine_failed", None)
            }
        }
    }

    /// `{"error":{"message","type","code","param"}}`.
    pub(crate) fn body(&self) -> Value {
        let (_, kind, code, param) = self.classify();
        json!({ "error": { "message": self.to_string(), "type": kind, "code": code, "param": param } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, ..) = self.classify();
        let mut response = (status, Json(self.body())).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

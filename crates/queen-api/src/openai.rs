//! The shapes of the OpenAI routes that the queen makes itself.

use serde::{Deserialize, Serialize};

use crate::ErrorDetail;

/// `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelsReply {
    /// `list`.
    pub object: String,
    /// All models that can be asked, those too whose worker is not running.
    pub data: Vec<ModelCard>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// What to send as `model`.
    pub id: String,
    /// `model`.
    pub object: String,
    /// When it came into the catalog, in seconds since 1970.
    pub created: i64,
    /// `queen-rbee`.
    pub owned_by: String,
}

/// The body of an error on these routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAiErrorBody {
    /// The one error.
    pub error: OpenAiError,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAiError {
    /// For people.
    pub message: String,
    /// The family that OpenAI's clients sort by.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field that is wrong, where one is.
    pub param: Option<String>,
    /// For programs; the same codes as on the other routes.
    pub code: Option<String>,
    /// Figures and names behind the message; not in OpenAI's shape, and ignored by its clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl From<ErrorDetail> for OpenAiErrorBody {
    fn from(error: ErrorDetail) -> Self {
        let kind = match error.code.status() {
            401 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        let code = error.code.as_str().to_owned();
        let error = OpenAiError {
            message: error.message,
            kind: kind.to_owned(),
            param: None,
            code: Some(code),
            details: error.details,
        };
        Self { error }
    }
}

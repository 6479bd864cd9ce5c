//! Errors of all crates, as answers.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fleet::StoreError;
use hive_manager::ManagerError;
use queen_api::{ErrorBody, ErrorCode, ErrorDetail, OpenAiErrorBody};
use router::{RouteError, ScanError};

/// An error on the queen's own routes.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) ErrorDetail);

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorDetail::new(code, message))
    }
}

/// Longest time after which anybody is asked to come again, in seconds.
const AGAIN_MAX: u64 = 60;

/// After how many seconds to come again at the earliest.
const fn again_after(code: ErrorCode) -> Option<u64> {
    match code {
        ErrorCode::QueueFull | ErrorCode::QueueTimeout | ErrorCode::NoHive => Some(4),
        ErrorCode::Stopping | ErrorCode::StorageUnavailable | ErrorCode::WorkersFailing => Some(2),
        _ => None,
    }
}

/// `Retry-After`, up to half as long again as it would have to be: those who were sent away at once should not come again at
/// once.
pub(crate) fn come_again(seconds: u64) -> HeaderValue {
    let least = seconds.clamp(1, AGAIN_MAX);
    // Without random numbers all come at once, which is no worse than no header.
    let random = getrandom::u64().unwrap_or_default();
    HeaderValue::from(least + random % (least / 2 + 1))
}

fn with_head(code: ErrorCode, again: Option<Duration>, mut response: Response) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.status_mut() = status;
    if let Some(seconds) = again.map(|again| again.as_secs()).or(again_after(code)) {
        response.headers_mut().insert(header::RETRY_AFTER, come_again(seconds));
    }
    response
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = self.0.code;
        with_head(code, None, Json(ErrorBody { error: self.0 }).into_response())
    }
}

/// An error on the OpenAI routes.
#[derive(Debug)]
pub(crate) struct OpenAiFault {
    pub(crate) detail: ErrorDetail,
    /// The field that is wrong.
    pub(crate) param: Option<&'static str>,
    /// When it makes sense to come again, where that is known.
    pub(crate) again: Option<Duration>,
}

impl From<ErrorDetail> for OpenAiFault {
    fn from(detail: ErrorDetail) -> Self {
        Self { detail, param: None, again: None }
    }
}

impl IntoResponse for OpenAiFault {
    fn into_response(self) -> Response {
        let code = self.detail.code;
        let mut body = OpenAiErrorBody::from(self.detail);
        body.error.param = self.param.map(str::to_owned);
        with_head(code, self.again, Json(body).into_response())
    }
}

impl From<ScanError> for OpenAiFault {
    fn from(error: ScanError) -> Self {
        let param = match error {
            ScanError::NoModel | ScanError::TwoModels | ScanError::ModelNotText => Some("model"),
            ScanError::Syntax { .. } | ScanError::NotAnObject | ScanError::TooDeep => None,
        };
        Self { detail: ErrorDetail::new(ErrorCode::InvalidRequest, error.to_string()), param, again: None }
    }
}

impl From<RouteError> for OpenAiFault {
    fn from(error: RouteError) -> Self {
        Self { detail: error.detail(), param: None, again: error.again_after() }
    }
}

impl From<ManagerError> for ApiError {
    fn from(error: ManagerError) -> Self {
        let code = match &error {
            ManagerError::Store { source, .. } | ManagerError::Rows(source) => store_code(source),
            ManagerError::Conflict { .. } | ManagerError::Configured { .. } => ErrorCode::HiveConflict,
            ManagerError::Unknown { .. } => ErrorCode::HiveNotFound,
            ManagerError::NoWorker { .. } => ErrorCode::NotFound,
            ManagerError::Hive { .. } | ManagerError::NoLog { .. } => ErrorCode::HiveFailed,
            ManagerError::NoLauncher { .. } => ErrorCode::Unsupported,
            ManagerError::Lost { .. } => ErrorCode::Internal,
            ManagerError::Stopping => ErrorCode::Stopping,
        };
        Self::new(code, causes::with_causes(&error))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(store_code(&error), causes::with_causes(&error))
    }
}

const fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::Locked { .. } | StoreError::ReadOnly { .. } | StoreError::Closed { .. } => {
            ErrorCode::StorageUnavailable
        }
        StoreError::Full { .. } => ErrorCode::StorageFull,
        StoreError::NotFound { .. } => ErrorCode::HiveNotFound,
        StoreError::Row { .. } | StoreError::Other { .. } => ErrorCode::Internal,
    }
}

/// What a handler that panicked answers.
pub(crate) fn panicked(is_openai: bool) -> Response {
    tracing::error!("a handler panicked");
    let detail = ErrorDetail::new(ErrorCode::Internal, "the queen failed on this request; its log has more");
    if is_openai { OpenAiFault::from(detail).into_response() } else { ApiError(detail).into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_answer_in_both_shapes() {
        let show = |response: Response, body: String| {
            let again = response.headers().get(header::RETRY_AFTER).map(|v| v.to_str().unwrap().to_owned());
            let again = match again.map(|seconds| seconds.parse::<u64>().unwrap()) {
                Some(4..=6) => " retry-after: 4 to 6",
                Some(2..=3) => " retry-after: 2 to 3",
                Some(other) => panic!("come again after {other} s"),
                None => "",
            };
            format!("{}{again} {body}", response.status().as_u16())
        };
        let mut lines = Vec::new();
        for &code in ErrorCode::ALL {
            let detail = ErrorDetail::new(code, "why, and what to do");
            let own = serde_json::to_string(&ErrorBody { error: detail.clone() }).unwrap();
            let openai = serde_json::to_string(&OpenAiErrorBody::from(detail.clone())).unwrap();
            lines.push(show(ApiError(detail.clone()).into_response(), own));
            lines.push(show(OpenAiFault::from(detail).into_response(), openai));
        }
        insta::assert_snapshot!(lines.join("\n"));
    }
}

//! Failures of the parts as answers of the hive: the one place where they get their codes.

use causes::with_causes;
use hive_api::{ErrorCode, ErrorDetail};
use model_store::StoreError;

use crate::{engine::NoEngine, proxy::ProxyError, workers::NotStarted};

pub(crate) fn of_store(error: &StoreError) -> ErrorDetail {
    let code = match error {
        StoreError::NotStored { .. } | StoreError::NoFile { .. } | StoreError::NotFound { .. } => {
            ErrorCode::ModelNotFound
        }
        StoreError::Ambiguous { .. } => ErrorCode::ModelAmbiguous,
        StoreError::NotAllowed { .. } | StoreError::Pin { .. } => ErrorCode::InvalidRequest,
        StoreError::Invalid { .. } => ErrorCode::ModelInvalid,
        StoreError::InUse { .. } | StoreError::BeingDownloaded { .. } => ErrorCode::ModelInUse,
        StoreError::NotOurs { .. } => ErrorCode::ModelNotOurs,
        StoreError::Source { .. } => ErrorCode::SourceUnreachable,
        StoreError::NoBlob { .. } | StoreError::NotAwaited { .. } => ErrorCode::NotFound,
        StoreError::Range { .. } | StoreError::Offset { .. } => ErrorCode::RangeNotSatisfiable,
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            ErrorCode::StorageFull
        }
        StoreError::Io { .. } => ErrorCode::Internal,
        StoreError::Closing => ErrorCode::Draining,
    };
    let detail = ErrorDetail::new(code, with_causes(error));
    match error {
        StoreError::Ambiguous { choices, .. } => {
            detail.with_details(serde_json::json!({ "choices": choices }))
        }
        StoreError::Offset { have, .. } => detail.with_details(serde_json::json!({ "bytes": have })),
        _ => detail,
    }
}

pub(crate) fn of_engine(error: &NoEngine) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::EngineUnavailable, error.to_string())
}

pub(crate) fn of_start(error: &NotStarted) -> ErrorDetail {
    let code = match error {
        NotStarted::Stopping => ErrorCode::Draining,
        NotStarted::NoPort(_) | NotStarted::NoName(_) => ErrorCode::Internal,
    };
    ErrorDetail::new(code, with_causes(error))
}

/// `details.sent` tells whether the engine may have read the request: what was never sent may be sent elsewhere freely.
pub(crate) fn of_proxy(error: &ProxyError) -> ErrorDetail {
    let (code, sent) = match error {
        ProxyError::Upgrade | ProxyError::Path => (ErrorCode::InvalidRequest, false),
        ProxyError::NoAnswer { sent, .. } => (ErrorCode::WorkerUnreachable, *sent),
    };
    ErrorDetail::new(code, with_causes(error)).with_details(serde_json::json!({ "sent": sent }))
}

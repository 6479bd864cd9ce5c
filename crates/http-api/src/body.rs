//! Bodies in and out.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fleet::RequestId;
use futures_util::Stream;
use queen_api::{ErrorCode, ErrorDetail, REQUEST_ID_HEADER};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// A request's body as bytes, within the bound.
pub(crate) struct Raw(pub(crate) Bytes);

impl Raw {
    pub(crate) async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Self, ErrorDetail> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                ErrorDetail::new(
                    ErrorCode::BodyTooLarge,
                    "the body is longer than this queen accepts (32 MiB by default)",
                )
            }
            other => {
                ErrorDetail::new(ErrorCode::InvalidRequest, format!("the body could not be read: {other}"))
            }
        })
    }
}

/// A JSON body, whatever its content type; an empty one stands for `{}`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Raw(body) = Raw::read(request, state).await.map_err(ApiError)?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| ApiError::new(ErrorCode::InvalidRequest, format!("the body: {error}")))
    }
}

/// The request's name: the client's own if it is usable, a new one otherwise.
pub(crate) fn request_id(headers: &axum::http::HeaderMap) -> RequestId {
    let sent = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    sent.and_then(|text| text.parse().ok()).unwrap_or_else(telemetry::new_request_id)
}

/// Puts a name into a header.
pub(crate) fn name(headers: &mut axum::http::HeaderMap, header: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(header, value);
    }
}

/// An event stream that proxies and browsers do not hold back.
pub(crate) fn event_stream<S, E>(events: S) -> Response
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // What nginx calls the wish not to be buffered.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

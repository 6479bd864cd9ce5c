//! Bodies in and out.

use std::{future::ready, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use fleet::RequestId;
use futures_util::{Stream, StreamExt};
use http_body::Body as _;
use queen_api::{ErrorCode, ErrorDetail, REQUEST_ID_HEADER};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{Api, error::ApiError};

/// Longest time that is spent on the rest of a body that is refused.
const DISCARD: Duration = Duration::from_secs(2);

/// Reads a request's body, at most `bound` bytes of it.
///
/// What is too long is still read to its end, for a moment: a client that is cut off while it sends sees a broken
/// connection instead of the reason. One that asked first (`Expect: 100-continue`) is told at once.
pub(crate) async fn read(request: Request, bound: usize) -> Result<Bytes, ErrorDetail> {
    let too_long = || {
        let message =
            format!("the body is longer than the {bound} bytes that this queen accepts; see limits.body");
        ErrorDetail::new(ErrorCode::BodyTooLarge, message)
    };
    let declared = request.body().size_hint().lower();
    let asked = request.headers().contains_key(header::EXPECT);
    if asked && declared > bound as u64 {
        return Err(too_long());
    }
    let mut pieces = request.into_body().into_data_stream();
    let mut body = BytesMut::with_capacity(usize::try_from(declared).unwrap_or(bound).min(bound));
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            ErrorDetail::new(ErrorCode::InvalidRequest, format!("the body could not be read: {error}"))
        })?;
        if body.len() + piece.len() > bound {
            drop(body);
            let rest = pieces.take_while(|piece| ready(piece.is_ok())).for_each(|_| ready(()));
            let _ = timeout(DISCARD, rest).await;
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// A JSON body, whatever its content type; an empty one stands for `{}`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let body = read(request, api.parts.limits.body).await.map_err(ApiError)?;
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

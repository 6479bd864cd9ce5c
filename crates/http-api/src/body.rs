//! Bodies in and out.

use std::{future::ready, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt};
use http_body::Body as _;
use queen_api::{ErrorCode, ErrorDetail};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{Api, Limits, error::ApiError};

/// Longest time that is spent on the rest of a body that is refused.
const DISCARD: Duration = Duration::from_secs(2);

/// Most bytes of a body that are set aside because its head announces them.
const SET_ASIDE: usize = 1024 * 1024;

/// Reads a request's body, within the bounds of size and time.
///
/// What is too long is still read to its end, for a moment: a client that is cut off while it sends sees a broken
/// connection instead of the reason. One that asked first (`Expect: 100-continue`) is told at once.
pub(crate) async fn read(request: Request, limits: &Limits) -> Result<Bytes, ErrorDetail> {
    let bound = limits.body;
    let too_long = || {
        let message =
            format!("the body is longer than the {bound} bytes that this queen accepts; see limits.body");
        ErrorDetail::new(ErrorCode::BodyTooLarge, message)
    };
    let invalid = |message: String| ErrorDetail::new(ErrorCode::InvalidRequest, message);
    let declared = request.body().size_hint().lower();
    let asked = request.headers().contains_key(header::EXPECT);
    if asked && declared > bound as u64 {
        return Err(too_long());
    }
    let deadline = Instant::now() + limits.body_whole;
    let mut pieces = request.into_body().into_data_stream();
    let mut body = BytesMut::with_capacity(usize::try_from(declared).unwrap_or(bound).min(SET_ASIDE));
    loop {
        let late = deadline.min(Instant::now() + limits.body_pause);
        let piece = match timeout_at(late, pieces.next()).await {
            Err(_) => return Err(invalid("the body stopped arriving".to_owned())),
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(piece)) => {
                piece.map_err(|error| invalid(format!("the body could not be read: {error}")))?
            }
        };
        if body.len() + piece.len() > bound {
            drop(body);
            let rest = pieces.take_while(|piece| ready(piece.is_ok())).for_each(|_| ready(()));
            let _ = timeout(DISCARD, rest).await;
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
}

/// A JSON body, whatever its content type; an empty one stands for `{}`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let body = read(request, &api.parts.limits).await.map_err(ApiError)?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| ApiError::new(ErrorCode::InvalidRequest, format!("the body: {error}")))
    }
}

/// Puts a name into a header.
pub(crate) fn name(headers: &mut axum::http::HeaderMap, header: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(header, value);
    }
}

/// Keeps proxies and browsers from holding an event stream back.
pub(crate) fn unbuffered(headers: &mut axum::http::HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What nginx calls the wish not to be buffered.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

/// An event stream that proxies and browsers do not hold back.
pub(crate) fn event_stream<S, E>(events: S) -> Response
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let mut response = Body::from_stream(events).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    unbuffered(response.headers_mut());
    response
}

//! Bodies in and out.

use std::{fmt::Display, future::ready, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::FromRequest,
    http::{HeaderMap, HeaderName, HeaderValue, Request, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use fleet::{HiveId, WorkerId};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http_body_util::BodyExt as _;
use queen_api::{ATTEMPTS_HEADER, ErrorCode, ErrorDetail, HIVE_HEADER, QUEUED_HEADER, WORKER_HEADER};
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
pub(crate) async fn read<B>(request: Request<B>, limits: &Limits) -> Result<Bytes, ErrorDetail>
where
    B: http_body::Body<Data = Bytes, Error: Display> + Unpin,
{
    let bound = limits.body;
    let too_long = || {
        let message =
            format!("the body is longer than the {bound} bytes that this queen accepts; see limits.body");
        ErrorDetail::new(ErrorCode::BodyTooLarge, message)
    };
    let invalid = |message: String| ErrorDetail::new(ErrorCode::InvalidRequest, message);
    let asked = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    let declared = body.size_hint().lower();
    if asked && declared > bound as u64 {
        return Err(too_long());
    }
    let mut deadline = None;
    let mut pieces = body.into_data_stream();
    let mut body = BytesMut::new();
    loop {
        // What came with the head is there already, and costs no look at the clock.
        let next = match pieces.next().now_or_never() {
            Some(next) => next,
            None => {
                let now = Instant::now();
                let late = *deadline.get_or_insert(now + limits.body_whole);
                let next = timeout_at(late.min(now + limits.body_pause), pieces.next()).await;
                next.map_err(|_| invalid("the body stopped arriving".to_owned()))?
            }
        };
        let Some(piece) = next else { return Ok(body.freeze()) };
        let piece = piece.map_err(|error| invalid(format!("the body could not be read: {error}")))?;
        if body.len() + piece.len() > bound {
            drop(body);
            let rest = pieces.take_while(|piece| ready(piece.is_ok())).for_each(|_| ready(()));
            let _ = timeout(DISCARD, rest).await;
            return Err(too_long());
        }
        if body.is_empty() && piece.len() as u64 == declared {
            // All of it came at once, and nothing need be copied.
            return Ok(piece);
        }
        if body.is_empty() {
            body.reserve(usize::try_from(declared).unwrap_or(bound).min(SET_ASIDE));
        }
        body.extend_from_slice(&piece);
    }
}

/// A JSON body, whatever its content type; an empty one stands for `{}`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, api: &Arc<Api>) -> Result<Self, ApiError> {
        let body = read(request, &api.parts.limits).await.map_err(ApiError)?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| ApiError::new(ErrorCode::InvalidRequest, format!("the body: {error}")))
    }
}

static WORKER: HeaderName = HeaderName::from_static(WORKER_HEADER);
static HIVE: HeaderName = HeaderName::from_static(HIVE_HEADER);
static ATTEMPTS: HeaderName = HeaderName::from_static(ATTEMPTS_HEADER);
static QUEUED: HeaderName = HeaderName::from_static(QUEUED_HEADER);

/// Says in an answer's head who gives it.
pub(crate) fn names(
    headers: &mut HeaderMap,
    worker: &WorkerId,
    hive: &HiveId,
    attempts: u32,
    queued_ms: u64,
) {
    for (header, id) in [(&WORKER, worker.as_str()), (&HIVE, hive.as_str())] {
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert(header, id);
        }
    }
    headers.insert(&ATTEMPTS, attempts.into());
    headers.insert(&QUEUED, queued_ms.into());
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

/// Whole events, and a comment whenever there was none for `every`, so that nobody between takes the stream for dead.
pub(crate) fn commented(
    events: impl Stream<Item = Bytes> + Send + 'static,
    every: Duration,
    comment: &'static str,
) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold(Box::pin(events), move |mut events| async move {
        let next = timeout(every, events.next()).await;
        Some((next.unwrap_or_else(|_| Some(sse::comment(comment)))?, events))
    })
}

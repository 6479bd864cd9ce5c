//! Bodies in and out.

use std::{fmt::Display, future::ready, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::FromRequest,
    http::{HeaderMap, HeaderName, HeaderValue, Request, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
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
pub(crate) async fn read<B>(asked_first: bool, mut body: B, limits: &Limits) -> Result<Bytes, ErrorDetail>
where
    B: http_body::Body<Data = Bytes, Error: Display> + Unpin,
{
    let declared = body.size_hint().lower();
    if asked_first && declared > limits.body as u64 {
        return Err(too_long(limits.body));
    }
    // What came with the head is there already, and costs no look at the clock. Mostly that is all, and nothing is copied.
    let first = match body.frame().now_or_never() {
        Some(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        Some(Some(Err(error))) => return Err(unreadable(&error)),
        Some(None) => return Ok(Bytes::new()),
        None => Bytes::new(),
    };
    if !first.is_empty() && first.len() as u64 == declared && declared <= limits.body as u64 {
        return Ok(first);
    }
    Box::pin(read_on(first, declared, body, limits)).await
}

fn too_long(bound: usize) -> ErrorDetail {
    let message =
        format!("the body is longer than the {bound} bytes that this queen accepts; see limits.body");
    ErrorDetail::new(ErrorCode::BodyTooLarge, message)
}

fn unreadable(error: &impl Display) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::InvalidRequest, format!("the body could not be read: {error}"))
}

/// A body whose first piece is here.
async fn read_on<B>(first: Bytes, declared: u64, rest: B, limits: &Limits) -> Result<Bytes, ErrorDetail>
where
    B: http_body::Body<Data = Bytes, Error: Display> + Unpin,
{
    let bound = limits.body;
    let late = Instant::now() + limits.body_whole;
    let mut pieces = rest.into_data_stream();
    let mut body = BytesMut::with_capacity(usize::try_from(declared).unwrap_or(bound).min(SET_ASIDE));
    let mut piece = first;
    loop {
        if body.len() + piece.len() > bound {
            drop(body);
            let rest = pieces.take_while(|piece| ready(piece.is_ok())).for_each(|_| ready(()));
            let _ = timeout(DISCARD, rest).await;
            return Err(too_long(bound));
        }
        body.extend_from_slice(&piece);
        let next = match pieces.next().now_or_never() {
            Some(next) => next,
            None => {
                let next = timeout_at(late.min(Instant::now() + limits.body_pause), pieces.next()).await;
                let stopped = "the body stopped arriving".to_owned();
                next.map_err(|_| ErrorDetail::new(ErrorCode::InvalidRequest, stopped))?
            }
        };
        match next {
            Some(Ok(next)) => piece = next,
            Some(Err(error)) => return Err(unreadable(&error)),
            None => return Ok(body.freeze()),
        }
    }
}

/// A JSON body, whatever its content type; an empty one stands for `{}`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, api: &Arc<Api>) -> Result<Self, ApiError> {
        let asked_first = request.headers().contains_key(header::EXPECT);
        let body = read(asked_first, request.into_body(), &api.parts.limits).await.map_err(ApiError)?;
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

/// Says in an answer's head which worker gives it, and which hive's that is.
pub(crate) fn names(
    headers: &mut HeaderMap,
    [worker, hive]: [HeaderValue; 2],
    attempts: u32,
    queued_ms: u64,
) {
    headers.insert(&WORKER, worker);
    headers.insert(&HIVE, hive);
    headers.insert(&ATTEMPTS, number(attempts.into()));
    headers.insert(&QUEUED, number(queued_ms));
}

/// A number in a head. Mostly it is a small one, which takes no memory.
fn number(number: u64) -> HeaderValue {
    const SMALL: [&str; 3] = ["0", "1", "2"];
    let small = usize::try_from(number).ok().and_then(|number| SMALL.get(number));
    small.map_or_else(|| number.into(), |text| HeaderValue::from_static(text))
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

//! OpenAI's routes: bodies forwarded as they are, but for the model's name.

use std::{convert::Infallible, pin::Pin, sync::Arc, task, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use fleet::RequestId;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use queen_api::{ErrorCode, ErrorDetail, ModelCard, ModelsReply, OpenAiErrorBody};
use router::{
    Answer, AnswerBody, BodyError, Continuable, Job, RouteError, Router, Terms, continued, scan, with_model,
};
use tokio::time::{sleep, timeout};

use crate::{
    Api, Limits, SurfaceBody,
    body::{commented, event_stream, names, read, unbuffered},
    error::{OpenAiFault, come_again},
    terms::{may_continue, terms},
};

/// Headers of a worker's answer that go on to the client.
const PASSED: [HeaderName; 2] = [header::CONTENT_TYPE, header::RETRY_AFTER];

/// How many headers an answer in one piece has at most: what a map of the least size holds.
const HEADERS: usize = 6;

/// When to come again after a worker that had too much to do and did not say when, in seconds.
const RETRY_AFTER: u64 = 2;

/// `GET /v1/models`: everything in the catalog, running or not, and the aliases.
pub(crate) async fn models(State(api): State<Arc<Api>>) -> Result<Json<ModelsReply>, OpenAiFault> {
    let entries = api.parts.provisioner.catalog().await.map_err(|error| {
        OpenAiFault::from(ErrorDetail::new(ErrorCode::StorageUnavailable, format!("the catalog: {error}")))
    })?;
    let mut created = std::collections::BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.state == fleet::CatalogState::Complete) {
        let seconds = entry.updated_at.as_millis() / 1000;
        created
            .entry(entry.model_ref.to_string())
            .and_modify(|at: &mut i64| *at = (*at).min(seconds))
            .or_insert(seconds);
    }
    // A worker may serve what this queen's catalog does not know, on a hive that was attached.
    for worker in api.parts.registry.view().workers().filter(|w| w.record.state.is_ready()) {
        created.entry(worker.record.model_ref.to_string()).or_insert(0);
    }
    for alias in api.parts.aliases.keys() {
        created.entry(alias.clone()).or_insert(0);
    }
    let card = |(id, created)| ModelCard {
        id,
        object: "model".to_owned(),
        created,
        owned_by: "queen-rbee".to_owned(),
    };
    Ok(Json(ModelsReply { object: "list".to_owned(), data: created.into_iter().map(card).collect() }))
}

/// The worker's path for completions that are asked for at this one.
pub(crate) fn completion(path: &str) -> Option<&'static str> {
    ["/v1/chat/completions", "/v1/completions"].into_iter().find(|known| *known == path)
}

/// Answers a completion, unless its head already says that it cannot be.
pub(crate) fn forward(
    api: Arc<Api>,
    path: &'static str,
    id: RequestId,
    request: Request<Incoming>,
) -> Result<impl Future<Output = Response<SurfaceBody>> + Send, OpenAiFault> {
    api.refuse_when_stopping()?;
    let headers = request.headers();
    let asked = Asked {
        terms: terms(headers)?,
        may_continue: may_continue(headers)?,
        asks_first: headers.contains_key(header::EXPECT),
        path,
        id,
    };
    let answer = forwarded(api, asked, request.into_body());
    Ok(answer.map(|answer| answer.unwrap_or_else(|fault| fault.into_response().map(SurfaceBody::Other))))
}

/// What the head of a completion says.
struct Asked {
    id: RequestId,
    path: &'static str,
    terms: Terms,
    may_continue: Option<bool>,
    asks_first: bool,
}

async fn forwarded(
    api: Arc<Api>,
    asked: Asked,
    body: Incoming,
) -> Result<Response<SurfaceBody>, OpenAiFault> {
    let body = read(asked.asks_first, body, &api.parts.limits).await?;
    let (job, successor) = read_job(&api, asked, body)?;
    let Limits { early_head, comment_every, .. } = api.parts.limits;
    if !job.stream {
        return Ok(relay(api.parts.router.route(&job, |_| {}).await?, None, comment_every));
    }
    let router = Arc::clone(&api.parts.router);
    let mut routed: Routed = Box::pin(async move { router.route(&job, |_| {}).await });
    match timeout(early_head, &mut routed).await {
        Ok(answer) => Ok(relay(answer?, successor, comment_every)),
        // A cold start outlasts the patience of clients and of proxies between: the head goes out, and comments follow.
        Err(_) => {
            let late = late(routed, successor, comment_every);
            Ok(event_stream(late).map(SurfaceBody::Other))
        }
    }
}

/// What a request asks, and what it takes to go on with its answer on another worker, where that is wanted.
fn read_job(api: &Api, asked: Asked, body: Bytes) -> Result<(Job, Option<Box<Successor>>), OpenAiFault> {
    let Asked { id, path, terms, may_continue, .. } = asked;
    let scanned = scan(&body)?;
    let model =
        api.model(&scanned.model).map_err(|detail| OpenAiFault { param: Some("model"), ..detail.into() })?;
    let body = with_model(body, &scanned, &model);
    let stream = scanned.stream;
    let wanted = stream && may_continue.unwrap_or(scanned.greedy);
    let continuable = if wanted { Continuable::of(path, body.clone()).map(Arc::new) } else { None };
    let body = continuable.clone().map_or_else(|| body.into(), Into::into);
    let (prompt, max_tokens) = (scanned.prompt, scanned.max_tokens);
    let job = Job { request_id: id, model, path, body, stream, prompt, max_tokens, terms };
    let successor = continuable.map(|request| {
        Box::new(Successor { router: Arc::clone(&api.parts.router), job: job.clone(), request })
    });
    Ok((job, successor))
}

type Routed = Pin<Box<dyn Future<Output = Result<Answer, RouteError>> + Send>>;

/// What it takes to have another worker go on with an answer.
struct Successor {
    router: Arc<Router>,
    job: Job,
    request: Arc<Continuable>,
}

/// The worker's answer, from its head on.
fn relay(
    answer: Answer,
    successor: Option<Box<Successor>>,
    comment_every: Duration,
) -> Response<SurfaceBody> {
    let events = answer.body.is_event_stream();
    let mut headers = HeaderMap::with_capacity(if events { 2 * HEADERS } else { HEADERS });
    for passed in PASSED {
        if let Some(value) = answer.headers.get(&passed) {
            headers.insert(passed, value.clone());
        }
    }
    if events {
        unbuffered(&mut headers);
    }
    let status = answer.status;
    let busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if busy && !headers.contains_key(header::RETRY_AFTER) {
        headers.insert(header::RETRY_AFTER, come_again(RETRY_AFTER));
    }
    let queued = u64::try_from(answer.queued.as_millis()).unwrap_or(u64::MAX);
    names(&mut headers, answer.names(), answer.attempts, queued);
    let mut response = Response::new(body(answer, successor, comment_every));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The bytes of an answer, from one worker or, with a successor, from as many as it takes.
fn body(answer: Answer, successor: Option<Box<Successor>>, comment_every: Duration) -> SurfaceBody {
    match successor {
        Some(successor) if answer.status.is_success() && answer.body.is_event_stream() => {
            let Successor { router, job, request } = *successor;
            let pieces = continued(router, job, request, answer);
            let told = pieces.map(|piece| piece.unwrap_or_else(error_event));
            // Finding another worker in the midst of it may take long, too.
            let told = commented(told, comment_every, "waiting for a worker");
            SurfaceBody::Other(Body::from_stream(told.map(Ok::<_, Infallible>)))
        }
        _ => SurfaceBody::Answer(ClientBody { inner: answer.body, ended: false, open_line: false }),
    }
}

/// A stream whose head is out before its worker was found.
fn late(
    routed: Routed,
    mut successor: Option<Box<Successor>>,
    comment_every: Duration,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    let waiting = stream::unfold(Some(routed), move |routed| async move {
        let mut routed = routed?;
        tokio::select! {
            answer = &mut routed => Some((Late::Answer(Box::new(answer)), None)),
            () = sleep(comment_every) => Some((Late::Comment, Some(routed))),
        }
    });
    waiting.flat_map(move |late| match late {
        Late::Comment => stream::once(async { Ok(sse::comment("waiting for a worker")) }).boxed(),
        Late::Answer(answer) => match *answer {
            Err(error) => stream::once(async move { Ok(error_event(error.detail())) }).boxed(),
            // The status is out already, so a worker's refusal has to become an event.
            Ok(answer) if !answer.status.is_success() => {
                stream::once(async move { Ok(error_event(answer.refusal().await)) }).boxed()
            }
            Ok(answer) => Body::new(body(answer, successor.take(), comment_every))
                .into_data_stream()
                .map(|piece| Ok(piece.unwrap_or_default()))
                .boxed(),
        },
    })
}

enum Late {
    Comment,
    Answer(Box<Result<Answer, RouteError>>),
}

fn error_event(detail: ErrorDetail) -> Bytes {
    let body = OpenAiErrorBody::from(detail);
    let json = serde_json::to_string(&body).unwrap_or_else(|_| unreachable!("strings and numbers only"));
    sse::data(&json)
}

/// The answer as the client gets it: an event stream that failed says so in an event of its own, any other answer that
/// failed is cut off, which HTTP makes visible.
pub struct ClientBody {
    inner: Box<AnswerBody>,
    ended: bool,
    /// Whether the last byte sent was in the middle of an event.
    open_line: bool,
}

impl http_body::Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return task::Poll::Ready(None);
        }
        let polled = task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        task::Poll::Ready(match polled {
            Some(Err(error)) => {
                self.ended = true;
                if !self.inner.is_event_stream() {
                    return task::Poll::Ready(Some(Err(error)));
                }
                let event = error_event(error.detail());
                // Half an event of the worker must not swallow this one.
                let separator: &[u8] = if self.open_line { b"\n\n" } else { b"" };
                Some(Ok(Frame::data([separator, &event].concat().into())))
            }
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_ref() {
                    self.open_line = !piece.ends_with(b"\n\n");
                }
                Some(Ok(frame))
            }
            None => {
                self.ended = true;
                None
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

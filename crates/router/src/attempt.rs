//! Sending a request to one worker, up to the first byte of its answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use fleet::EventKind;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use http_client::{Exchange, Open, Pool, Received};
use journal::Journal;
use registry_ram::{WorkerRegistry, WorkerView};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    Job, Settings,
    answer::BodyParts,
    backend::{Backend, REQUEST_ID, Way},
    desk::Slot,
};

pub(crate) type Client = Pool<Outgoing>;

/// What a worker sends.
pub(crate) type Incoming = Received<Outgoing>;

const EVENT_STREAM: &[u8] = b"text/event-stream";

static WORKER: HeaderName = HeaderName::from_static(hive_api::WORKER_HEADER);

/// How one worker failed to answer. What a worker says may repeat the prompt, so it is for the client and never logged.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not a byte of the request reached it.
    NotSent(String),
    /// Its hive has no such worker, whatever it reported.
    Unknown(String),
    /// It has too much to do.
    Busy(Box<Opened>),
    /// It answered with an error, or with what is no answer.
    Failed {
        /// The kind of answer.
        what: String,
        /// The answer's own words.
        said: Option<String>,
    },
    /// It ended after the request was sent.
    Died(String),
    /// The connection to its hive broke before anything came back, which tells nothing of the worker.
    Lost(String),
    /// It sent nothing for too long.
    Silent(Duration),
}

impl Failure {
    fn answered(what: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), said: None }
    }

    /// Without what a worker said.
    pub(crate) fn for_the_log(&self) -> String {
        match self {
            Self::NotSent(reason) | Self::Unknown(reason) | Self::Lost(reason) | Self::Died(reason) => {
                reason.clone()
            }
            Self::Busy(opened) => format!("it answered {}", opened.head.status),
            Self::Failed { what, .. } => what.clone(),
            Self::Silent(waited) => format!("it sent nothing for {} s", waited.as_secs()),
        }
    }
}

/// An answer whose first byte is here, without the request's own guards.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) head: http::response::Parts,
    pub(crate) body: BodyParts,
}

impl std::fmt::Debug for BodyParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyParts")
            .field("worker", &self.backend.worker.record.worker_id)
            .finish_non_exhaustive()
    }
}

/// How many workers one request was sent to. Counted where the request leaves, so that it is right whenever the client
/// leaves, too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts(Arc<AtomicU32>);

impl Attempts {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// The hive says that no worker saw the last one.
    fn take_back(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
}

/// A request's body, which counts as sent once it is asked for: only a connection that is there asks.
pub(crate) struct Outgoing {
    body: Full<Bytes>,
    sent: Option<Sent>,
}

/// What is noted when a request is sent.
struct Sent {
    attempts: Attempts,
    journal: Journal,
    event: EventKind,
}

impl Sent {
    fn note(self) {
        let number = self.attempts.0.fetch_add(1, Ordering::Relaxed) + 1;
        let mut event = self.event;
        if let EventKind::Attempt { attempt, .. } = &mut event {
            *attempt = number;
        }
        self.journal.record(event);
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(sent) = self.sent.take() {
            sent.note();
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.sent.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What one attempt needs.
pub(crate) struct Target<'a> {
    pub(crate) client: &'a Client,
    pub(crate) registry: &'a WorkerRegistry,
    /// How long it may send nothing before the first byte, without any progress.
    pub(crate) first_byte: Duration,
    pub(crate) journal: &'a Journal,
    pub(crate) attempts: &'a Attempts,
    /// Cancelled when no more time is given.
    pub(crate) cut: &'a CancellationToken,
    pub(crate) backend: &'a Backend,
    pub(crate) way: &'a Way,
    /// What it is sent.
    pub(crate) body: Bytes,
}

/// The body, which notes when it is sent.
fn outgoing(target: &Target<'_>, job: &Job) -> Outgoing {
    let WorkerView { hive_id, record, .. } = &*target.backend.worker;
    let event = EventKind::Attempt {
        request_id: job.request_id.clone(),
        hive_id: hive_id.clone(),
        launch_id: record.launch_id.clone(),
        worker_id: record.worker_id.clone(),
        attempt: 0,
    };
    let sent = Sent { attempts: target.attempts.clone(), journal: target.journal.clone(), event };
    Outgoing { body: Full::new(target.body.clone()), sent: Some(sent) }
}

/// The answer's head, its body, and the first piece of that.
pub(crate) type Exchanged = (http::response::Parts, Incoming, Option<Bytes>);

/// The answer to a request, with the slot that it has.
pub(crate) fn opened(
    settings: &Settings,
    backend: Arc<Backend>,
    slot: Slot,
    (head, incoming, first): Exchanged,
) -> Result<Opened, Failure> {
    let busy = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let events = is_event_stream(&head);
    if events {
        slot.first_piece();
    } else if !busy {
        slot.answered();
    }
    let Settings { inter_token, event_max, .. } = *settings;
    let body = BodyParts { incoming, first, slot, backend, inter_token, event_max, events };
    let opened = Opened { head, body };
    if busy { Err(Failure::Busy(Box::new(opened))) } else { Ok(opened) }
}

fn sent(open: Open<Outgoing>, target: &Target<'_>, job: &Job) -> Result<Exchange<Outgoing>, Failure> {
    let preface = target.way.preface(job.path);
    let preface = preface.ok_or_else(|| Failure::NotSent(format!("{} is no path", job.path)))?;
    let id = HeaderValue::from_str(job.request_id.as_str());
    let id = id.map_err(|_| Failure::NotSent("its name cannot stand in a head".to_owned()))?;
    Ok(open.send(&preface, Some((&REQUEST_ID, &id)), outgoing(target, job)))
}

/// Sends the request and waits for the first byte of the answer.
pub(crate) async fn exchange(target: &Target<'_>, job: &Job) -> Result<Exchanged, Failure> {
    let before = target.attempts.count();
    let unanswered = |error| {
        let reason = http_client::wrong_certificate(&error)
            .map_or_else(|| causes::with_causes(&error), |e| e.to_string());
        if target.attempts.count() > before { Failure::Lost(reason) } else { Failure::NotSent(reason) }
    };
    let first = async {
        let open = target.client.open(&target.way.peer).await.map_err(unanswered)?;
        let (head, mut body) = sent(open, target, job)?.await.map_err(unanswered)?.into_parts();
        // What seldom happens is not given room in every request.
        match judged(target, job, &head) {
            Ok(()) => {}
            Err(Unfit::OfTheHive) => return Err(Box::pin(of_the_hive(target, head.status, body)).await),
            Err(Unfit::Error(what)) => {
                return Err(Failure::Failed { what, said: Some(Box::pin(excerpt(body)).await) });
            }
            Err(Unfit::NoAnswer(what)) => return Err(Failure::answered(what)),
        }
        let first = first_piece(&head, &mut body).await?;
        Ok((head, body, first))
    };
    tokio::select! {
        biased;
        first = first => first,
        () = target.cut.cancelled() => Err(Failure::Lost("the queen stops".to_owned())),
        () = target.backend.lost.cancelled() => Err(Failure::Lost("its hive stopped answering".to_owned())),
        waited = silent(target.registry, target.first_byte, &target.backend.worker) => Err(Failure::Silent(waited)),
    }
}

fn is_event_stream(head: &http::response::Parts) -> bool {
    head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(EVENT_STREAM))
}

/// Why something is no answer to a request.
enum Unfit {
    /// Its hive says something instead of the worker.
    OfTheHive,
    /// The worker says that it failed.
    Error(String),
    /// Anything else.
    NoAnswer(String),
}

/// Lets through what can be an answer of this worker to this request.
fn judged(target: &Target<'_>, job: &Job, head: &http::response::Parts) -> Result<(), Unfit> {
    let status = head.status;
    let from = head.headers.get(&WORKER).ok_or(Unfit::OfTheHive)?.as_bytes();
    if from != target.backend.worker.record.worker_id.as_str().as_bytes() {
        return Err(Unfit::NoAnswer("another worker answered in its place".to_owned()));
    }
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        return Err(Unfit::Error(format!("it answered {status}")));
    }
    if status.is_redirection() {
        return Err(Unfit::NoAnswer(format!("it answered {status}, which is no answer to a completion")));
    }
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b"no content type"[..], HeaderValue::as_bytes);
    let expected = if job.stream { EVENT_STREAM } else { b"application/json" };
    if status.is_success() && !kind.starts_with(expected) {
        let kind = String::from_utf8_lossy(kind).escape_default().to_string();
        return Err(Unfit::NoAnswer(format!("it answered with {kind}")));
    }
    Ok(())
}

/// The hive itself answered: the worker is gone or going, or the hive is in another launch.
async fn of_the_hive(target: &Target<'_>, status: StatusCode, body: Incoming) -> Failure {
    if status.is_success() {
        return Failure::answered(format!("its hive answered {status} without saying for which worker"));
    }
    let text = beginning(body).await;
    let Ok(hive_api::ErrorBody { error }) = serde_json::from_slice(&text) else {
        return Failure::answered(format!("its hive answered {status}"));
    };
    let reason = format!("its hive answered {status}: {}", error.message);
    let unsent = error.details.as_ref().and_then(|d| d.get("sent")).is_some_and(|sent| sent == false);
    use hive_api::ErrorCode as C;
    match error.code {
        C::WorkerUnreachable if !unsent => Failure::Died(reason),
        C::WorkerUnreachable | C::WorkerNotReady | C::StaleLaunch | C::Draining => {
            target.attempts.take_back();
            Failure::NotSent(reason)
        }
        C::NotFound => {
            target.attempts.take_back();
            Failure::Unknown(reason)
        }
        _ => Failure::answered(reason),
    }
}

/// The first byte of the answer's body. A refusal may have none.
async fn first_piece(head: &http::response::Parts, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data()
                    && !piece.is_empty()
                {
                    return Ok(Some(piece));
                }
            }
            Some(Err(error)) => return Err(Failure::Died(causes::with_causes(&error))),
            None if head.status.is_success() => {
                return Err(Failure::answered("it ended its answer before the first byte"));
            }
            None => return Ok(None),
        }
    }
}

/// Ends when the worker has shown no sign of life for `bound`. A long prefill moves its token counts, and is life.
async fn silent(registry: &WorkerRegistry, bound: Duration, worker: &WorkerView) -> Duration {
    let progress = || {
        let view = registry.view();
        let record = &view.hive(&worker.hive_id)?.workers.get(&worker.record.worker_id)?.record;
        Some((record.prompt_tokens_total, record.output_tokens_total))
    };
    let mut last = progress();
    let mut deadline = Instant::now() + bound;
    loop {
        sleep_until(deadline).await;
        let now = progress();
        if now == last || planted::bug("deaf-to-progress") {
            return bound;
        }
        last = now;
        deadline = Instant::now() + bound;
    }
}

/// The beginning of an error's body, for a message. Never of a success: that would be an answer.
pub(crate) async fn excerpt<B>(body: B) -> String
where
    B: Body<Data = Bytes> + Unpin,
{
    let text = beginning(body).await;
    message(&text).unwrap_or_else(|| String::from_utf8_lossy(&text).escape_debug().to_string())
}

async fn beginning<B>(mut body: B) -> Vec<u8>
where
    B: Body<Data = Bytes> + Unpin,
{
    const MOST: usize = 4096;
    let mut text = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        if let Ok(piece) = frame.into_data() {
            text.extend_from_slice(&piece[..piece.len().min(MOST - text.len())]);
        }
        if text.len() == MOST {
            break;
        }
    }
    text
}

/// `error.message` of the common error shapes.
fn message(text: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let error = value.get("error")?;
    error.get("message").or(Some(error))?.as_str().map(str::to_owned)
}

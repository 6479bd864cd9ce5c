//! A worker's answer on its way to the client.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use fleet::{EventKind, HiveId, RequestId, RequestOutcome, WorkerId};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use journal::Journal;
use registry_ram::Lease;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Longest end of an event stream that is kept to see whether it was terminated.
const TAIL: usize = 32;

/// An answer whose first byte is here.
#[derive(Debug)]
pub struct Answer {
    /// The worker that gives it.
    pub worker_id: WorkerId,
    /// The worker's hive.
    pub hive_id: HiveId,
    /// How many workers were sent the request.
    pub attempts: u32,
    /// The worker's status.
    pub status: StatusCode,
    /// The worker's headers, as far as its hive let them through.
    pub headers: HeaderMap,
    /// The rest. Dropping it cancels the generation.
    pub body: AnswerBody,
}

/// Why an answer ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BodyError {
    /// The worker's hive stopped answering.
    #[error("hive {0} stopped answering in the middle of the answer")]
    HiveLost(HiveId),
    /// The connection broke.
    #[error("worker {worker_id} on hive {hive_id} broke off in the middle of the answer")]
    Broke {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
    },
    /// The stream ended without its terminator.
    #[error("the answer of worker {worker_id} on hive {hive_id} ended without its terminator")]
    Truncated {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
    },
    /// Nothing came for too long.
    #[error("worker {worker_id} on hive {hive_id} sent nothing for {} s in the middle of the answer", idle.as_secs())]
    Silent {
        /// The worker.
        worker_id: WorkerId,
        /// Its hive.
        hive_id: HiveId,
        /// How long it was waited for.
        idle: Duration,
    },
}

/// Tells the journal how a request ended: as it was told, or cancelled if nobody said anything.
#[derive(Debug)]
pub(crate) struct Ending {
    journal: Journal,
    request_id: RequestId,
    model: String,
    outcome: RequestOutcome,
    pub(crate) attempts: u32,
    code: Option<String>,
}

impl Ending {
    pub(crate) fn new(journal: Journal, request_id: RequestId, model: String) -> Self {
        Self { journal, request_id, model, outcome: RequestOutcome::Cancelled, attempts: 0, code: None }
    }

    pub(crate) fn completed(&mut self) {
        self.outcome = RequestOutcome::Completed;
    }

    pub(crate) fn failed(&mut self, code: impl Into<String>) {
        self.outcome = RequestOutcome::Failed;
        self.code = Some(code.into());
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.journal.record(EventKind::RequestEnded {
            request_id: self.request_id.clone(),
            model: std::mem::take(&mut self.model),
            outcome: self.outcome,
            attempts: self.attempts,
            code: self.code.take(),
        });
    }
}

/// What an answer's body is made of.
pub(crate) struct BodyParts {
    pub(crate) incoming: Incoming,
    pub(crate) first: Option<Bytes>,
    /// Held until the body is dropped.
    #[expect(dead_code, reason = "a guard: what matters is when it is dropped")]
    pub(crate) lease: Lease,
    pub(crate) lost: Pin<Box<WaitForCancellationFutureOwned>>,
    pub(crate) worker_id: WorkerId,
    pub(crate) hive_id: HiveId,
    pub(crate) inter_token: Duration,
    /// Whether the answer is an event stream, which has a terminator.
    pub(crate) events: bool,
}

/// The bytes of one answer, as the worker sends them.
///
/// ```text
/// open ──▶ complete      the worker ended it, an event stream with its terminator
///   ├────▶ failed        it broke, fell silent, was truncated, or its hive was lost
///   └────▶ cancelled     dropped before either
/// ```
pub struct AnswerBody {
    parts: BodyParts,
    idle: Pin<Box<Sleep>>,
    last: Instant,
    tail: Vec<u8>,
    ending: Option<Ending>,
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").field("worker_id", &self.parts.worker_id).finish_non_exhaustive()
    }
}

impl AnswerBody {
    pub(crate) fn new(parts: BodyParts, ending: Ending) -> Self {
        let last = Instant::now();
        let idle = Box::pin(sleep_until(last + parts.inter_token));
        Self { parts, idle, last, tail: Vec::new(), ending: Some(ending) }
    }

    /// Whether the answer is an event stream.
    #[must_use]
    pub const fn is_event_stream(&self) -> bool {
        self.parts.events
    }

    fn seen(&mut self, piece: Bytes) -> Frame<Bytes> {
        self.last = Instant::now();
        if self.parts.events {
            let keep = piece.len().min(TAIL);
            self.tail.extend_from_slice(&piece[piece.len() - keep..]);
            let surplus = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..surplus);
        }
        Frame::data(piece)
    }

    fn is_terminated(&self) -> bool {
        !self.parts.events || self.tail.trim_ascii_end().ends_with(b"[DONE]")
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(mut ending) = self.ending.take() {
            ending.failed("stream_broken");
        }
        Poll::Ready(Some(Err(error)))
    }

    fn names(&self) -> (WorkerId, HiveId) {
        (self.parts.worker_id.clone(), self.parts.hive_id.clone())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ending.is_none() {
            return Poll::Ready(None);
        }
        if let Some(first) = self.parts.first.take() {
            return Poll::Ready(Some(Ok(self.seen(first))));
        }
        loop {
            match Pin::new(&mut self.parts.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers mean nothing to the client of a completion.
                    if let Ok(piece) = frame.into_data() {
                        return Poll::Ready(Some(Ok(self.seen(piece))));
                    }
                }
                Poll::Ready(None) if self.is_terminated() => {
                    if let Some(mut ending) = self.ending.take() {
                        ending.completed();
                    }
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => {
                    let (worker_id, hive_id) = self.names();
                    return self.fail(BodyError::Truncated { worker_id, hive_id });
                }
                Poll::Ready(Some(Err(_))) => {
                    let (worker_id, hive_id) = self.names();
                    return self.fail(BodyError::Broke { worker_id, hive_id });
                }
                Poll::Pending => break,
            }
        }
        if self.parts.lost.as_mut().poll(cx).is_ready() {
            let (_, hive_id) = self.names();
            return self.fail(BodyError::HiveLost(hive_id));
        }
        loop {
            ready!(self.idle.as_mut().poll(cx));
            // The timer is set anew only when it fires, not with every token.
            let due = self.last + self.parts.inter_token;
            if due <= Instant::now() {
                let (worker_id, hive_id) = self.names();
                let idle = self.parts.inter_token;
                return self.fail(BodyError::Silent { worker_id, hive_id, idle });
            }
            self.idle.as_mut().reset(due);
        }
    }
}

//! A worker's answer on its way to the client.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bell::Bell;
use bytes::Bytes;
use fleet::{Digest, HiveId, WorkerId};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::{Body, Frame, SizeHint};
use queen_api::{ErrorCode, ErrorDetail};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use called::Called;

use crate::{
    MAX_ATTEMPTS,
    attempt::{Incoming, excerpt},
    backend::Backend,
    desk::Slot,
    ending::Ending,
    engine::RunningCount,
    terminator::Terminator,
    usage::Tail,
};

pub(crate) mod called;
mod fault;

pub use fault::BodyError;

/// Longest answer that is no event stream, in bytes.
const ANSWER_MAX: u64 = 256 * 1024 * 1024;

/// How long a worker may take to end its body behind the terminator.
const LINGER: Duration = Duration::from_secs(1);

/// An answer whose first byte is here.
#[derive(Debug)]
pub struct Answer {
    /// How many workers were sent the request.
    pub attempts: u32,
    /// From the request's arrival until this worker was found for it.
    pub queued: Duration,
    /// The worker's status.
    pub status: StatusCode,
    /// The worker's headers, as far as its hive let them through.
    pub headers: HeaderMap,
    /// The rest. Dropping it cancels the generation.
    pub body: Box<AnswerBody>,
}

impl Answer {
    /// The worker that gives it.
    #[must_use]
    pub fn worker_id(&self) -> &WorkerId {
        self.body.parts.worker_id()
    }

    /// The worker's hive.
    #[must_use]
    pub fn hive_id(&self) -> &HiveId {
        self.body.parts.hive_id()
    }

    /// The names of both, for the head of what the client gets.
    #[must_use]
    pub fn names(&self) -> [HeaderValue; 2] {
        self.body.parts.backend.names.clone()
    }

    /// For an answer without success: what the client is told where the worker's own words cannot go on as they are.
    pub async fn refusal(self) -> ErrorDetail {
        let (worker_id, hive_id) = self.body.names();
        let Self { status, body, .. } = self;
        let text = excerpt(body).await;
        ErrorDetail::new(
            refusal_code(status),
            format!("worker {worker_id} on hive {hive_id} answered {status}: {text}"),
        )
    }
}

/// The code that stands for a worker's status other than success.
pub(crate) fn refusal_code(status: StatusCode) -> ErrorCode {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => ErrorCode::QueueFull,
        status if status.is_client_error() => ErrorCode::InvalidRequest,
        _ => ErrorCode::WorkerFailed,
    }
}

/// What an answer's body is made of.
pub(crate) struct BodyParts {
    pub(crate) incoming: Incoming,
    pub(crate) first: Option<Bytes>,
    /// Held until the body is dropped.
    pub(crate) slot: Slot,
    /// The worker.
    pub(crate) backend: Arc<Backend>,
    pub(crate) inter_token: Duration,
    pub(crate) event_max: usize,
    /// Whether the answer is an event stream, which has a terminator.
    pub(crate) events: bool,
}

impl BodyParts {
    fn worker_id(&self) -> &WorkerId {
        &self.backend.worker.record.worker_id
    }

    fn hive_id(&self) -> &HiveId {
        &self.backend.worker.hive_id
    }

    /// The model's file, where its hive knows that.
    fn digest(&self) -> Option<Digest> {
        self.backend.worker.record.digest
    }
}

/// A request whose answer broke off behind the first byte.
pub(crate) struct Broken {
    /// Whether its connection ended: as far as anybody can know, the worker is dead.
    pub(crate) is_dead: bool,
    pub(crate) reason: String,
    pub(crate) hive_id: HiveId,
    pub(crate) worker_id: WorkerId,
    pub(crate) digest: Digest,
    pub(crate) ending: Ending,
}

/// The bytes of one answer, as the worker sends them.
///
/// ```text
/// open ──▶ complete      the worker ended it, an event stream with its terminator
///   ├────▶ failed        it broke, fell silent, was truncated, its hive was lost, no time was left; or it said that it failed
///   └────▶ cancelled     dropped before either
/// ```
pub struct AnswerBody {
    parts: BodyParts,
    /// Whether there may be another piece at once: one was there.
    more: bool,
    /// Rings when there may be another piece. Like the other one it is there once something is waited for.
    pieces: Option<Bell>,
    /// Rings when the hive is lost, no more time is given or nothing came for long.
    troubles: Option<Bell>,
    /// Called when the hive stops answering.
    lost: Called,
    /// Called when no more time is given.
    cut: (CancellationToken, Called),
    /// Runs once something had to be waited for.
    idle: Option<Pin<Box<Sleep>>>,
    /// Since when nothing came; none while there is something.
    silent: Option<Instant>,
    terminator: Terminator,
    /// The end of an answer that is no event stream.
    tail: Tail,
    bytes: u64,
    ended: bool,
    ending: Ending,
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").field("worker_id", self.parts.worker_id()).finish_non_exhaustive()
    }
}

impl AnswerBody {
    pub(crate) fn new(parts: BodyParts, ending: Ending, cut: CancellationToken) -> Self {
        let (lost, cut) = (Called::default(), (cut, Called::default()));
        let (silent, idle) = (None, None);
        let terminator = Terminator::new(parts.event_max);
        let tail = Tail::default();
        let (pieces, troubles, more) = (None, None, true);
        let (bytes, ended) = (0, false);
        Self {
            parts,
            more,
            pieces,
            troubles,
            lost,
            cut,
            idle,
            silent,
            terminator,
            tail,
            bytes,
            ended,
            ending,
        }
    }

    /// Whether the answer is an event stream.
    #[must_use]
    pub const fn is_event_stream(&self) -> bool {
        self.parts.events
    }

    /// Longest event that is let through, in bytes.
    pub(crate) const fn event_max(&self) -> usize {
        self.terminator.line_max()
    }

    /// Whether the worker's stream itself told of a failure; its reader needs no second telling.
    #[must_use]
    pub const fn told_failure(&self) -> bool {
        self.terminator.has_failed()
    }

    /// Whether somebody else may go on with the answer that broke off like this. What is beyond all reason, or was cut off
    /// by ourselves, is not gone on with; neither is what no other worker can be known to have the same file for.
    pub(crate) fn may_be_followed(&self, error: &BodyError) -> bool {
        let is_loss = match error {
            BodyError::HiveLost(_)
            | BodyError::Broke { .. }
            | BodyError::Truncated { .. }
            | BodyError::Silent { .. } => true,
            BodyError::Stopping { .. } | BodyError::Overlong { .. } => false,
        };
        is_loss && self.parts.digest().is_some() && self.ending.attempts().count() < MAX_ATTEMPTS
    }

    /// The request without its worker, if somebody else may go on.
    pub(crate) fn broken(self, error: &BodyError) -> Option<Broken> {
        let may_go_on = self.may_be_followed(error);
        let (worker_id, hive_id) = self.names();
        let digest = self.parts.digest().filter(|_| may_go_on)?;
        let is_dead = matches!(error, BodyError::HiveLost(_) | BodyError::Broke { .. });
        let reason = error.to_string();
        Some(Broken { is_dead, reason, hive_id, worker_id, digest, ending: self.ending.reopened() })
    }

    /// How the engine counts tokens while it answers, if it can.
    pub(crate) fn count(&self) -> Option<RunningCount> {
        self.parts.backend.skills.count
    }

    /// For an answer that broke off behind its end: nothing is missing that the client would have got.
    pub(crate) fn complete_after_all(self) {
        self.ending.reopened().completed();
    }

    /// Notes for the journal that the client has the whole answer, whatever the worker would still have sent.
    pub(crate) fn complete(&mut self) {
        self.ending.completed();
    }

    /// Notes for the journal that the client is told of a failure, which is the worker's.
    pub(crate) fn failed(&mut self, code: ErrorCode) {
        self.parts.slot.failed();
        self.ending.failed(code);
    }

    fn is_done(&self) -> bool {
        self.parts.events && self.terminator.is_done()
    }

    /// How long nothing may come. Behind the terminator only the end of the body is missing, which a worker may keep.
    fn patience(&self) -> Duration {
        if self.is_done() { LINGER.min(self.parts.inter_token) } else { self.parts.inter_token }
    }

    fn seen(&mut self, piece: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.silent = None;
        self.bytes += piece.len() as u64;
        if !self.parts.events {
            self.tail.take(&piece);
            if self.parts.incoming.is_end_stream() {
                // Whoever knows the length does not ask for more than that.
                self.completed();
            }
        }
        let too_long = if self.parts.events {
            let taken = self.terminator.take(&piece);
            if self.terminator.is_done() {
                // What is missing now is waited for in another way.
                self.idle = None;
            }
            taken.is_err()
        } else {
            self.bytes > ANSWER_MAX
        };
        if too_long {
            let (worker_id, hive_id) = self.names();
            return self.fail(BodyError::Overlong { worker_id, hive_id });
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// The worker ended its answer, or will send nothing more that matters.
    fn end(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ended = true;
        if self.told_failure() {
            self.parts.slot.failed();
            self.ending.failed(ErrorCode::WorkerFailed);
        } else {
            self.completed();
        }
        Poll::Ready(None)
    }

    fn completed(&mut self) {
        self.ending.completed();
        let usage = self.tail.usage();
        let tokens = if self.parts.events { Some(self.terminator.events()) } else { usage.completion_tokens };
        self.parts.slot.complete(usage.prompt_tokens, tokens);
    }

    /// What is missing was lost. Nothing is, if the terminator was sent or the worker told its failure.
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let overlong = matches!(error, BodyError::Overlong { .. });
        if !overlong && (self.is_done() || self.told_failure()) {
            return self.end();
        }
        self.ended = true;
        match error {
            BodyError::Silent { .. } => self.parts.slot.silent(),
            BodyError::Stopping { .. } => {}
            _ => self.parts.slot.failed(),
        }
        self.ending.failed(error.code());
        Poll::Ready(Some(Err(error)))
    }

    /// The next piece of the answer, or how it ends, if that is known.
    fn next_piece(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let cx = &mut Context::from_waker(self.pieces.get_or_insert_default().waker());
        let end = loop {
            match ready!(Pin::new(&mut self.parts.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers mean nothing to the client of a completion.
                    if let Ok(piece) = frame.into_data() {
                        return self.seen(piece);
                    }
                }
                end => break end,
            }
        };
        let (worker_id, hive_id) = self.names();
        match end {
            Some(_) => self.fail(BodyError::Broke { worker_id, hive_id }),
            None if !self.parts.events || planted::bug("silent-truncation") => self.end(),
            None => self.fail(BodyError::Truncated { worker_id, hive_id }),
        }
    }

    /// Why nothing more is waited for, if so.
    fn trouble(&mut self, silent: Instant) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let patience = self.patience();
        let cx = &mut Context::from_waker(self.troubles.get_or_insert_default().waker());
        if self.lost.poll(&self.parts.backend.lost, cx).is_ready() {
            let (_, hive_id) = self.names();
            return self.fail(BodyError::HiveLost(hive_id));
        }
        let (cut, called) = &mut self.cut;
        if called.poll(cut, cx).is_ready() {
            let (worker_id, hive_id) = self.names();
            return self.fail(BodyError::Stopping { worker_id, hive_id });
        }
        loop {
            let due = silent + patience;
            let idle = self.idle.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(idle.as_mut().poll(cx));
            // The timer is set anew only when it fires, not with every token.
            if due <= Instant::now() {
                let (worker_id, hive_id) = self.names();
                let idle = self.parts.inter_token;
                return self.fail(BodyError::Silent { worker_id, hive_id, idle });
            }
            idle.as_mut().reset(due);
        }
    }

    fn names(&self) -> (WorkerId, HiveId) {
        (self.parts.worker_id().clone(), self.parts.hive_id().clone())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(first) = self.parts.first.take() {
            return self.seen(first);
        }
        self.more |= self.pieces.get_or_insert_default().rang(cx);
        if self.more {
            let next = self.next_piece();
            if next.is_ready() {
                return next;
            }
            self.more = false;
        }
        let silent = *self.silent.get_or_insert_with(Instant::now);
        if self.troubles.get_or_insert_default().rang(cx) || self.idle.is_none() {
            return self.trouble(silent);
        }
        Poll::Pending
    }

    /// A worker that says how long its answer is lets the client see whether it is whole.
    fn size_hint(&self) -> SizeHint {
        let rest = self.parts.incoming.size_hint().exact();
        match rest.filter(|_| !self.parts.events && !self.ended) {
            Some(rest) => {
                SizeHint::with_exact(rest + self.parts.first.as_ref().map_or(0, |b| b.len() as u64))
            }
            None => SizeHint::default(),
        }
    }
}

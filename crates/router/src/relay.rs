//! One answer from as many workers as it takes.
//!
//! A worker that breaks off behind the first byte is followed by another one, which gets what was asked and the text that
//! was delivered. Nothing of that comes twice, and nothing is missing: a piece counts as delivered when it is handed out
//! here, and only whole events are. How many tokens are left is known from the engine's own count, and a stop text that
//! begins with one worker and ends with the next is found at the seam.

use std::{collections::VecDeque, sync::Arc};

use fleet::{HiveId, WorkerId};
use http_body_util::BodyExt;
use queen_api::{ErrorCode, ErrorDetail};

use crate::{
    Answer, AnswerBody, BodyError, Job, Payload, Router, Waiting,
    chunk::Chunk,
    engine::RunningCount,
    seam::{Passed, Seam},
};

/// A request that another worker may go on with.
pub(crate) trait Resumable {
    /// The same for a worker that goes on behind `text`, which took `tokens` tokens.
    fn behind(&self, text: &str, tokens: u64) -> Self;
    /// Text that other workers gave before.
    fn given(&self) -> &str;
    /// Tokens that may still be generated; none is no bound.
    fn left(&self) -> Option<u32>;
    /// The texts that end the answer.
    fn stops(&self) -> &[String];
}

/// The next thing that happens to an answer.
#[derive(Debug)]
pub(crate) enum Step {
    /// An event came.
    Event(Event),
    /// The worker broke off; whoever waits for the answer may be told before another one is looked for.
    Broke,
    /// The answer is complete, whether or not the worker came to say so.
    End(End),
}

/// The data of the event that ends a stream.
pub(crate) const DONE: &str = "[DONE]";

/// An event of the answer's stream.
#[derive(Debug)]
pub(crate) struct Event {
    /// As the worker sent it.
    pub(crate) sent: sse::Event,
    /// What it says; none for what is not a piece of a completion.
    pub(crate) chunk: Option<Chunk>,
    /// The text of it that may go on. At a seam that may be less than came with it, and more.
    pub(crate) text: String,
}

/// How a complete answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// All tokens that were generated. Every piece is at least one, so without the engine's count this is a lower bound.
    pub(crate) tokens: u64,
    /// The engine's reason, if it or the seam had one.
    pub(crate) finish: Option<String>,
}

/// What has come of one worker's part.
#[derive(Default)]
struct Part {
    /// All text of it that was delivered, for whoever has to go on with it.
    text: String,
    /// Events with text.
    pieces: u64,
    /// The engine's own count, as of the last event that had one.
    counted: Option<u64>,
    /// The same as of the last event that had text, which is what was delivered.
    delivered: Option<u64>,
    finish: Option<String>,
    seam: Option<Seam>,
    /// Whether a stop text came that began with the worker before.
    stopped: bool,
    /// Whether something came that no other worker can be told of: tool calls, thoughts, what is no completion.
    is_foreign: bool,
}

/// An answer, event by event.
pub(crate) struct Relay<R> {
    router: Arc<Router>,
    job: Job,
    request: Arc<R>,
    /// None when it has ended.
    body: Option<Box<AnswerBody>>,
    count: Option<RunningCount>,
    who: (WorkerId, HiveId),
    decoder: sse::Decoder,
    ready: VecDeque<sse::Event>,
    /// How the present worker broke off.
    broke: Option<BodyError>,
    part: Part,
    /// Tokens of the workers before the present one.
    before: u64,
    continued: u32,
}

impl<R: Resumable> Relay<R>
where
    Payload: From<Arc<R>>,
{
    /// The answer to a request. Its job is what it was routed with.
    pub(crate) fn new(router: Arc<Router>, job: Job, request: Arc<R>, answer: Answer) -> Self {
        let who = (answer.worker_id().clone(), answer.hive_id().clone());
        let body = answer.body;
        Self {
            router,
            job,
            request,
            count: body.count(),
            who,
            decoder: sse::Decoder::new(body.event_max()),
            body: Some(body),
            ready: VecDeque::new(),
            broke: None,
            part: Part::default(),
            before: 0,
            continued: 0,
        }
    }

    /// How the present worker's engine counts.
    pub(crate) const fn count(&self) -> Option<RunningCount> {
        self.count
    }

    /// How often a worker went on with another's answer.
    pub(crate) const fn continued(&self) -> u32 {
        self.continued
    }

    /// Tokens of the workers before the present one.
    pub(crate) const fn before(&self) -> u64 {
        self.before
    }

    /// Events with text that the present worker sent, and how many tokens it may generate.
    pub(crate) fn pieces(&self) -> (u64, Option<u32>) {
        (self.part.pieces, self.request.left())
    }

    /// What happens next. `tell` learns why another worker is not found at once.
    ///
    /// # Errors
    /// How the answer failed for good.
    pub(crate) async fn next(
        &mut self,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Step, ErrorDetail> {
        if let Some(broke) = self.broke.take() {
            self.go_on(broke, tell).await?;
        }
        loop {
            if self.part.stopped {
                if let Some(body) = &mut self.body {
                    body.complete();
                }
                return Ok(self.end());
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(Step::Event(self.part.take(event)));
            }
            let Some(body) = &mut self.body else { return Ok(self.end()) };
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    if let Err(error) = self.decoder.push(&piece, &mut self.ready) {
                        return Err(self.failed(&error.to_string()));
                    }
                }
                Some(Err(error)) => return self.broke(error),
                // The body ends without an error only behind its terminator, or when the stream itself told of one.
                None if body.told_failure() => {
                    self.body = None;
                    return Err(self.failed("failed"));
                }
                None => return Ok(self.end()),
            }
        }
    }

    /// Ends the answer, which the present worker made unusable.
    pub(crate) fn failed(&mut self, what: &str) -> ErrorDetail {
        let (worker_id, hive_id) = &self.who;
        let error =
            ErrorDetail::new(ErrorCode::WorkerFailed, format!("worker {worker_id} on hive {hive_id} {what}"));
        if let Some(mut body) = self.body.take() {
            body.failed(error.code);
        }
        error
    }

    fn end(&mut self) -> Step {
        self.body = None;
        let (tokens, finish) = (self.before + self.part.tokens(), self.part.finish.clone());
        Step::End(End { tokens, finish })
    }

    /// What becomes of an answer that broke off.
    fn broke(&mut self, error: BodyError) -> Result<Step, ErrorDetail> {
        if self.part.finish.is_some() {
            // The worker had said that its text ends here; what broke off behind that is no part of the answer.
            if let Some(body) = self.body.take() {
                body.complete_after_all();
            }
            return Ok(self.end());
        }
        let may_go_on = self.part.delivered_tokens().is_some()
            && self.body.as_ref().is_some_and(|body| body.may_be_followed(&error));
        if !may_go_on {
            self.body = None;
            return Err(error.detail());
        }
        self.broke = Some(error);
        Ok(Step::Broke)
    }

    /// Has another worker go on.
    async fn go_on(
        &mut self,
        error: BodyError,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<(), ErrorDetail> {
        let detail = error.detail();
        let broken = self.body.take().and_then(|body| body.broken(&error));
        let (Some(broken), Some(delivered)) = (broken, self.part.delivered_tokens()) else {
            return Err(detail);
        };
        // The bug begins anew instead of going on.
        let given = if planted::bug("retry-after-first-byte") { "" } else { &self.part.text };
        self.request = Arc::new(self.request.behind(given, delivered));
        self.before += delivered;
        if self.request.left() == Some(0) {
            // The last token was delivered; only the end was lost.
            let mut ending = broken.ending;
            ending.completed();
            self.part = Part { finish: Some("length".to_owned()), ..Part::default() };
            return Ok(());
        }
        self.job.body = Arc::clone(&self.request).into();
        tracing::info!(request_id = %self.job.request_id, error = %detail.message, "another worker goes on");
        let answer = self.router.resume(&self.job, broken, tell).await;
        let answer = answer.map_err(|e| no_successor(detail.clone(), &e.detail()))?;
        if !answer.status.is_success() {
            return Err(no_successor(detail, &answer.refusal().await));
        }
        self.who = (answer.worker_id().clone(), answer.hive_id().clone());
        let body = answer.body;
        let seam = Seam::behind(self.request.given(), self.request.stops());
        self.part = Part { seam, ..Part::default() };
        self.count = body.count();
        self.decoder = sse::Decoder::new(body.event_max());
        self.body = Some(body);
        self.continued += 1;
        Ok(())
    }
}

/// An answer that broke off, and that nobody could go on with.
fn no_successor(error: ErrorDetail, reason: &ErrorDetail) -> ErrorDetail {
    let message = format!("{}; no other worker could go on with it: {}", error.message, reason.message);
    ErrorDetail { message, ..error }
}

impl Part {
    /// Takes an event, and delivers the text of it that may go on.
    fn take(&mut self, sent: sse::Event) -> Event {
        if sent.data == DONE {
            let text = self.deliver(String::new(), true);
            return Event { sent, chunk: None, text };
        }
        let Some(chunk) = Chunk::read(&sent.data) else {
            self.is_foreign = true;
            return Event { sent, chunk: None, text: String::new() };
        };
        self.is_foreign |= chunk.is_foreign;
        self.counted = chunk.counted.or(self.counted);
        if chunk.finish.is_some() {
            self.finish.clone_from(&chunk.finish);
        }
        let text = self.deliver(chunk.text.clone(), chunk.finish.is_some());
        Event { sent, chunk: Some(chunk), text }
    }

    /// What of a piece is not held back for the sake of a stop text that began with the worker before.
    fn deliver(&mut self, text: String, is_last: bool) -> String {
        self.pieces += u64::from(!text.is_empty());
        let text = self.pass(text, is_last);
        if !text.is_empty() {
            self.text.push_str(&text);
            self.delivered = self.counted;
        }
        text
    }

    fn pass(&mut self, text: String, is_last: bool) -> String {
        let Some(mut seam) = self.seam.take() else { return text };
        match seam.take(&text) {
            Passed::Stopped => {
                self.finish = Some("stop".to_owned());
                self.stopped = true;
                String::new()
            }
            Passed::Text(text) if is_last => text + &seam.rest(),
            Passed::Text(text) => {
                self.seam = Some(seam).filter(|seam| !seam.is_passed());
                text
            }
        }
    }

    fn tokens(&self) -> u64 {
        self.counted.unwrap_or(self.pieces)
    }

    /// Tokens behind the text that was delivered, if another worker may go on behind that: none are, or the engine counts
    /// them.
    fn delivered_tokens(&self) -> Option<u64> {
        if self.is_foreign {
            return None;
        }
        if self.text.is_empty() { Some(0) } else { self.delivered }
    }
}

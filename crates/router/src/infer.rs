//! `POST /v1/infer`: the user's own protocol over a worker's completions.

use std::{collections::VecDeque, sync::Arc};

use fleet::{ModelRef, RequestId};
use http_body_util::BodyExt;
use placement::Stage;
use queen_api::{ErrorCode, ErrorDetail, InferEvent, InferRequest, LoadingStage, StopReason};
use scheduler::PrefixChain;
use serde::Deserialize;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Answer, Job, Router, Terms, Waiting,
    answer::Broken,
    completion::Completion,
    seam::{Passed, Seam},
};

/// How many pieces more than tokens were asked for a worker may send, for what it held back while it looked for a stop
/// text.
const PIECES_SLACK: u64 = 16;

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    timings: Option<Timings>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    predicted_n: Option<u64>,
}

/// What has come of an answer so far, from all workers that gave a part of it.
struct Progress {
    pieces: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Tokens of the workers before the present one.
    before: u64,
    /// How often a worker went on with another's answer.
    continued: u32,
}

/// What has come of one worker's part.
struct Part {
    /// All text of it that was delivered, for whoever has to go on with it.
    text: String,
    /// Frames with text, and how many there may be.
    frames: u64,
    most: u64,
    /// The engine's own count, as of the last frame that had one.
    counted: Option<u64>,
    /// The same as of the last frame that had text, which is what was delivered.
    delivered: Option<u64>,
    finish: Option<String>,
    seam: Option<Seam>,
    /// Whether a stop text came that began with the worker before.
    stopped: bool,
}

/// How one worker's part ended without completing the answer.
struct Ended {
    error: ErrorDetail,
    /// The request without its worker, where another one may go on.
    broken: Option<Broken>,
}

impl From<ErrorDetail> for Ended {
    fn from(error: ErrorDetail) -> Self {
        Self { error, broken: None }
    }
}

/// Answers a request with events, the last one an `end` or an `error`. Returns early when nobody listens any more, which
/// cancels the generation.
pub async fn infer(
    router: Arc<Router>,
    request_id: RequestId,
    model: ModelRef,
    request: InferRequest,
    terms: Terms,
    events: mpsc::Sender<InferEvent>,
) {
    if planted::bug("prompt-in-log") {
        tracing::info!(%request_id, prompt = request.prompt, "asked");
    }
    let answered = answer(&router, request_id, model, &request, terms, &events);
    let last = tokio::select! {
        last = answered => last,
        () = events.closed(), if !planted::bug("keeps-generating") => return,
    };
    let _ = events.send(last.unwrap_or_else(InferEvent::from)).await;
}

async fn answer(
    router: &Router,
    request_id: RequestId,
    model: ModelRef,
    request: &InferRequest,
    terms: Terms,
    events: &mpsc::Sender<InferEvent>,
) -> Result<InferEvent, ErrorDetail> {
    let mut completion = Arc::new(Completion::new(model.clone(), request.clone()));
    let path = "/v1/completions";
    let mut job = Job {
        request_id,
        model,
        path,
        body: Arc::clone(&completion).into(),
        stream: true,
        prompt: PrefixChain::of(request.prompt.as_bytes(), b"prompt"),
        max_tokens: Some(request.max_tokens),
        terms,
    };
    let mut last = None;
    let mut tell = |waiting| {
        let event = waiting_event(&waiting);
        // Progress may be lost on a client that reads slowly; the answer may not.
        if last.as_ref() != Some(&event) && events.try_send(event.clone()).is_ok() {
            last = Some(event);
        }
    };
    let mut answer = router.route(&job, &mut tell).await.map_err(|e| e.detail())?;
    let mut progress = Progress { pieces: 0, first: None, last: None, before: 0, continued: 0 };
    let mut seam = None;
    loop {
        if !answer.status.is_success() {
            return Err(answer.refusal().await);
        }
        let mut part = Part::new(completion.left(), seam.take());
        if progress.continued == 0 {
            tell_started(&job, &answer, events).await?;
        }
        let Ended { error, broken } = match stream(answer, &mut progress, &mut part, events).await {
            Ok(end) => return Ok(end),
            Err(ended) => ended,
        };
        let Some(mut broken) = broken else { return Err(error) };
        if let Some(finish) = part.finish.as_deref() {
            // The worker had said that its text ends here; what broke off behind that is no part of the answer.
            broken.ending.completed();
            return Ok(progress.end(part.tokens(), Some(finish)));
        }
        // Without the engine's count nobody knows how many tokens are left.
        let Some(delivered) = part.delivered_tokens() else {
            broken.ending.failed(error.code);
            return Err(error);
        };
        // The bug begins anew instead of going on.
        let given = if planted::bug("retry-after-first-byte") { "" } else { &part.text };
        completion = Arc::new(completion.behind(given, delivered));
        progress.before += delivered;
        if completion.left() == 0 {
            // The last token was delivered; only the end was lost.
            broken.ending.completed();
            return Ok(progress.end(0, Some("length")));
        }
        seam = Seam::behind(completion.given(), completion.stops());
        job.body = Arc::clone(&completion).into();
        tracing::info!(request_id = %job.request_id, error = %error.message, "another worker goes on");
        answer =
            router.resume(&job, broken, &mut tell).await.map_err(|e| no_successor(error, &e.detail()))?;
        progress.continued += 1;
    }
}

async fn tell_started(
    job: &Job,
    answer: &Answer,
    events: &mpsc::Sender<InferEvent>,
) -> Result<(), ErrorDetail> {
    let started = InferEvent::Started {
        request_id: job.request_id.clone(),
        model: job.model.to_string(),
        worker_id: answer.worker_id.clone(),
        hive_id: answer.hive_id.clone(),
        attempts: answer.attempts,
        queued_ms: millis(answer.queued),
    };
    events.send(started).await.map_err(gone)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn gone<T>(_: mpsc::error::SendError<T>) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::Internal, "the client left")
}

/// An answer that broke off, and that nobody could go on with.
fn no_successor(error: ErrorDetail, reason: &ErrorDetail) -> ErrorDetail {
    let message = format!("{}; no other worker could go on with it: {}", error.message, reason.message);
    ErrorDetail { message, ..error }
}

fn waiting_event(waiting: &Waiting) -> InferEvent {
    let loading = |stage, progress| InferEvent::Loading { stage, progress };
    match waiting {
        Waiting::Queued { ahead } => InferEvent::Queued { ahead: *ahead },
        Waiting::Starting(stage) => match stage {
            Stage::Downloading(part) => loading(LoadingStage::Downloading, *part),
            Stage::Verifying => loading(LoadingStage::Verifying, None),
            Stage::Starting => loading(LoadingStage::Starting, None),
            Stage::Loading(part) => loading(LoadingStage::Loading, *part),
            Stage::Choosing | Stage::Ready | Stage::Failed(_) => loading(LoadingStage::Choosing, None),
        },
    }
}

/// Turns the worker's frames into events; returns the last one.
async fn stream(
    answer: Answer,
    progress: &mut Progress,
    part: &mut Part,
    events: &mpsc::Sender<InferEvent>,
) -> Result<InferEvent, Ended> {
    let who = format!("worker {} on hive {}", answer.worker_id, answer.hive_id);
    let mut body = answer.body;
    let mut decoder = sse::Decoder::new(body.event_max());
    let mut ready = VecDeque::new();
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => frame.into_data(),
            Err(error) => return Err(Ended { error: error.detail(), broken: body.broken(&error) }),
        };
        let Ok(piece) = piece else { continue };
        let decoded = decoder.push(&piece, &mut ready).map_err(|e| worker_failed(format!("{who}: {e}")));
        while let Some(event) = ready.pop_front() {
            let texts = part.take(&who, &event.data).inspect_err(|error| body.failed(error.code))?;
            for text in texts {
                progress.deliver(part, text, events).await?;
            }
            if part.is_stopped() {
                body.complete();
                return Ok(progress.end(part.tokens(), Some("stop")));
            }
        }
        decoded.inspect_err(|error| body.failed(error.code))?;
    }
    // The body ends without an error only behind its terminator, or when the stream itself told of one.
    if body.told_failure() {
        return Err(worker_failed(format!("{who} failed")).into());
    }
    if let Some(seam) = part.seam.take() {
        progress.deliver(part, seam.rest(), events).await?;
    }
    Ok(progress.end(part.tokens(), part.finish.as_deref()))
}

fn worker_failed(message: String) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::WorkerFailed, message)
}

impl Part {
    fn new(left: u32, seam: Option<Seam>) -> Self {
        Self {
            text: String::new(),
            frames: 0,
            most: u64::from(left).saturating_add(PIECES_SLACK),
            counted: None,
            delivered: None,
            finish: None,
            seam,
            stopped: false,
        }
    }

    /// Takes a frame; returns the pieces of text in it that may go on.
    fn take(&mut self, who: &str, data: &[u8]) -> Result<Vec<String>, ErrorDetail> {
        if data == b"[DONE]" {
            return Ok(Vec::new());
        }
        let chunk: Chunk = serde_json::from_slice(data)
            .map_err(|_| worker_failed(format!("{who} sent an event that is no completion")))?;
        if let Some(error) = chunk.error {
            let message = error.get("message").unwrap_or(&error).as_str().unwrap_or("it did not say why");
            return Err(worker_failed(format!("{who} failed: {message}")));
        }
        let usage = chunk.usage.and_then(|usage| usage.completion_tokens);
        self.counted = usage.or(chunk.timings.and_then(|timings| timings.predicted_n)).or(self.counted);
        let mut texts = Vec::new();
        for choice in chunk.choices {
            if choice.finish_reason.is_some() {
                self.finish = choice.finish_reason;
            }
            texts.extend(choice.text.filter(|text| !text.is_empty()));
        }
        if self.frames + texts.len() as u64 > self.most {
            return Err(worker_failed(format!("{who} does not stop at the length that was asked for")));
        }
        self.frames += texts.len() as u64;
        Ok(texts.into_iter().map(|text| self.pass(text)).collect())
    }

    /// What of a piece is not held back for the sake of a stop text that began with the worker before.
    fn pass(&mut self, text: String) -> String {
        let Some(seam) = &mut self.seam else { return text };
        let passed = seam.take(&text);
        if seam.is_passed() {
            self.seam = None;
        }
        match passed {
            Passed::Text(text) => text,
            Passed::Stopped(text) => {
                self.finish = Some("stop".to_owned());
                self.stopped = true;
                text
            }
        }
    }

    const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Tokens that the worker generated. Every piece is at least one, so without the engine's count this is a lower bound.
    fn tokens(&self) -> u64 {
        self.counted.unwrap_or(self.frames)
    }

    /// Tokens behind the text that was delivered; none are, or the engine counts them.
    fn delivered_tokens(&self) -> Option<u64> {
        if self.text.is_empty() { Some(0) } else { self.delivered }
    }
}

impl Progress {
    async fn deliver(
        &mut self,
        part: &mut Part,
        text: String,
        events: &mpsc::Sender<InferEvent>,
    ) -> Result<(), ErrorDetail> {
        if text.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        part.text.push_str(&text);
        part.delivered = part.counted;
        let event = InferEvent::Token { t: text, i: self.pieces };
        self.pieces += 1;
        match events.send(event).await {
            Err(_) if planted::bug("keeps-generating") => Ok(()),
            sent => sent.map_err(gone),
        }
    }

    fn end(&self, tokens: u64, finish: Option<&str>) -> InferEvent {
        let time = self.first.zip(self.last).map_or(0, |(first, last)| (last - first).as_millis());
        let stop_reason = match finish {
            Some("length") => StopReason::Length,
            _ => StopReason::Stop,
        };
        InferEvent::End {
            tokens_out: self.before + tokens,
            decode_time_ms: u64::try_from(time).unwrap_or(u64::MAX),
            stop_reason,
            continued: self.continued,
        }
    }
}

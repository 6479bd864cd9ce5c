//! `POST /v1/infer`: the user's own protocol over a worker's completions.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use fleet::{ModelRef, RequestId};
use http_body_util::BodyExt;
use placement::Stage;
use queen_api::{ErrorCode, ErrorDetail, InferEvent, InferRequest, LoadingStage, StopReason};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};

use crate::{Answer, Job, Router, Waiting};

/// How many pieces more than tokens were asked for a worker may send, for what it held back while it looked for a stop
/// text.
const PIECES_SLACK: u64 = 16;

#[derive(Serialize)]
struct Completion<'a> {
    model: &'a ModelRef,
    prompt: &'a str,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<&'a queen_api::Stop>,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
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

/// What has come of an answer so far.
struct Progress {
    pieces: u64,
    counted: Option<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
    finish: Option<String>,
    most: u64,
}

/// Answers a request with events, the last one an `end` or an `error`. Returns early when nobody listens any more, which
/// cancels the generation.
pub async fn infer(
    router: Arc<Router>,
    request_id: RequestId,
    model: ModelRef,
    request: InferRequest,
    events: mpsc::Sender<InferEvent>,
) {
    let answered = answer(&router, request_id, model, &request, &events);
    let last = tokio::select! {
        last = answered => last,
        () = events.closed() => return,
    };
    let _ = events.send(last.unwrap_or_else(InferEvent::from)).await;
}

async fn answer(
    router: &Router,
    request_id: RequestId,
    model: ModelRef,
    request: &InferRequest,
    events: &mpsc::Sender<InferEvent>,
) -> Result<InferEvent, ErrorDetail> {
    let completion = Completion {
        model: &model,
        prompt: &request.prompt,
        max_tokens: request.max_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        seed: request.seed,
        stop: request.stop.as_ref(),
        // A worker notices that its client left only while it streams.
        stream: true,
        stream_options: StreamOptions { include_usage: true },
    };
    let body =
        serde_json::to_vec(&completion).map_err(|e| ErrorDetail::new(ErrorCode::Internal, e.to_string()))?;
    let job = Job { request_id, model, path: "/v1/completions", body: Bytes::from(body), stream: true };
    let mut last = None;
    let tell = |waiting| {
        let event = waiting_event(&waiting);
        // Progress may be lost on a client that reads slowly; the answer may not.
        if last.as_ref() != Some(&event) && events.try_send(event.clone()).is_ok() {
            last = Some(event);
        }
    };
    let answer = router.route(&job, tell).await.map_err(|e| e.detail())?;
    if !answer.status.is_success() {
        return Err(answer.refusal().await);
    }
    let ended = stream(&job, answer, Progress::until(request.max_tokens), events).await;
    if planted::bug("retry-after-first-byte") && ended.is_err() {
        let again = router.route(&job, |_| ()).await.map_err(|e| e.detail())?;
        return stream(&job, again, Progress::until(request.max_tokens), events).await;
    }
    ended
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
    job: &Job,
    answer: Answer,
    mut progress: Progress,
    events: &mpsc::Sender<InferEvent>,
) -> Result<InferEvent, ErrorDetail> {
    let who = format!("worker {} on hive {}", answer.worker_id, answer.hive_id);
    let started = InferEvent::Started {
        request_id: job.request_id.clone(),
        model: job.model.to_string(),
        worker_id: answer.worker_id,
        hive_id: answer.hive_id,
    };
    let gone = |_| ErrorDetail::new(ErrorCode::Internal, "the client left");
    events.send(started).await.map_err(gone)?;
    let mut body = answer.body;
    let mut decoder = sse::Decoder::new(body.event_max());
    let mut ready = VecDeque::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|error| error.detail())?.into_data() else { continue };
        let decoded = decoder.push(&piece, &mut ready).map_err(|e| worker_failed(format!("{who}: {e}")));
        while let Some(event) = ready.pop_front() {
            let texts = progress.take(&who, &event.data).inspect_err(|error| body.failed(error.code))?;
            for text in texts {
                let event = InferEvent::Token { t: text, i: progress.pieces };
                progress.pieces += 1;
                events.send(event).await.map_err(gone)?;
            }
        }
        decoded.inspect_err(|error| body.failed(error.code))?;
    }
    // The body ends without an error only behind its terminator, or when the stream itself told of one.
    if body.told_failure() { Err(worker_failed(format!("{who} failed"))) } else { Ok(progress.end()) }
}

fn worker_failed(message: String) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::WorkerFailed, message)
}

impl Progress {
    fn until(max_tokens: u32) -> Self {
        let most = u64::from(max_tokens).saturating_add(PIECES_SLACK);
        Self { pieces: 0, counted: None, first: None, last: None, finish: None, most }
    }

    /// Takes a frame; returns the pieces of text in it.
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
        self.counted = chunk.usage.and_then(|usage| usage.completion_tokens).or(self.counted);
        let mut texts = Vec::new();
        for choice in chunk.choices {
            if choice.finish_reason.is_some() {
                self.finish = choice.finish_reason;
            }
            texts.extend(choice.text.filter(|text| !text.is_empty()));
        }
        if !texts.is_empty() {
            let now = Instant::now();
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
        if self.pieces + texts.len() as u64 > self.most {
            return Err(worker_failed(format!("{who} does not stop at the length that was asked for")));
        }
        Ok(texts)
    }

    fn end(self) -> InferEvent {
        let time = self.first.zip(self.last).map_or(0, |(first, last)| (last - first).as_millis());
        let stop_reason = match self.finish.as_deref() {
            Some("length") => StopReason::Length,
            _ => StopReason::Stop,
        };
        InferEvent::End {
            // Every piece is at least one token, so without the engine's count this is a lower bound.
            tokens_out: self.counted.unwrap_or(self.pieces),
            decode_time_ms: u64::try_from(time).unwrap_or(u64::MAX),
            stop_reason,
        }
    }
}

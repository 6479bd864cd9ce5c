//! `POST /v1/infer`: the user's own protocol over a worker's completions.

use std::sync::Arc;

use bytes::Bytes;
use fleet::{ModelRef, RequestId};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyStream;
use placement::Stage;
use queen_api::{ErrorCode, ErrorDetail, InferEvent, InferRequest, LoadingStage, StopReason};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};

use crate::{Answer, BodyError, Job, Router, Waiting, attempt::excerpt};

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
    error: Option<WorkerError>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u64,
}

#[derive(Deserialize)]
struct WorkerError {
    #[serde(default)]
    message: String,
}

/// What has come of an answer so far.
struct Progress {
    pieces: u64,
    counted: Option<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
    finish: Option<String>,
    done: bool,
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
        let code = if answer.status.is_client_error() && answer.status.as_u16() != 429 {
            ErrorCode::InvalidRequest
        } else {
            ErrorCode::WorkerFailed
        };
        let (worker_id, hive_id, status) = (answer.worker_id, answer.hive_id, answer.status);
        let text = excerpt(answer.body).await;
        let message = format!("worker {worker_id} on hive {hive_id} answered {status}: {text}");
        return Err(ErrorDetail::new(code, message));
    }
    stream(job, answer, router.event_max(), events).await
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
    job: Job,
    answer: Answer,
    event_max: usize,
    events: &mpsc::Sender<InferEvent>,
) -> Result<InferEvent, ErrorDetail> {
    let who = format!("worker {} on hive {}", answer.worker_id, answer.hive_id);
    let started = InferEvent::Started {
        request_id: job.request_id,
        model: job.model.to_string(),
        worker_id: answer.worker_id,
        hive_id: answer.hive_id,
    };
    let gone = |_| ErrorDetail::new(ErrorCode::Internal, "the client left");
    events.send(started).await.map_err(gone)?;
    let pieces = BodyStream::new(answer.body)
        .try_filter_map(|frame| std::future::ready(Ok::<_, BodyError>(frame.into_data().ok())));
    let mut frames = std::pin::pin!(sse::events(Box::pin(pieces), event_max));
    let mut progress =
        Progress { pieces: 0, counted: None, first: None, last: None, finish: None, done: false };
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| broken(&who, error))?;
        for text in progress.take(&who, &frame.data)? {
            let event = InferEvent::Token { t: text, i: progress.pieces };
            progress.pieces += 1;
            events.send(event).await.map_err(gone)?;
        }
    }
    progress.end(&who)
}

fn broken(who: &str, error: sse::StreamError<BodyError>) -> ErrorDetail {
    match error {
        sse::StreamError::Transport(error @ BodyError::Silent { .. }) => {
            ErrorDetail::new(ErrorCode::WorkerTimeout, error.to_string())
        }
        sse::StreamError::Transport(error) => ErrorDetail::new(ErrorCode::WorkerFailed, error.to_string()),
        sse::StreamError::Overlong(error) => {
            ErrorDetail::new(ErrorCode::WorkerFailed, format!("{who}: {error}"))
        }
    }
}

impl Progress {
    /// Takes a frame; returns the pieces of text in it.
    fn take(&mut self, who: &str, data: &[u8]) -> Result<Vec<String>, ErrorDetail> {
        if data == b"[DONE]" {
            self.done = true;
            return Ok(Vec::new());
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(|_| {
            ErrorDetail::new(ErrorCode::WorkerFailed, format!("{who} sent an event that is no completion"))
        })?;
        if let Some(error) = chunk.error {
            return Err(ErrorDetail::new(
                ErrorCode::WorkerFailed,
                format!("{who} failed: {}", error.message),
            ));
        }
        if let Some(usage) = chunk.usage {
            self.counted = Some(usage.completion_tokens);
        }
        let mut texts = Vec::new();
        for choice in chunk.choices {
            if choice.finish_reason.is_some() {
                self.finish = choice.finish_reason;
            }
            if !choice.text.is_empty() {
                let now = Instant::now();
                self.first.get_or_insert(now);
                self.last = Some(now);
                texts.push(choice.text);
            }
        }
        Ok(texts)
    }

    fn end(self, who: &str) -> Result<InferEvent, ErrorDetail> {
        if !self.done {
            let message = format!("the answer of {who} ended without its terminator");
            return Err(ErrorDetail::new(ErrorCode::WorkerFailed, message));
        }
        let time = self.first.zip(self.last).map_or(0, |(first, last)| (last - first).as_millis());
        let stop_reason = match self.finish.as_deref() {
            Some("length") => StopReason::Length,
            _ => StopReason::Stop,
        };
        Ok(InferEvent::End {
            // Every piece is at least one token, so without the engine's count this is a lower bound.
            tokens_out: self.counted.unwrap_or(self.pieces),
            decode_time_ms: u64::try_from(time).unwrap_or(u64::MAX),
            stop_reason,
        })
    }
}

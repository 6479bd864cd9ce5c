//! `POST /v1/infer`: the user's own protocol over a worker's completions.

use std::sync::Arc;

use fleet::{ModelRef, RequestId};
use placement::Stage;
use queen_api::{ErrorCode, ErrorDetail, InferEvent, InferRequest, LoadingStage, StopReason};
use scheduler::PrefixChain;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Answer, Job, Router, Terms, Waiting,
    chunk::Chunk,
    completion::Completion,
    relay::{DONE, End, Event, Relay, Step},
};

/// How many pieces more than tokens were asked for a worker may send, for what it held back while it looked for a stop
/// text.
const PIECES_SLACK: u64 = 16;

/// What the client has of the answer so far.
#[derive(Default)]
struct Progress {
    pieces: u64,
    first: Option<Instant>,
    last: Option<Instant>,
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
    router: &Arc<Router>,
    request_id: RequestId,
    model: ModelRef,
    request: &InferRequest,
    terms: Terms,
    events: &mpsc::Sender<InferEvent>,
) -> Result<InferEvent, ErrorDetail> {
    let completion = Arc::new(Completion::new(model.clone(), request.clone()));
    let path = "/v1/completions";
    let job = Job {
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
    let answer = router.route(&job, &mut tell).await.map_err(|e| e.detail())?;
    if !answer.status.is_success() {
        return Err(answer.refusal().await);
    }
    tell_started(&job, &answer, events).await?;
    let mut relay = Relay::new(Arc::clone(router), job, completion, answer);
    let mut progress = Progress::default();
    loop {
        match relay.next(&mut tell).await? {
            Step::Broke => {}
            Step::End(end) => return Ok(progress.end(&end, relay.continued())),
            Step::Event(event) => {
                let text = checked(&mut relay, event)?;
                progress.deliver(text, events).await?;
            }
        }
    }
}

/// The text of an event that can be a part of the answer.
fn checked(relay: &mut Relay<Completion>, event: Event) -> Result<String, ErrorDetail> {
    match event.chunk {
        None if event.sent.data != DONE => return Err(relay.failed("sent an event that is no completion")),
        Some(Chunk { error: Some(error), .. }) => return Err(relay.failed(&format!("failed: {error}"))),
        _ => {}
    }
    let (pieces, left) = relay.pieces();
    if left.is_some_and(|left| pieces > u64::from(left).saturating_add(PIECES_SLACK)) {
        return Err(relay.failed("does not stop at the length that was asked for"));
    }
    Ok(event.text)
}

async fn tell_started(
    job: &Job,
    answer: &Answer,
    events: &mpsc::Sender<InferEvent>,
) -> Result<(), ErrorDetail> {
    let started = InferEvent::Started {
        request_id: job.request_id.clone(),
        model: job.model.to_string(),
        worker_id: answer.worker_id().clone(),
        hive_id: answer.hive_id().clone(),
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

impl Progress {
    async fn deliver(&mut self, text: String, events: &mpsc::Sender<InferEvent>) -> Result<(), ErrorDetail> {
        if text.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        let event = InferEvent::Token { t: text, i: self.pieces };
        self.pieces += 1;
        match events.send(event).await {
            Err(_) if planted::bug("keeps-generating") => Ok(()),
            sent => sent.map_err(gone),
        }
    }

    fn end(&self, end: &End, continued: u32) -> InferEvent {
        let time = self.first.zip(self.last).map_or(0, |(first, last)| (last - first).as_millis());
        let stop_reason = match end.finish.as_deref() {
            Some("length") => StopReason::Length,
            _ => StopReason::Stop,
        };
        InferEvent::End {
            tokens_out: end.tokens,
            decode_time_ms: u64::try_from(time).unwrap_or(u64::MAX),
            stop_reason,
            continued,
        }
    }
}

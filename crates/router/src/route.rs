//! Finding a worker, and another one when it fails.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fleet::{Digest, HiveId, ModelRef, RequestId, WorkerId};
use http_client::{Connector, PerPin};
use hyper_util::{
    client::legacy::Client as HyperClient,
    rt::{TokioExecutor, TokioTimer},
};
use journal::Journal;
use placement::{Placement, Stage};
use registry_ram::{WorkerRegistry, WorkerView};
use scheduler::{Decision, PrefixChain};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Answer, AnswerBody, RouteError,
    answer::{Broken, Ending, refusal_code},
    attempt::{Attempts, Client, Failure, Opened, Target, attempt},
    completion::{Completion, RunningCount},
    desk::{Desks, Given, Slot},
};

mod acquire;

use acquire::NOTICE;

/// Most workers that are sent one request.
pub const MAX_ATTEMPTS: u32 = 2;

/// Most workers that a request turns to, those too that could not be connected to.
const MAX_TURNS: usize = 8;

/// Bounds of the request path.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// To open a connection to a hive.
    pub connect: Duration,
    /// From the request to the first byte, without any progress of the worker.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub inter_token: Duration,
    /// Longest line of a worker's event stream, in bytes.
    pub event_max: usize,
    /// Requests that may wait for one model.
    pub queue_length: u32,
    /// How long one waits at most.
    pub queue_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(120),
            inter_token: Duration::from_secs(60),
            event_max: 1024 * 1024,
            queue_length: 512,
            queue_wait: Duration::from_secs(60),
        }
    }
}

/// What the router is made of.
pub struct Parts {
    /// Which workers there are.
    pub registry: Arc<WorkerRegistry>,
    /// Starts workers.
    pub placement: Arc<Placement>,
    /// Where events go.
    pub journal: Journal,
    /// Bounds.
    pub settings: Settings,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name in answers, events and logs.
    pub request_id: RequestId,
    /// The model it wants.
    pub model: ModelRef,
    /// The worker's path, such as `/v1/completions`.
    pub path: &'static str,
    /// What the worker is sent; names the model by its canonical reference.
    pub body: Payload,
    /// Whether an event stream is expected.
    pub stream: bool,
    /// Its prompt, to find the worker that remembers the beginning.
    pub prompt: PrefixChain,
    /// Most tokens that it asks for.
    pub max_tokens: Option<u32>,
}

/// What a worker is sent.
#[derive(Debug, Clone)]
pub struct Payload(Content);

#[derive(Debug, Clone)]
enum Content {
    /// The client's own bytes, whichever worker they go to.
    Bytes(Bytes),
    /// A completion, in the words of the engine that it goes to.
    Completion(Arc<Completion>),
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Content::Bytes(bytes))
    }
}

impl From<Arc<Completion>> for Payload {
    fn from(completion: Arc<Completion>) -> Self {
        Self(Content::Completion(completion))
    }
}

impl Payload {
    fn bytes(&self, count: Option<RunningCount>) -> Bytes {
        match &self.0 {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Completion(completion) => completion.body(count),
        }
    }
}

/// Why a request has no worker yet.
#[derive(Debug, Clone)]
pub enum Waiting {
    /// All slots are taken.
    Queued {
        /// Requests that came before and wait too.
        ahead: u32,
    },
    /// A worker is being started.
    Starting(Stage),
}

/// Forwards requests to workers.
pub struct Router {
    parts: Parts,
    clients: PerPin<Client>,
    /// Open a connection for each request: one that was kept open may have been closed by the other side meanwhile.
    fresh: PerPin<Client>,
    desks: Desks,
    stopping: CancellationToken,
    cut: CancellationToken,
    /// Requests that have not ended.
    under_way: TaskTracker,
}

/// The workers that a request has tried.
#[derive(Default)]
struct Tried {
    workers: Vec<(HiveId, WorkerId)>,
    /// Turns to a worker, those too of which it saw nothing.
    turns: usize,
    /// How many workers ended with the request.
    died: u32,
    /// Whether the last failure means that the worker will not be there much longer.
    may_vanish: bool,
    /// Whether the last connection broke before anything came back.
    lost: bool,
    /// The only file that may answer: another one would not go on with what was begun.
    digest: Option<Digest>,
}

impl Tried {
    fn has(&self, worker: &WorkerView) -> bool {
        let other_file = self.digest.is_some() && worker.record.digest != self.digest;
        other_file || self.workers.iter().any(|(h, w)| *h == worker.hive_id && *w == worker.record.worker_id)
    }

    const fn is_under_way(&self) -> bool {
        self.turns > 0
    }

    fn note(&mut self, worker: &WorkerView, failure: &Failure) {
        self.turns += 1;
        self.died += u32::from(matches!(failure, Failure::Died(_)));
        self.may_vanish = matches!(
            failure,
            Failure::Died(_) | Failure::NotSent(_) | Failure::Unknown(_) | Failure::Lost(_)
        );
        // A connection that broke tells nothing of the worker, which may be tried again if there is no other.
        self.lost = matches!(failure, Failure::Lost(_));
        if !self.lost {
            self.workers.push((worker.hive_id.clone(), worker.record.worker_id.clone()));
        }
    }
}

impl Router {
    /// Forwards nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let desks = Desks::new(Arc::clone(&parts.registry));
        let connect = parts.settings.connect;
        let pooled = move |trust| {
            HyperClient::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                // Below the 10 s after which a hive closes an idle connection, so that a pooled one is rarely stale.
                .pool_idle_timeout(Duration::from_secs(8))
                .build(Connector::new(trust, connect))
        };
        let fresh = move |trust| {
            HyperClient::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(Connector::new(trust, connect))
        };
        Self {
            parts,
            clients: PerPin::new(pooled),
            fresh: PerPin::new(fresh),
            desks,
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            under_way: TaskTracker::new(),
        }
    }

    /// Refuses all requests that have no worker yet. Those that were sent to one are not touched.
    pub fn close(&self) {
        self.stopping.cancel();
        self.under_way.close();
    }

    /// Ends all requests that were sent to a worker: their clients are told that the queen is stopping.
    pub fn cut(&self) {
        self.close();
        self.cut.cancel();
    }

    /// Waits, once closed, until every request has ended and its end is in the journal.
    pub async fn idle(&self) {
        self.under_way.wait().await;
    }

    /// Brings a request to a worker and returns with the first byte of the answer. `tell` learns why that takes time.
    ///
    /// # Errors
    /// When no worker could be had in time, or those that were tried failed.
    pub async fn route(&self, job: &Job, tell: impl FnMut(Waiting) + Send) -> Result<Answer, RouteError> {
        let journal = self.parts.journal.clone();
        let (id, model) = (job.request_id.clone(), job.model.to_string());
        let ending = Ending::new(journal, id, model, self.under_way.token());
        self.bring(job, Tried::default(), ending, tell).await
    }

    /// Brings what is left of a request whose answer broke off to another worker of the same file.
    pub(crate) async fn resume(
        &self,
        job: &Job,
        broken: Broken,
        tell: impl FnMut(Waiting) + Send,
    ) -> Result<Answer, RouteError> {
        let Broken { hive_id, worker_id, digest, ending } = broken;
        let view = self.parts.registry.view();
        if let Some(worker) = view.hive(&hive_id).and_then(|hive| hive.workers.get(&worker_id)) {
            worker.suspect();
            self.desks.of(&job.model).suspicion();
        }
        let workers = vec![(hive_id, worker_id)];
        let tried = Tried { workers, turns: 1, died: 1, may_vanish: true, lost: false, digest: Some(digest) };
        self.bring(job, tried, ending, tell).await
    }

    async fn bring(
        &self,
        job: &Job,
        tried: Tried,
        mut ending: Ending,
        mut tell: impl FnMut(Waiting) + Send,
    ) -> Result<Answer, RouteError> {
        let attempts = ending.attempts();
        let outcome = tokio::select! {
            outcome = self.attempts(job, tried, &attempts, &mut tell) => outcome,
            () = self.cut.cancelled() => Err(RouteError::Stopping),
        };
        match outcome {
            Ok(Opened { head, body }) => {
                if !head.status.is_success() {
                    ending.failed(refusal_code(head.status));
                }
                Ok(Answer {
                    worker_id: body.worker_id.clone(),
                    hive_id: body.hive_id.clone(),
                    attempts: attempts.count(),
                    status: head.status,
                    headers: head.headers,
                    body: AnswerBody::new(body, ending, self.cut.clone()),
                })
            }
            Err(error) => {
                ending.failed(error.code());
                Err(error)
            }
        }
    }

    async fn attempts(
        &self,
        job: &Job,
        mut tried: Tried,
        attempts: &Attempts,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Opened, RouteError> {
        let mut failed: Option<RouteError> = None;
        let mut busy: Option<Box<Opened>> = None;
        loop {
            let found = if busy.is_some() {
                self.free(job, &tried)
            } else {
                tokio::select! {
                    biased;
                    () = self.stopping.cancelled() => return Err(RouteError::Stopping),
                    found = self.acquire(job, &tried, tell) => found?,
                }
            };
            let Given { worker, slot, decision } = match (found, busy.take()) {
                (Some(found), _) => found,
                // A worker said that it has too much to do, and there is no other: its client is told so.
                (None, Some(busy)) => return Ok(*busy),
                (None, None) => return Err(failed.unwrap_or_else(|| lost_track(job))),
            };
            explain(job, &worker, &decision);
            let failure = match self.send(job, &worker, slot, attempts, &tried).await {
                Ok(opened) => return Ok(opened),
                Err(failure) => failure,
            };
            tracing::info!(
                request_id = %job.request_id, hive_id = %worker.hive_id, worker_id = %worker.record.worker_id,
                reason = failure.for_the_log(), "worker did not answer"
            );
            tried.note(&worker, &failure);
            match failure {
                Failure::Busy(opened) => busy = Some(opened),
                other => {
                    worker.suspect();
                    self.desks.of(&job.model).suspicion();
                    if matches!(other, Failure::Unknown(_)) {
                        self.parts.registry.disown(&worker);
                    }
                    failed = Some(told(&worker, other, &tried, attempts.count()));
                }
            }
            if attempts.count() >= MAX_ATTEMPTS || tried.turns >= MAX_TURNS {
                return match busy {
                    Some(busy) => Ok(*busy),
                    None => Err(failed.unwrap_or_else(|| lost_track(job))),
                };
            }
        }
    }

    async fn send(
        &self,
        job: &Job,
        worker: &WorkerView,
        slot: Slot,
        attempts: &Attempts,
        tried: &Tried,
    ) -> Result<Opened, Failure> {
        let view = self.parts.registry.view();
        let hive = view.hive(&worker.hive_id);
        let Some((endpoint, lost)) = hive.and_then(|h| Some((h.endpoint.as_ref()?, h.lost.clone()))) else {
            return Err(Failure::NotSent("its hive is gone".to_owned()));
        };
        if endpoint.launch_id != worker.record.launch_id {
            return Err(Failure::NotSent("its hive is in another launch".to_owned()));
        }
        let engines = hive.and_then(|hive| hive.capabilities.as_ref()).map(|c| c.engines.iter());
        let engine = engines.and_then(|mut engines| engines.find(|e| e.name == worker.record.engine));
        let count = engine.and_then(|e| RunningCount::named(e.running_usage.as_deref()?));
        let body = job.body.bytes(count);
        let clients = if tried.lost { &self.fresh } else { &self.clients };
        let client = clients.of(endpoint.pin);
        let Parts { registry, journal, settings, .. } = &self.parts;
        attempt(
            Target { client, registry, settings, journal, attempts, worker, endpoint, lost, body },
            slot,
            job,
        )
        .await
    }
}

/// Why this worker, for whoever looks into the log.
fn explain(job: &Job, worker: &WorkerView, decision: &Decision) {
    let expected = &decision.expected;
    tracing::debug!(
        request_id = %job.request_id, hive_id = %worker.hive_id, worker_id = %worker.record.worker_id,
        waited_s = decision.waited.as_secs_f64(), wait_s = expected.wait_s, prefill_s = expected.prefill_s,
        decode_s = expected.decode_s, cached_tokens = expected.cached_tokens, compared = decision.compared,
        "worker chosen"
    );
}

fn told(worker: &WorkerView, failure: Failure, tried: &Tried, attempts: u32) -> RouteError {
    let (worker_id, hive_id) = (worker.record.worker_id.clone(), worker.hive_id.clone());
    let reason = match failure {
        Failure::Silent(waited) => return RouteError::WorkerTimeout { worker_id, hive_id, waited },
        Failure::Died(_) if tried.died >= MAX_ATTEMPTS => {
            return RouteError::KilledWorkers { worker_id, hive_id, attempts };
        }
        Failure::Failed { what, said: Some(said) } => format!("{what}: {said}"),
        failure => failure.for_the_log(),
    };
    RouteError::WorkerFailed { worker_id, hive_id, reason, attempts }
}

/// Workers that come and go faster than a request can be brought to one.
fn lost_track(job: &Job) -> RouteError {
    RouteError::QueueTimeout { model: job.model.clone(), waited: NOTICE }
}

//! Finding a worker, and another one when it fails.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fleet::{EventKind, HiveId, ModelRef, RequestId, WorkerId};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use journal::Journal;
use placement::{Placement, Stage};
use registry_ram::{Lease, WorkerRegistry, WorkerView};
use scheduler::{WorkerCandidate, choose_worker};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    Answer, AnswerBody, RouteError,
    answer::Ending,
    attempt::{Client, Failure, Opened, Target, attempt},
    queue::Queues,
};

/// Most workers that are sent one request.
pub const MAX_ATTEMPTS: u32 = 2;

/// Most workers that a request turns to, those too that could not be connected to.
const MAX_TURNS: usize = 8;

/// How long the registry may take to notice that a worker which just failed is gone.
const NOTICE: Duration = Duration::from_secs(2);

/// Bounds of the request path.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// To open a connection to a hive.
    pub connect: Duration,
    /// From the request to the first byte, without any progress of the worker.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub inter_token: Duration,
    /// Longest event of a worker's stream that is read rather than forwarded, in bytes.
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
    pub body: Bytes,
    /// Whether an event stream is expected.
    pub stream: bool,
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
    client: Client,
    queues: Queues,
    stopping: CancellationToken,
}

/// The workers that a request has tried.
#[derive(Default)]
struct Tried {
    workers: Vec<(HiveId, WorkerId)>,
    attempts: u32,
    /// Whether each attempt so far ended with a broken connection.
    all_died: bool,
}

impl Tried {
    fn has(&self, worker: &WorkerView) -> bool {
        self.workers.iter().any(|(h, w)| *h == worker.hive_id && *w == worker.record.worker_id)
    }
}

impl Router {
    /// Forwards nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(parts.settings.connect));
        let client = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // Below the 10 s after which a hive closes an idle connection, so that a pooled one is rarely stale.
            .pool_idle_timeout(Duration::from_secs(8))
            .build(connector);
        Self { parts, client, queues: Queues::default(), stopping: CancellationToken::new() }
    }

    pub(crate) const fn event_max(&self) -> usize {
        self.parts.settings.event_max
    }

    /// Refuses all requests that have no worker yet. Answers under way are not touched.
    pub fn close(&self) {
        self.stopping.cancel();
    }

    /// Brings a request to a worker and returns with the first byte of the answer. `tell` learns why that takes time.
    ///
    /// # Errors
    /// When no worker could be had in time, or those that were tried failed.
    pub async fn route(&self, job: &Job, mut tell: impl FnMut(Waiting) + Send) -> Result<Answer, RouteError> {
        let journal = self.parts.journal.clone();
        let mut ending = Ending::new(journal, job.request_id.clone(), job.model.to_string());
        let outcome = tokio::select! {
            outcome = self.attempts(job, &mut ending, &mut tell) => outcome,
            () = self.stopping.cancelled() => Err(RouteError::Stopping),
        };
        match outcome {
            Ok(Opened { head, body }) => Ok(Answer {
                worker_id: body.worker_id.clone(),
                hive_id: body.hive_id.clone(),
                attempts: ending.attempts,
                status: head.status,
                headers: head.headers,
                body: AnswerBody::new(body, ending),
            }),
            Err(error) => {
                ending.failed(error.code().as_str());
                Err(error)
            }
        }
    }

    async fn attempts(
        &self,
        job: &Job,
        ending: &mut Ending,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Opened, RouteError> {
        let mut tried = Tried { all_died: true, ..Tried::default() };
        let mut failed: Option<RouteError> = None;
        let mut busy: Option<Box<Opened>> = None;
        loop {
            let worker = if busy.is_some() {
                Ok(self.free(&job.model, &tried))
            } else {
                self.acquire(&job.model, &tried, tell).await
            };
            let (worker, lease) = match (worker, busy.take(), failed.take()) {
                (Ok(Some(found)), ..) => found,
                // A worker said that it has too much to do, and there is no other: its client is told so.
                (_, Some(busy), _) => return Ok(*busy),
                (Ok(None), None, Some(error)) => return Err(error),
                (Ok(None), None, None) => return Err(lost_track(job)),
                (Err(error), ..) => return Err(error),
            };
            let failure = match self.send(job, &worker, lease, ending.attempts + 1).await {
                Ok(opened) => {
                    ending.attempts += 1;
                    return Ok(opened);
                }
                Err(failure) => failure,
            };
            tracing::info!(
                request_id = %job.request_id, hive_id = %worker.hive_id, worker_id = %worker.record.worker_id,
                ?failure, "worker did not answer"
            );
            if !matches!(failure, Failure::NotSent(_)) {
                ending.attempts += 1;
            }
            tried.attempts = ending.attempts;
            tried.all_died &= matches!(failure, Failure::Died(_));
            tried.workers.push((worker.hive_id.clone(), worker.record.worker_id.clone()));
            match failure {
                Failure::Busy(opened) => busy = Some(opened),
                other => {
                    worker.suspect();
                    failed = Some(told(&worker, other, &tried));
                }
            }
            if tried.attempts >= MAX_ATTEMPTS || tried.workers.len() >= MAX_TURNS {
                return match (busy, failed) {
                    (Some(busy), _) => Ok(*busy),
                    (None, error) => Err(error.unwrap_or_else(|| lost_track(job))),
                };
            }
        }
    }

    async fn send(
        &self,
        job: &Job,
        worker: &WorkerView,
        lease: Lease,
        number: u32,
    ) -> Result<Opened, Failure> {
        let view = self.parts.registry.view();
        let hive = view.hive(&worker.hive_id);
        let Some((endpoint, lost)) = hive.and_then(|h| Some((h.endpoint.as_ref()?, h.lost.clone()))) else {
            return Err(Failure::NotSent("its hive is gone".to_owned()));
        };
        if endpoint.launch_id != worker.record.launch_id {
            return Err(Failure::NotSent("its hive is in another launch".to_owned()));
        }
        self.parts.journal.record(EventKind::Attempt {
            request_id: job.request_id.clone(),
            hive_id: worker.hive_id.clone(),
            launch_id: endpoint.launch_id.clone(),
            worker_id: worker.record.worker_id.clone(),
            attempt: number,
        });
        let target = Target { worker, endpoint, lost };
        attempt(&self.client, &self.parts.registry, &self.parts.settings, target, lease, job).await
    }

    /// A worker with a free slot that was not tried yet, if there is one now.
    fn free(&self, model: &ModelRef, tried: &Tried) -> Option<(Arc<WorkerView>, Lease)> {
        let view = self.parts.registry.view();
        let workers: Vec<_> = view.serving(model).iter().filter(|w| !tried.has(w)).collect();
        loop {
            let candidates: Vec<_> = workers
                .iter()
                .map(|w| WorkerCandidate {
                    hive_id: &w.hive_id,
                    worker_id: &w.record.worker_id,
                    in_flight: w.in_flight(),
                    slots: w.record.slots,
                    suspect: w.is_suspect(),
                })
                .collect();
            let worker = workers[choose_worker(&candidates)?];
            // Another request may have taken the slot since it was counted.
            if let Some(lease) = worker.lease() {
                return Some((Arc::clone(worker), lease));
            }
        }
    }

    /// A worker with a free slot, waited for or started if need be. None if all that serve the model were tried and
    /// stay.
    async fn acquire(
        &self,
        model: &ModelRef,
        tried: &Tried,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<(Arc<WorkerView>, Lease)>, RouteError> {
        let mut rounds = 0;
        loop {
            if self.queues.is_empty(model)
                && let Some(found) = self.free(model, tried)
            {
                return Ok(Some(found));
            }
            let view = self.parts.registry.view();
            let serving = view.serving(model);
            if serving.iter().any(|w| !tried.has(w)) {
                if let Some(found) = self.queued(model, tried, tell).await? {
                    return Ok(Some(found));
                }
                continue;
            }
            if !serving.is_empty() && !self.untried(model, tried).await {
                return Ok(None);
            }
            rounds += 1;
            if rounds > MAX_TURNS {
                return Ok(None);
            }
            self.cold_start(model, tell).await?;
        }
    }

    /// Waits a moment for the registry to learn that the tried workers are gone, or for another one.
    async fn untried(&self, model: &ModelRef, tried: &Tried) -> bool {
        let mut changes = self.parts.registry.changes();
        let moved = async {
            while {
                let view = self.parts.registry.view();
                let serving = view.serving(model);
                !serving.is_empty() && serving.iter().all(|w| tried.has(w))
            } {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(NOTICE, moved).await.is_ok()
    }

    /// Waits in the model's queue for a slot. None if there is no worker left to wait for.
    async fn queued(
        &self,
        model: &ModelRef,
        tried: &Tried,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<(Arc<WorkerView>, Lease)>, RouteError> {
        let Settings { queue_length, queue_wait, .. } = self.parts.settings;
        let full = |waiting| RouteError::QueueFull { model: model.clone(), waiting };
        let place = self.queues.enter(model, queue_length).map_err(full)?;
        let late = |_| RouteError::QueueTimeout { model: model.clone(), waited: queue_wait };
        let deadline = Instant::now() + queue_wait;
        let mut told = false;
        let mut released = self.parts.registry.released();
        let mut changes = self.parts.registry.changes();
        let turn = match timeout(Duration::ZERO, place.turn()).await {
            Ok(turn) => turn,
            Err(_) => {
                told = true;
                tell(Waiting::Queued { ahead: place.ahead });
                timeout_at(deadline, place.turn()).await.map_err(late)?
            }
        };
        loop {
            if let Some(found) = self.free(model, tried) {
                drop(turn);
                return Ok(Some(found));
            }
            if self.parts.registry.view().serving(model).iter().all(|w| tried.has(w)) {
                return Ok(None);
            }
            if !std::mem::replace(&mut told, true) {
                tell(Waiting::Queued { ahead: place.ahead });
            }
            let woken = async {
                tokio::select! {
                    _ = released.changed() => {}
                    _ = changes.changed() => {}
                }
            };
            timeout_at(deadline, woken).await.map_err(late)?;
        }
    }

    async fn cold_start(
        &self,
        model: &ModelRef,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<(), RouteError> {
        let mut waiter = self.parts.placement.ensure_worker(model);
        loop {
            match waiter.now() {
                Stage::Ready => return Ok(()),
                Stage::Failed(error) => return Err(error.into()),
                stage => tell(Waiting::Starting(stage)),
            }
            waiter.moved().await;
        }
    }
}

fn told(worker: &WorkerView, failure: Failure, tried: &Tried) -> RouteError {
    let (worker_id, hive_id) = (worker.record.worker_id.clone(), worker.hive_id.clone());
    let attempts = tried.attempts;
    match failure {
        Failure::Silent(waited) => RouteError::WorkerTimeout { worker_id, hive_id, waited },
        Failure::Died(_) if tried.all_died && attempts >= MAX_ATTEMPTS => {
            RouteError::KilledWorkers { worker_id, hive_id, attempts }
        }
        Failure::NotSent(reason) | Failure::Failed(reason) | Failure::Died(reason) => {
            RouteError::WorkerFailed { worker_id, hive_id, reason, attempts }
        }
        Failure::Busy(_) => {
            let reason = "it has too much to do".to_owned();
            RouteError::WorkerFailed { worker_id, hive_id, reason, attempts }
        }
    }
}

/// Workers that come and go faster than a request can be brought to one.
fn lost_track(job: &Job) -> RouteError {
    RouteError::QueueTimeout { model: job.model.clone(), waited: NOTICE }
}

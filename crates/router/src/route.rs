//! Finding a worker, and another one when it fails.

use std::{sync::Arc, time::Duration};

use fleet::DecisionKind;
use http_client::{Connector, PerPin, Pool};
use journal::{Decisions, Journal, Record};
use placement::Placement;
use registry_ram::{WorkerRegistry, WorkerView};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Answer, AnswerBody, Job, RouteError, Waiting,
    answer::{Broken, refusal_code},
    attempt::{Attempts, Client, Exchanged, Failure, Opened, Target, exchange, opened},
    backend::Backend,
    budget::Budget,
    desk::{Desks, Given, Slot},
    ending::Ending,
};

mod acquire;
mod explain;
mod tried;

use acquire::NOTICE;
use tried::Tried;

/// Most workers that are sent one request.
pub const MAX_ATTEMPTS: u32 = 2;

/// Most workers that a request turns to, those too that could not be connected to.
const MAX_TURNS: usize = 8;

/// How long an unused connection to a hive is kept. A hive closes it after 10 s, so that a kept one is rarely stale.
const KEPT: Duration = Duration::from_secs(8);

/// How many times the expected prefill a worker is waited for, if that is longer than the bound.
const PREFILLS: f64 = 4.0;

/// Why a request is not sent again.
const SPENT: &str = "too many requests had to be sent again in the last seconds";

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
    /// Requests whose decisions are remembered.
    pub decisions: usize,
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
            decisions: 10_000,
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

/// Forwards requests to workers.
pub struct Router {
    parts: Parts,
    clients: PerPin<Client>,
    /// Open a connection for each request: one that was kept open may have been closed by the other side meanwhile.
    fresh: PerPin<Client>,
    desks: Desks,
    budget: Budget,
    decisions: Decisions,
    stopping: CancellationToken,
    cut: CancellationToken,
    /// Requests that have not ended.
    under_way: TaskTracker,
}

impl Router {
    /// Forwards nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let desks = Desks::new(Arc::clone(&parts.registry));
        let Settings { connect, decisions, .. } = parts.settings;
        let pooled = move |trust| Pool::new(Connector::new(trust, connect), KEPT);
        let fresh = move |trust| Pool::new(Connector::new(trust, connect), Duration::ZERO);
        Self {
            parts,
            clients: PerPin::new(pooled),
            fresh: PerPin::new(fresh),
            desks,
            budget: Budget::default(),
            decisions: Decisions::new(decisions),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            under_way: TaskTracker::new(),
        }
    }

    /// Why the last requests went where they went.
    #[must_use]
    pub const fn decisions(&self) -> &Decisions {
        &self.decisions
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
    pub async fn route(&self, job: &Job, mut tell: impl FnMut(Waiting) + Send) -> Result<Answer, RouteError> {
        let journal = self.parts.journal.clone();
        let (id, model) = (job.request_id.clone(), job.model.clone());
        let record = self.decisions.begin(explain::request(job));
        let ending = Ending::new(journal, id, model, record, self.under_way.token());
        self.budget.request();
        let mut course = Course { tried: Tried::default(), ending };
        let opened = self.attempts(job, &mut course, &mut tell).await;
        self.answer(course.ending, opened)
    }

    /// Brings what is left of a request whose answer broke off to another worker of the same file.
    pub(crate) async fn resume(
        &self,
        job: &Job,
        broken: Broken,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Answer, RouteError> {
        let Broken { is_dead, reason, hive_id, worker_id, digest, mut ending } = broken;
        let failed = DecisionKind::Failed { hive_id: hive_id.clone(), worker_id: worker_id.clone(), reason };
        ending.record().note(failed);
        if !is_dead && !self.budget.again() {
            ending.record().note(DecisionKind::NotAgain { reason: SPENT.to_owned() });
            let error =
                RouteError::WorkerFailed { worker_id, hive_id, reason: SPENT.to_owned(), attempts: 1 };
            ending.failed(error.code());
            return Err(error);
        }
        let mut course = Course { tried: Tried::broken(hive_id, worker_id, digest), ending };
        let opened = self.attempts(job, &mut course, tell).await;
        self.answer(course.ending, opened)
    }

    /// What came of a request, as its client learns it.
    fn answer(
        &self,
        mut ending: Ending,
        opened: Result<(Opened, Duration), RouteError>,
    ) -> Result<Answer, RouteError> {
        let (Opened { head, body }, queued) = opened.inspect_err(|error| ending.failed(error.code()))?;
        if !head.status.is_success() {
            ending.failed(refusal_code(head.status));
        }
        Ok(Answer {
            attempts: ending.attempts().count(),
            queued,
            status: head.status,
            headers: head.headers,
            body: Box::new(AnswerBody::new(body, ending, self.cut.clone())),
        })
    }

    async fn attempts(
        &self,
        job: &Job,
        course: &mut Course,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<(Opened, Duration), RouteError> {
        let Course { tried, ending } = course;
        let (record, attempts) = (ending.record(), ending.attempts());
        let mut failed: Option<Box<RouteError>> = None;
        let mut busy: Option<(Box<Opened>, Duration)> = None;
        loop {
            let found = if busy.is_some() {
                self.free(job, tried)
            } else {
                // Each step in memory of its own: one large piece takes longer to come by than some small ones.
                match (Box::pin(self.acquire(job, tried, record, tell)).await, failed.take()) {
                    // What its own worker said tells more than that the others fail too.
                    (Err(RouteError::Failing { .. }), Some(failed)) => return Err(*failed),
                    (found, before) => {
                        failed = before;
                        found?
                    }
                }
            };
            let given = match (found, busy.take()) {
                (Some(found), _) => found,
                // A worker said that it has too much to do, and there is no other: its client is told so.
                (None, Some((busy, queued))) => return Ok((*busy, queued)),
                (None, None) => return Err(failed.map_or_else(|| lost_track(job), |failed| *failed)),
            };
            let queued = record.age();
            let (backend, mut slot, patience) = noted(given, record);
            let exchanged = Box::pin(self.send(job, &backend, &mut slot, patience, attempts, tried)).await;
            let worker = Arc::clone(&backend.worker);
            let failure =
                match exchanged.and_then(|answer| opened(&self.parts.settings, backend, slot, answer)) {
                    Ok(opened) => return Ok((opened, queued)),
                    Err(_) if self.cut.is_cancelled() => return Err(RouteError::Stopping),
                    Err(failure) => failure,
                };
            let reason = failure.for_the_log();
            tracing::info!(
                request_id = %job.request_id, hive_id = %worker.hive_id, worker_id = %worker.record.worker_id,
                reason, "worker did not answer"
            );
            let (hive_id, worker_id) = (worker.hive_id.clone(), worker.record.worker_id.clone());
            record.note(DecisionKind::Failed { hive_id, worker_id, reason });
            tried.note(&worker, &failure);
            let judging = Box::pin(self.may_go_on(job, &worker, &failure, tried, attempts));
            let may_go_on = tokio::select! {
                may_go_on = judging => may_go_on,
                () = self.cut.cancelled() => return Err(RouteError::Stopping),
            };
            match failure {
                Failure::Busy(opened) => busy = Some((opened, queued)),
                other => {
                    if matches!(other, Failure::Unknown(_)) {
                        self.parts.registry.disown(&worker);
                    }
                    failed = Some(Box::new(tried.told(&worker, other, attempts.count())));
                }
            }
            if let Err(reason) = may_go_on {
                record.note(DecisionKind::NotAgain { reason: reason.to_owned() });
                return match busy {
                    Some((busy, queued)) => Ok((*busy, queued)),
                    None => Err(failed.map_or_else(|| lost_track(job), |failed| *failed)),
                };
            }
        }
    }

    /// Whether another worker may be tried, or why not.
    async fn may_go_on(
        &self,
        job: &Job,
        worker: &WorkerView,
        failure: &Failure,
        tried: &Tried,
        attempts: &Attempts,
    ) -> Result<(), &'static str> {
        if attempts.count() >= MAX_ATTEMPTS {
            return Err("two workers were sent it");
        }
        if tried.turns() >= MAX_TURNS {
            return Err("no worker could be reached");
        }
        // What no worker saw is sent for the first time. What was on a worker that died burdens nobody twice.
        let is_free =
            attempts.count() == 0 || matches!(failure, Failure::Died(_)) || !self.serves(job, worker);
        if is_free || self.budget.again() {
            return Ok(());
        }
        let may_be_dead = matches!(failure, Failure::Lost(_) | Failure::Silent(_));
        if may_be_dead && self.vanishes(job, worker, NOTICE).await { Ok(()) } else { Err(SPENT) }
    }

    async fn send(
        &self,
        job: &Job,
        backend: &Backend,
        slot: &mut Slot,
        patience: Option<Duration>,
        attempts: &Attempts,
        tried: &Tried,
    ) -> Result<Exchanged, Failure> {
        let way = match &backend.way {
            Ok(_) if backend.lost.is_cancelled() => Err("its hive stopped answering"),
            way => way.as_ref().map_err(|reason| *reason),
        };
        let (way, body) = match (way, job.body.bytes(backend.skills)) {
            (Ok(way), Some(body)) => (way, body),
            (Ok(_), None) => {
                return Err(Failure::NotSent("its engine cannot go on with a chat".to_owned()));
            }
            (Err(reason), _) => {
                slot.failed();
                return Err(Failure::NotSent(reason.to_owned()));
            }
        };
        let Parts { registry, journal, settings, .. } = &self.parts;
        let clients = if tried.lost().is_some() { &self.fresh } else { &self.clients };
        let target = Target {
            client: &clients.of(way.endpoint.pin),
            registry,
            first_byte: patience.unwrap_or(settings.first_byte).max(settings.first_byte),
            journal,
            attempts,
            cut: &self.cut,
            backend,
            way,
            body,
        };
        let exchanged = exchange(&target, job).await;
        match exchanged {
            Ok(_) => {}
            Err(Failure::Silent(_)) => slot.silent(),
            Err(_) => slot.failed(),
        }
        exchanged
    }
}

/// A request on its way.
struct Course {
    tried: Tried,
    ending: Ending,
}

/// What a request was given, once it is noted why; and how long the worker may be silent for as long as it is expected to take
/// for the prompt.
fn noted(given: Given, record: &Record) -> (Arc<Backend>, Slot, Option<Duration>) {
    let Given { backend, slot, decision } = given;
    record.note(explain::sent(&backend.worker, &decision));
    let reading = decision.expected.wait_s + decision.expected.prefill_s;
    (backend, slot, Duration::try_from_secs_f64(PREFILLS * reading).ok())
}

/// Workers that come and go faster than a request can be brought to one.
fn lost_track(job: &Job) -> RouteError {
    RouteError::QueueTimeout { model: job.model.clone(), waited: NOTICE }
}

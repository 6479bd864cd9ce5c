//! A worker with a free slot: found, waited for, or started.

use std::{sync::Arc, time::Duration};

use fleet::DecisionKind;
use journal::Record;
use placement::Stage;
use registry_ram::{FleetView, WorkerView};
use scheduler::Request;
use tokio::time::{Instant, sleep_until, timeout};

use super::{MAX_TURNS, Router, Tried, tried::is_within};
use crate::{
    Job, RouteError, Settings, Waiting,
    backend::key,
    desk::{Away, Bounds, Crowd, Desk, Entered, Given, Order, Place, Refused},
};

/// How long the registry may take to notice that a worker which just failed is gone: a hive whose watch stream broke is
/// probed twice, for a second each, before it counts as unreachable.
pub(super) const NOTICE: Duration = Duration::from_secs(4);

/// How long a worker whose connection broke is given before it alone is tried again. If it died, its hive says so by then;
/// if the connection had only been kept for too long, the client waits no longer than this.
const BREATH: Duration = Duration::from_millis(500);

/// How often the line is looked at though nothing happened.
const RARELY: Duration = Duration::from_secs(5);

impl Router {
    /// What the dispatch must know of a request.
    fn request(&self, job: &Job, tried: &Tried) -> Request {
        let mut not = Vec::new();
        if tried.is_under_way() {
            let view = self.parts.registry.view();
            not.extend(
                view.serving(&job.model)
                    .iter()
                    .filter(|worker| tried.has(worker))
                    .map(|worker| Arc::new(key(worker))),
            );
        }
        Request {
            prompt: job.prompt.clone(),
            max_tokens: job.max_tokens,
            priority: job.terms.priority,
            caller: job.terms.caller,
            region: job.terms.region.clone(),
            tried: not,
        }
    }

    /// A worker with a free slot that was not tried yet, if there is one now.
    pub(super) fn free(&self, job: &Job, tried: &Tried) -> Option<Given> {
        let desk = self.desks.of(&job.model);
        match desk.enter(self.request(job, tried), Order::First) {
            Ok(Entered::Served(given)) if !tried.has(&given.backend.worker) => Some(given),
            _ => None,
        }
    }

    /// A worker with a free slot, waited for or started if need be, unless the queen stops before there is one. None if all that
    /// serve the model were tried and stay.
    pub(super) async fn acquire(
        &self,
        job: &Job,
        tried: &Tried,
        record: &Record,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<Given>, RouteError> {
        if self.stopping.is_cancelled() {
            return Err(RouteError::Stopping);
        }
        tokio::select! {
            biased;
            found = self.found_or_started(job, tried, record, tell) => found,
            () = self.stopping.cancelled() => Err(RouteError::Stopping),
        }
    }

    async fn found_or_started(
        &self,
        job: &Job,
        tried: &Tried,
        record: &Record,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<Given>, RouteError> {
        let mut rounds = 0;
        loop {
            let view = self.parts.registry.view();
            let serving = view.serving(&job.model);
            if !serving.iter().any(|worker| is_within(worker, job, &view)) {
                is_somewhere(job, &view)?;
                record.note(DecisionKind::ColdStart);
                self.cold_start(job, tell).await?;
            } else if serving.iter().any(|worker| tried.leaves(worker, job, &view)) {
                if tried.is_left_with_the_lost(job, &view) {
                    self.breathe(job, tried).await;
                }
                let given = self.queued(job, tried, record, tell).await?;
                if let Some(given) = given.filter(|given| !tried.has(&given.backend.worker)) {
                    return Ok(Some(given));
                }
            } else if !tried.may_vanish() || !self.untried(job, tried).await {
                return Ok(None);
            }
            rounds += 1;
            if rounds > MAX_TURNS {
                return Ok(None);
            }
        }
    }

    /// Waits a moment for the registry to learn that the tried workers are gone, or for another one.
    async fn untried(&self, job: &Job, tried: &Tried) -> bool {
        let mut changes = self.parts.registry.changes();
        let moved = async {
            while {
                let view = self.parts.registry.view();
                let serving = view.serving(&job.model);
                !serving.is_empty() && !serving.iter().any(|worker| tried.leaves(worker, job, &view))
            } {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(NOTICE, moved).await.is_ok()
    }

    /// Whether requests still go to a worker, as far as the registry knows.
    pub(super) fn serves(&self, job: &Job, worker: &WorkerView) -> bool {
        let view = self.parts.registry.view();
        let same = |other: &&Arc<WorkerView>| {
            (&other.hive_id, &other.record.launch_id, &other.record.worker_id)
                == (&worker.hive_id, &worker.record.launch_id, &worker.record.worker_id)
        };
        view.serving(&job.model).iter().any(|other| same(&other))
    }

    /// Waits for the registry to learn that a worker is gone. False if it stays.
    pub(super) async fn vanishes(&self, job: &Job, worker: &WorkerView, within: Duration) -> bool {
        let mut changes = self.parts.registry.changes();
        let gone = async { while self.serves(job, worker) && changes.changed().await.is_ok() {} };
        timeout(within, gone).await.is_ok()
    }

    /// Waits a moment before the worker whose connection broke gets the second attempt as well, unless there is news.
    async fn breathe(&self, job: &Job, tried: &Tried) {
        let mut changes = self.parts.registry.changes();
        let alone = || tried.is_left_with_the_lost(job, &self.parts.registry.view());
        let news = async { while alone() && changes.changed().await.is_ok() {} };
        let _ = timeout(BREATH, news).await;
    }

    /// Waits in the model's line for a worker. None if there is no worker left to wait for.
    async fn queued(
        &self,
        job: &Job,
        tried: &Tried,
        record: &Record,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<Given>, RouteError> {
        let Settings { queue_length, queue_wait, .. } = self.parts.settings;
        let bounds = Bounds { length: queue_length, wait: queue_wait };
        let order = if tried.is_under_way() { Order::First } else { Order::Last(bounds) };
        let desk = self.desks.of(&job.model);
        let away = |away| sent_away(job, away, queue_length);
        let mut place = match desk.enter(self.request(job, tried), order) {
            Ok(Entered::Served(given)) => return Ok(Some(given)),
            Ok(Entered::Waits(place)) => place,
            Err(Refused::Crowd(crowd)) => return Err(refused(job, crowd, queue_wait)),
            Err(Refused::Away(reason)) => return Err(away(reason)),
        };
        let deadline = Instant::now() + queue_wait;
        let (ahead, expected_wait_s) = (place.ahead, place.expected.map(|wait| wait.as_secs_f64()));
        record.note(DecisionKind::Queued { ahead, expected_wait_s });
        tell(Waiting::Queued { ahead });
        let _waits = self.parts.placement.waits(&job.model, place.expected, job.terms.region.as_ref());
        // Most requests need not wait, and are spared the room for it.
        if let Some(reply) = Box::pin(self.waited(job, tried, &desk, &mut place, deadline)).await {
            return reply.map(Some).map_err(away);
        }
        let late = || RouteError::QueueTimeout { model: job.model.clone(), waited: queue_wait };
        let given = place.now().map_err(away)?;
        if given.is_none() && Instant::now() >= deadline { Err(late()) } else { Ok(given) }
    }

    /// What those who wait are told; none if there is nobody left to wait for, or the time is over.
    async fn waited(
        &self,
        job: &Job,
        tried: &Tried,
        desk: &Arc<Desk>,
        place: &mut Place,
        deadline: Instant,
    ) -> Option<Result<Given, Away>> {
        let in_vain = || {
            let view = self.parts.registry.view();
            !view.serving(&job.model).iter().any(|worker| tried.leaves(worker, job, &view))
        };
        // One of those who wait looks out for all of them.
        let lookout = async {
            let mut changes = self.parts.registry.changes();
            let _turn = desk.turn().await;
            loop {
                let released = self.parts.registry.released();
                let again = desk.look().unwrap_or_else(|| Instant::now() + RARELY);
                if in_vain() {
                    return;
                }
                tokio::select! {
                    () = released => {}
                    _ = changes.changed() => {}
                    () = sleep_until(again) => {}
                }
            }
        };
        // Whoever was sent before waits for some of the workers only, and sees for itself when those have gone.
        let gone = async {
            let mut changes = self.parts.registry.changes();
            while tried.is_under_way() && !in_vain() && changes.changed().await.is_ok() {}
            if !tried.is_under_way() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            given = place.given() => Some(given),
            () = lookout => None,
            () = gone => None,
            () = sleep_until(deadline) => None,
        }
    }

    async fn cold_start(&self, job: &Job, tell: &mut (impl FnMut(Waiting) + Send)) -> Result<(), RouteError> {
        let mut waiter = self.parts.placement.ensure_worker_in(&job.model, job.terms.region.as_ref());
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

fn sent_away(job: &Job, away: Away, waiting: u32) -> RouteError {
    let model = job.model.clone();
    match away {
        Away::Displaced => RouteError::QueueFull { model, waiting },
        Away::Failing(again) => RouteError::Failing { model, again },
    }
}

fn refused(job: &Job, crowd: Crowd, bound: Duration) -> RouteError {
    let model = job.model.clone();
    match crowd {
        Crowd { ahead, expected: Some(expected), .. } => {
            RouteError::QueueSlow { model, ahead, expected, bound }
        }
        Crowd { waiting, .. } => RouteError::QueueFull { model, waiting },
    }
}

/// Fails if no hive stands where the request may go.
fn is_somewhere(job: &Job, view: &FleetView) -> Result<(), RouteError> {
    let Some(region) = &job.terms.region else { return Ok(()) };
    if view.hives().any(|hive| hive.region.as_ref() == Some(region)) {
        return Ok(());
    }
    let regions: std::collections::BTreeSet<_> =
        view.hives().map(|hive| hive.region.as_deref().unwrap_or("none")).collect();
    let there = regions.into_iter().collect::<Vec<_>>().join(", ");
    Err(RouteError::NoRegion { model: job.model.clone(), region: Arc::clone(region), there })
}

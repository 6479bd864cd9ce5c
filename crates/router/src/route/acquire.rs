//! A worker with a free slot: found, waited for, or started.

use std::{sync::Arc, time::Duration};

use fleet::ModelRef;
use placement::Stage;
use scheduler::{Request, WorkerKey};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Job, MAX_TURNS, Router, Tried, Waiting};
use crate::{
    RouteError, Settings,
    desk::{Desk, Given, Order, Place},
};

/// How long the registry may take to notice that a worker which just failed is gone: a hive whose watch stream broke is
/// probed twice, for a second each, before it counts as unreachable.
pub(super) const NOTICE: Duration = Duration::from_secs(4);

/// How often the line is looked at though nothing happened.
const RARELY: Duration = Duration::from_secs(5);

impl Router {
    /// What the dispatch must know of a request.
    fn request(&self, job: &Job, tried: &Tried) -> Request {
        let view = self.parts.registry.view();
        let not = view.serving(&job.model).iter().filter(|worker| tried.has(worker)).map(|worker| {
            Arc::new(WorkerKey {
                hive_id: worker.hive_id.clone(),
                launch_id: worker.record.launch_id.clone(),
                worker_id: worker.record.worker_id.clone(),
            })
        });
        Request {
            prompt: job.prompt.clone(),
            max_tokens: job.max_tokens,
            region: None,
            tried: if tried.is_under_way() { not.collect() } else { Vec::new() },
        }
    }

    /// A worker with a free slot that was not tried yet, if there is one now.
    pub(super) fn free(&self, job: &Job, tried: &Tried) -> Option<Given> {
        let desk = self.desks.of(&job.model);
        let given = desk.enter(self.request(job, tried), Order::First).ok()?.now()?;
        (!tried.has(&given.worker)).then_some(given)
    }

    /// A worker with a free slot, waited for or started if need be. None if all that serve the model were tried and
    /// stay.
    pub(super) async fn acquire(
        &self,
        job: &Job,
        tried: &Tried,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<Given>, RouteError> {
        let model = &job.model;
        let mut rounds = 0;
        loop {
            let view = self.parts.registry.view();
            let serving = view.serving(model);
            if serving.is_empty() {
                self.cold_start(model, tell).await?;
            } else if serving.iter().any(|w| !tried.has(w)) {
                let given = self.queued(job, tried, tell).await?;
                if let Some(given) = given.filter(|given| !tried.has(&given.worker)) {
                    return Ok(Some(given));
                }
            } else if !tried.may_vanish || !self.untried(model, tried).await {
                return Ok(None);
            }
            rounds += 1;
            if rounds > MAX_TURNS {
                return Ok(None);
            }
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

    /// Waits in the model's line for a worker. None if there is no worker left to wait for.
    async fn queued(
        &self,
        job: &Job,
        tried: &Tried,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<Given>, RouteError> {
        let Settings { queue_length, queue_wait, .. } = self.parts.settings;
        let deadline = Instant::now() + queue_wait;
        let order = if tried.is_under_way() { Order::First } else { Order::Last(queue_length) };
        let desk = self.desks.of(&job.model);
        let full = |waiting| RouteError::QueueFull { model: job.model.clone(), waiting };
        let mut place = desk.enter(self.request(job, tried), order).map_err(full)?;
        if let Some(given) = place.now() {
            return Ok(Some(given));
        }
        tell(Waiting::Queued { ahead: place.ahead });
        let _waits = self.parts.placement.waits(&job.model);
        self.waited(job, tried, &desk, &mut place, deadline)
            .await
            .map_err(|()| RouteError::QueueTimeout { model: job.model.clone(), waited: queue_wait })
    }

    async fn waited(
        &self,
        job: &Job,
        tried: &Tried,
        desk: &Arc<Desk>,
        place: &mut Place,
        deadline: Instant,
    ) -> Result<Option<Given>, ()> {
        let in_vain = || self.parts.registry.view().serving(&job.model).iter().all(|w| tried.has(w));
        // One of those who wait looks out for all of them.
        let lookout = async {
            let mut released = self.parts.registry.released();
            let mut changes = self.parts.registry.changes();
            let _turn = desk.turn().await;
            loop {
                let again = desk.look().unwrap_or_else(|| Instant::now() + RARELY);
                if in_vain() {
                    return;
                }
                tokio::select! {
                    _ = released.changed() => {}
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
            given = place.given() => return Ok(Some(given)),
            () = lookout => {}
            () = gone => {}
            () = sleep_until(deadline) => return place.now().map(Some).ok_or(()),
        }
        Ok(place.now())
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

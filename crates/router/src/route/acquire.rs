//! A worker with a free slot: found, waited for, or started.

use std::{sync::Arc, time::Duration};

use fleet::ModelRef;
use placement::Stage;
use registry_ram::{Lease, WorkerView};
use scheduler::{WorkerCandidate, choose_worker};
use tokio::time::{Instant, timeout, timeout_at};

use super::{MAX_TURNS, Router, Tried, Waiting};
use crate::{RouteError, Settings};

/// How long the registry may take to notice that a worker which just failed is gone: a hive whose watch stream broke is
/// probed twice, for a second each, before it counts as unreachable.
pub(super) const NOTICE: Duration = Duration::from_secs(4);

type Found = (Arc<WorkerView>, Lease);

impl Router {
    /// A worker with a free slot that was not tried yet, if there is one now.
    pub(super) fn free(&self, model: &ModelRef, tried: &Tried) -> Option<Found> {
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
    pub(super) async fn acquire(
        &self,
        model: &ModelRef,
        tried: &Tried,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<Found>, RouteError> {
        let mut rounds = 0;
        loop {
            // A request that was sent before is older than all who wait.
            if (tried.is_under_way() || self.queues.is_empty(model))
                && let Some(found) = self.free(model, tried)
            {
                return Ok(Some(found));
            }
            let view = self.parts.registry.view();
            let serving = view.serving(model);
            if serving.is_empty() {
                self.cold_start(model, tell).await?;
            } else if serving.iter().any(|w| !tried.has(w)) {
                if let Some(found) = self.queued(model, tried, tell).await? {
                    return Ok(Some(found));
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

    /// Waits in the model's queue for a slot. None if there is no worker left to wait for.
    async fn queued(
        &self,
        model: &ModelRef,
        tried: &Tried,
        tell: &mut (impl FnMut(Waiting) + Send),
    ) -> Result<Option<Found>, RouteError> {
        let Settings { queue_length, queue_wait, .. } = self.parts.settings;
        let full = |waiting| RouteError::QueueFull { model: model.clone(), waiting };
        let place = self.queues.enter(model, queue_length).map_err(full)?;
        let late = |_| RouteError::QueueTimeout { model: model.clone(), waited: queue_wait };
        let deadline = Instant::now() + queue_wait;
        let mut told = false;
        let mut released = self.parts.registry.released();
        let mut changes = self.parts.registry.changes();
        // One that is under way looks for itself: it waits for some of the workers only, and those behind it would wait
        // for them too while others have free slots.
        let turn = match place.try_turn() {
            _ if tried.is_under_way() => None,
            Some(turn) => Some(turn),
            None => {
                told = true;
                tell(Waiting::Queued { ahead: place.ahead });
                Some(timeout_at(deadline, place.turn()).await.map_err(late)?)
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

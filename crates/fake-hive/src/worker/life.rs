//! From loading to the end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fleet::{FailureCode, WorkerId, WorkerRecord, WorkerState};
use hive_api::{ErrorCode, StopWorkerRequest, server::HiveResult};
use tokio::time::sleep;

use crate::{
    script::{Cut, Load},
    state::{Core, refused},
};

/// Steps in which the progress of loading is reported.
const LOAD_STEPS: u32 = 4;

/// How long a stopped worker may finish what it has, unless the request says otherwise.
const STOP_GRACE: Duration = Duration::from_secs(30);

impl Core {
    /// Takes up what a former launch had begun with the workers that it left.
    pub(crate) fn resume_workers(self: &Arc<Self>) {
        let unfinished: Vec<_> = {
            let mut state = self.state();
            let left = state.workers.iter_mut().filter(|(_, w)| !w.record.state.is_over());
            left.map(|(id, w)| (id.clone(), w.record.state.is_coming(), w.stopping)).collect()
        };
        for (id, is_coming, stopping) in unfinished {
            let core = Arc::clone(self);
            if stopping {
                self.in_launch(async move { core.end_worker(&id, Duration::ZERO).await });
            } else if is_coming {
                self.in_launch(async move { core.load(&id, false).await });
            }
        }
    }

    pub(super) async fn load(&self, id: &WorkerId, corrupt: bool) {
        let script = self.script_of(id);
        for step in 0..LOAD_STEPS {
            let progress = step as f32 / LOAD_STEPS as f32;
            let stuck = matches!(script.load, Load::Never { stuck_at } if progress > stuck_at);
            if !self.state().move_worker(id, WorkerState::Loading { progress: Some(progress) }) {
                return;
            }
            if stuck {
                return;
            }
            sleep(Duration::from_millis(script.load_ms) / LOAD_STEPS).await;
        }
        let failure = match script.load {
            Load::Never { .. } => return,
            Load::Fails { code, log_tail } => Some((code, log_tail.unwrap_or(script.log))),
            Load::Ready if corrupt => {
                Some((FailureCode::ModelInvalid, vec!["fake worker: bad magic in model file".to_owned()]))
            }
            Load::Ready => None,
        };
        if let Some((code, log_tail)) = failure {
            self.fail_worker(id, WorkerState::Failed { code, log_tail }, Cut::Rst);
            return;
        }
        let mut state = self.state();
        if let Some(worker) = state.workers.get_mut(id) {
            worker.answers_from = Some(Instant::now() + Duration::from_millis(script.answers_after_ms));
        }
        state.move_worker(id, WorkerState::Ready);
    }

    fn fail_worker(&self, id: &WorkerId, failed: WorkerState, how: Cut) {
        let mut state = self.state();
        if let Some(worker) = state.workers.get(id) {
            worker.die(how);
        }
        let ended = state.move_worker(id, failed);
        drop(state);
        if ended {
            self.report_devices();
        }
    }

    /// Its process ends unasked. Unreported, the hive goes on calling it ready. False if there is no such living worker.
    pub(crate) fn kill_worker(&self, id: &WorkerId, reported: bool, how: Cut) -> bool {
        let script = self.script_of(id);
        if self.state().workers.get(id).is_none_or(|w| w.record.state.is_over()) {
            return false;
        }
        if reported {
            let mut log_tail = script.log;
            log_tail.push("fake worker: killed by signal 9".to_owned());
            self.fail_worker(id, WorkerState::Failed { code: FailureCode::Crashed, log_tail }, how);
        } else if let Some(worker) = self.state().workers.get(id) {
            worker.die(how);
        }
        true
    }

    /// Stops its process in its tracks, or lets it go on. False if there is no such worker.
    pub(crate) fn freeze_worker(&self, id: &WorkerId, frozen: bool) -> bool {
        let state = self.state();
        state.workers.get(id).map(|w| w.frozen.send_replace(frozen)).is_some()
    }

    /// Begins to stop a worker: no new requests, then the running ones until the grace is over, then the process.
    pub(crate) fn stop_worker_now(
        self: &Arc<Self>,
        id: &WorkerId,
        request: &StopWorkerRequest,
    ) -> HiveResult<WorkerRecord> {
        let mut state = self.state();
        let Some(worker) = state.workers.get_mut(id) else {
            return Err(refused(ErrorCode::NotFound, format!("this launch has no worker {id}")));
        };
        let ignored = self.script.borrow().stop.ignore_worker_stop;
        if worker.stopping || worker.record.state.is_over() || ignored {
            return Ok(worker.record.clone());
        }
        worker.stopping = true;
        let next = if worker.record.state.is_ready() { WorkerState::Draining } else { WorkerState::Stopping };
        state.move_worker(id, next);
        let record = state.workers.get(id).map(|w| w.record.clone());
        drop(state);
        let grace = request.grace_ms.map_or(STOP_GRACE, Duration::from_millis);
        let (core, id) = (Arc::clone(self), id.clone());
        self.in_launch(async move { core.end_worker(&id, grace).await });
        record.ok_or_else(|| refused(ErrorCode::Internal, "the worker vanished while it was stopped"))
    }

    async fn end_worker(&self, id: &WorkerId, grace: Duration) {
        let slots = self.state().workers.get(id).map(|w| (Arc::clone(&w.slots), w.record.slots));
        if let Some((slots, count)) = slots {
            // All slots together mean that nothing runs; past the grace what still runs is cut off.
            let _ = tokio::time::timeout(grace, slots.acquire_many(count)).await;
        }
        self.state().move_worker(id, WorkerState::Stopping);
        let wait = self.script().stop.worker_ms;
        sleep(Duration::from_millis(wait)).await;
        if let Some(worker) = self.state().workers.get(id) {
            worker.die(Cut::Rst);
        }
        if self.state().move_worker(id, WorkerState::Stopped { exit: Some(0) }) {
            self.report_devices();
        }
    }

    /// Reports slots and token totals as they change.
    pub(crate) async fn report_counters(self: Arc<Self>) {
        loop {
            let period = self.script().watch.report_ms.max(1);
            sleep(Duration::from_millis(period)).await;
            let mut state = self.state();
            let dirty: Vec<_> =
                state.workers.iter().filter(|(_, w)| w.dirty).map(|(id, _)| id.clone()).collect();
            for id in dirty {
                state.report_worker(&id);
            }
        }
    }
}

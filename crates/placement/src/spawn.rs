//! Starting one worker on one hive, and waiting until it is ready.

use std::{sync::Arc, time::Duration};

use fleet::{DeviceSelector, EventKind, HiveId, HivePhase, ModelRef, Resolved, WorkerId, WorkerState};
use hive_api::SpawnRequest;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    Placement, PlacementError, Stage,
    flights::{Started, is_over},
};

/// How often a spawn is repeated whose answer was lost. The key makes the repetition harmless.
const SPAWN_TRIES: u32 = 3;

/// How long an order that is under way may still take when the queen stops: whoever does not wait for the answer does not
/// know which worker to stop.
const LAST_ORDER: Duration = Duration::from_secs(2);

impl Placement {
    /// Has a worker started. The order runs in a task of its own, so that a worker that was started is known even if the
    /// flight ends meanwhile.
    pub(crate) async fn spawn(
        self: &Arc<Self>,
        model: &ModelRef,
        resolved: Resolved,
        (hive_id, device): (&HiveId, Option<DeviceSelector>),
    ) -> Result<Started, PlacementError> {
        let (this, model, hive_id) = (Arc::clone(self), model.clone(), hive_id.clone());
        let lost = PlacementError::Lost { model: model.clone() };
        let ordered = self.tracker.spawn(async move {
            let stopping = async {
                this.stopping.cancelled().await;
                sleep(LAST_ORDER).await;
            };
            let started = tokio::select! {
                started = this.order(&model, resolved, (&hive_id, device)) => started?,
                () = stopping => return Err(PlacementError::Stopping),
            };
            planted::step("spawn-answered");
            let view = this.parts.registry.view();
            let mut flights = this.flights();
            flights.started.retain(|worker| !is_over(&view, worker));
            flights.started.push(started.clone());
            Ok(started)
        });
        ordered.await.unwrap_or(Err(lost))
    }

    async fn order(
        &self,
        model: &ModelRef,
        resolved: Resolved,
        (hive_id, device): (&HiveId, Option<DeviceSelector>),
    ) -> Result<Started, PlacementError> {
        let view = self.parts.registry.view();
        let lost = || PlacementError::HiveLost { hive_id: hive_id.clone(), model: model.clone() };
        let endpoint = view.hive(hive_id).and_then(|h| h.endpoint.clone()).ok_or_else(lost)?;
        let settings = self.parts.models.named.get(model);
        let request = SpawnRequest {
            model_ref: model.clone(),
            resolved: Some(resolved),
            engine: None,
            device,
            context: settings.and_then(|settings| settings.context),
            slots: settings.and_then(|settings| settings.slots),
            idempotency_key: new_key(),
        };
        let (hive, launch_id, model_ref) = (hive_id.clone(), endpoint.launch_id.clone(), model.clone());
        self.parts.journal.record(EventKind::Spawn { hive_id: hive, launch_id, model_ref });
        let client = self.parts.connections.client(endpoint);
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match client.spawn(&request).await {
                Ok(reply) => {
                    let (hive_id, launch_id, worker_id) = (hive_id.clone(), reply.launch_id, reply.worker_id);
                    return Ok(Started { hive_id, launch_id, worker_id });
                }
                Err(error) => error,
            };
            if let Some(detail) = error.refused() {
                let (hive_id, model) = (hive_id.clone(), model.clone());
                return Err(PlacementError::Refused { hive_id, model, detail: detail.clone() });
            }
            if tries == SPAWN_TRIES {
                let (hive_id, model) = (hive_id.clone(), model.clone());
                return Err(PlacementError::Call { hive_id, model, reason: error.kind.to_string() });
            }
            tracing::debug!(%hive_id, %error, "asking for the worker again");
        }
    }

    /// Follows a worker in the registry until it is ready or will not be.
    pub(crate) async fn until_ready(
        &self,
        model: &ModelRef,
        worker: &Started,
        stage: &watch::Sender<Stage>,
    ) -> Result<(), PlacementError> {
        let Started { hive_id, launch_id, worker_id } = worker;
        let mut changes = self.parts.registry.changes();
        let mut moved = Instant::now();
        let mut last: Option<WorkerState> = None;
        let lost = || PlacementError::HiveLost { hive_id: hive_id.clone(), model: model.clone() };
        loop {
            let view = self.parts.registry.view();
            let hive = view.hive(hive_id).filter(|h| h.launch_id() == Some(launch_id)).ok_or_else(lost)?;
            // Workers of a hive in any other phase get no requests, ready or not.
            if hive.phase != HivePhase::Online {
                return Err(lost());
            }
            let state = match (hive.workers.get(worker_id), &last) {
                (Some(worker), _) => worker.record.state.clone(),
                // The answer to the spawn may be ahead of the watch stream: an unknown worker is still starting.
                (None, None | Some(WorkerState::Starting)) => WorkerState::Starting,
                (None, Some(_)) => WorkerState::Stopped { exit: None },
            };
            if last.as_ref() != Some(&state) {
                moved = Instant::now();
                if let Some(now) = judge(&state, model, hive_id, worker_id)? {
                    stage.send_replace(now);
                } else {
                    return Ok(());
                }
                last = Some(state);
            }
            let idle = self.parts.settings.load_stall;
            match timeout_at(moved + idle, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(PlacementError::Stopping),
                Err(_) => {
                    let (hive_id, worker_id, model) = (hive_id.clone(), worker_id.clone(), model.clone());
                    return Err(PlacementError::LoadStalled { hive_id, worker_id, model, idle });
                }
            }
        }
    }
}

/// The stage that a worker's state means; none if it is ready.
fn judge(
    state: &WorkerState,
    model: &ModelRef,
    hive_id: &HiveId,
    worker_id: &WorkerId,
) -> Result<Option<Stage>, PlacementError> {
    let (hive_id, worker_id, model) = (hive_id.clone(), worker_id.clone(), model.clone());
    match state {
        WorkerState::Starting => Ok(Some(Stage::Starting)),
        WorkerState::Loading { progress } => Ok(Some(Stage::Loading(*progress))),
        WorkerState::Ready => Ok(None),
        WorkerState::Draining | WorkerState::Stopping | WorkerState::Stopped { .. } => {
            Err(PlacementError::WorkerStopped { hive_id, worker_id, model })
        }
        WorkerState::Failed { code, log_tail } => Err(PlacementError::WorkerFailed {
            hive_id,
            worker_id,
            model,
            code: *code,
            log_tail: log_tail.clone(),
        }),
    }
}

fn new_key() -> String {
    let mut bytes = [0; 12];
    // A key must only differ from the others of this launch; without random bytes the clock sees to that.
    if getrandom::fill(&mut bytes).is_err() {
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
        bytes.copy_from_slice(&nanos.to_be_bytes()[4..]);
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

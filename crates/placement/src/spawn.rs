//! Starting one worker on one hive, and waiting until it is ready.

use fleet::{EventKind, HiveId, HivePhase, LaunchId, ModelRef, WorkerId, WorkerState};
use hive_api::SpawnRequest;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{Placement, PlacementError, Stage};

/// How often a spawn is repeated whose answer was lost. The key makes the repetition harmless.
const SPAWN_TRIES: u32 = 3;

impl Placement {
    pub(crate) async fn spawn(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
    ) -> Result<(LaunchId, WorkerId), PlacementError> {
        let view = self.parts.registry.view();
        let lost = || PlacementError::HiveLost { hive_id: hive_id.clone(), model: model.clone() };
        let endpoint = view.hive(hive_id).and_then(|h| h.endpoint.clone()).ok_or_else(lost)?;
        let request = SpawnRequest {
            model_ref: model.clone(),
            engine: None,
            device: None,
            context: None,
            slots: None,
            idempotency_key: new_key(),
        };
        let (hive, launch_id, model_ref) = (hive_id.clone(), endpoint.launch_id.clone(), model.clone());
        self.parts.journal.record(EventKind::Spawn { hive_id: hive, launch_id, model_ref });
        let client = self.parts.connections.client(endpoint);
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match client.spawn(&request).await {
                Ok(reply) => return Ok((reply.launch_id, reply.worker_id)),
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
        hive_id: &HiveId,
        worker_id: &WorkerId,
        stage: &watch::Sender<Stage>,
    ) -> Result<(), PlacementError> {
        let mut changes = self.parts.registry.changes();
        let launch = self.parts.registry.view().hive(hive_id).and_then(|h| h.launch_id().cloned());
        let mut moved = Instant::now();
        let mut last: Option<WorkerState> = None;
        loop {
            let view = self.parts.registry.view();
            let hive = view.hive(hive_id).filter(|h| h.launch_id() == launch.as_ref());
            let lost = || PlacementError::HiveLost { hive_id: hive_id.clone(), model: model.clone() };
            let hive = hive.ok_or_else(lost)?;
            if matches!(hive.phase, HivePhase::Unreachable | HivePhase::Stopping | HivePhase::Error) {
                return Err(lost());
            }
            // The answer to the spawn may be ahead of the watch stream: an unknown worker is one that is still starting.
            let state = hive.workers.get(worker_id).map_or(WorkerState::Starting, |w| w.record.state.clone());
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

//! The flights under way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet::{HiveId, HivePhase, LaunchId, ModelRef, WorkerId};
use hive_api::{StopWorkerRequest, client::Connections};
use journal::Journal;
use model_provisioner::{ModelProvisioner, Progress};
use registry_ram::WorkerRegistry;
use scheduler::{HiveCandidate, choose_hive};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{PlacementError, Stage, Waiter};

/// Times that cold starts are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long after its own start the queen waits for hives to say what they run.
    pub settle: Duration,
    /// How long a hive that is being started is waited for when no other is there.
    pub hive_start: Duration,
    /// Without progress for this long, a load is given up.
    pub load_stall: Duration,
    /// How long the cause of a failure is answered without another try.
    pub remember: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(3),
            hive_start: Duration::from_secs(15),
            load_stall: Duration::from_secs(300),
            remember: Duration::from_secs(2),
        }
    }
}

/// What placement is made of.
pub struct Parts {
    /// What the hives report.
    pub registry: Arc<WorkerRegistry>,
    /// Brings models to hives.
    pub provisioner: Arc<ModelProvisioner>,
    /// Connections to hives.
    pub connections: Connections,
    /// Where events go.
    pub journal: Journal,
    /// Times to judge by.
    pub settings: Settings,
}

#[derive(Default)]
struct Flights {
    under_way: HashMap<ModelRef, watch::Sender<Stage>>,
    failed: HashMap<ModelRef, (Instant, PlacementError)>,
    /// Workers that were started on request of this queen, for those hives that outlive it.
    started: Vec<(HiveId, LaunchId, WorkerId)>,
}

/// Starts workers.
pub struct Placement {
    pub(crate) parts: Parts,
    begun: Instant,
    flights: Mutex<Flights>,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Placement {
    /// Nothing is under way yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        Arc::new(Self { parts, begun: Instant::now(), flights: Mutex::default(), tracker, stopping })
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that a worker for the model becomes ready: joins the flight that is under way, or begins one.
    #[must_use]
    pub fn ensure_worker(self: &Arc<Self>, model: &ModelRef) -> Waiter {
        let mut flights = self.flights();
        let remember = self.parts.settings.remember;
        flights.failed.retain(|_, (at, _)| at.elapsed() < remember);
        if let Some((_, error)) = flights.failed.get(model) {
            return Waiter { stage: watch::channel(Stage::Failed(error.clone())).1 };
        }
        if let Some(stage) = flights.under_way.get(model) {
            return Waiter { stage: stage.subscribe() };
        }
        let (sender, stage) = watch::channel(Stage::Choosing);
        flights.under_way.insert(model.clone(), sender.clone());
        let (this, model) = (Arc::clone(self), model.clone());
        self.tracker.spawn(async move {
            let outcome = tokio::select! {
                outcome = this.fly(&model, &sender) => outcome,
                () = this.stopping.cancelled() => Err(PlacementError::Stopping),
            };
            let end = {
                let mut flights = this.flights();
                // Out of the map before the end is told, so that whoever asks after that begins anew.
                flights.under_way.remove(&model);
                match outcome {
                    Ok(()) => Stage::Ready,
                    Err(error) => {
                        if error.is_worth_remembering() {
                            flights.failed.insert(model.clone(), (Instant::now(), error.clone()));
                        }
                        Stage::Failed(error)
                    }
                }
            };
            if let Stage::Failed(error) = &end {
                tracing::warn!(%model, %error, "cold start failed");
            }
            sender.send_replace(end);
        });
        Waiter { stage }
    }

    async fn fly(&self, model: &ModelRef, stage: &watch::Sender<Stage>) -> Result<(), PlacementError> {
        self.settled().await;
        let mut excluded: HashMap<HiveId, String> = HashMap::new();
        let mut failed: Option<PlacementError> = None;
        loop {
            let view = self.parts.registry.view();
            if !view.serving(model).is_empty() {
                return Ok(());
            }
            let coming = view.workers().find(|w| w.record.model_ref == *model && w.record.state.is_coming());
            let outcome = match coming.map(|w| (w.hive_id.clone(), w.record.worker_id.clone())) {
                Some((hive_id, worker_id)) => self.until_ready(model, &hive_id, &worker_id, stage).await,
                None => {
                    stage.send_replace(Stage::Choosing);
                    let hive_id = match self.choose(model, &excluded).await {
                        Ok(hive_id) => hive_id,
                        // Where hives were tried, what went wrong there says more than that none is left.
                        Err(none) => return Err(failed.unwrap_or(none)),
                    };
                    let outcome = self.start_on(model, &hive_id, stage).await;
                    if let Err(error) = &outcome {
                        excluded.insert(hive_id, error.to_string());
                    }
                    outcome
                }
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    tracing::info!(%model, %error, "trying another hive");
                    failed = Some(error);
                }
            }
        }
    }

    /// Waits until no hive is being looked for, at most a moment after the queen's own start: what already runs on a hive
    /// that has not answered yet must not be started again.
    async fn settled(&self) {
        let mut changes = self.parts.registry.changes();
        let settled = async {
            while self.parts.registry.view().hives().any(|h| h.phase == HivePhase::Starting) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout_at(self.begun + self.parts.settings.settle, settled).await;
    }

    async fn choose(
        &self,
        model: &ModelRef,
        excluded: &HashMap<HiveId, String>,
    ) -> Result<HiveId, PlacementError> {
        let deadline = Instant::now() + self.parts.settings.hive_start;
        let mut changes = self.parts.registry.changes();
        loop {
            let with = self.parts.provisioner.hives_with(model).await.unwrap_or_default();
            let view = self.parts.registry.view();
            let candidates: Vec<_> = view
                .hives()
                .map(|hive| HiveCandidate {
                    id: &hive.id,
                    phase: hive.phase,
                    capabilities: hive.capabilities.as_ref(),
                    has_model: with.contains(&hive.id),
                    workers: hive.workers.values().filter(|w| !w.record.state.is_over()).count(),
                    excluded: excluded.get(&hive.id).map(String::as_str),
                })
                .collect();
            let refusal = match choose_hive(&candidates) {
                Ok(at) => return Ok(candidates[at].id.clone()),
                Err(refusal) => refusal,
            };
            // A hive that is on its way may be able in a moment.
            let on_its_way =
                candidates.iter().any(|h| h.phase == HivePhase::Starting && h.excluded.is_none());
            if !on_its_way || timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(PlacementError::NoHive { model: model.clone(), refusal });
            }
        }
    }

    async fn start_on(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
        stage: &watch::Sender<Stage>,
    ) -> Result<(), PlacementError> {
        let flight = self.parts.provisioner.ensure_model_available(model, hive_id).await;
        let on_step = |step: &Progress| match step {
            Progress::Transferring { bytes, total, .. } => {
                stage.send_replace(Stage::Downloading(total.and_then(|total| part(*bytes, total))));
            }
            Progress::Verifying => {
                stage.send_replace(Stage::Verifying);
            }
            Progress::Asking | Progress::Done(_) | Progress::Failed(_) => {}
        };
        flight.landed_or(on_step).await?;
        if stage.receiver_count() == 0 {
            return Err(PlacementError::Abandoned { model: model.clone() });
        }
        stage.send_replace(Stage::Starting);
        let (launch, worker_id) = self.spawn(model, hive_id).await?;
        self.flights().started.push((hive_id.clone(), launch, worker_id.clone()));
        self.until_ready(model, hive_id, &worker_id, stage).await
    }

    /// Ends all flights: whoever waits is told that the queen is stopping.
    pub fn cancel(&self) {
        self.stopping.cancel();
        self.tracker.close();
    }

    /// Stops taking part: ends all flights, and stops the workers that were started here on hives for which `lasts` is
    /// true, because those hives outlive the queen.
    pub async fn close(&self, lasts: impl Fn(&HiveId) -> bool) {
        self.cancel();
        self.tracker.wait().await;
        let started = std::mem::take(&mut self.flights().started);
        let view = self.parts.registry.view();
        let running = started.into_iter().filter(|(hive_id, launch, worker)| {
            let hive = view.hive(hive_id).filter(|hive| lasts(hive_id) && hive.launch_id() == Some(launch));
            hive.and_then(|h| h.workers.get(worker)).is_some_and(|w| !w.record.state.is_over())
        });
        for (hive_id, _, worker_id) in running {
            let Some(endpoint) = view.hive(&hive_id).and_then(|h| h.endpoint.clone()) else { continue };
            let client = self.parts.connections.client(endpoint);
            if let Err(error) = client.stop_worker(&worker_id, &StopWorkerRequest::default()).await {
                tracing::warn!(%hive_id, %worker_id, %error, "a worker could not be stopped");
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a part done needs no more precision than a float has")]
fn part(bytes: u64, total: u64) -> Option<f32> {
    (total > 0).then(|| (bytes as f32 / total as f32).clamp(0.0, 1.0))
}

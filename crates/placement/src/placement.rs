//! The flights under way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet::{DeviceSelector, HiveId, HivePhase, ModelRef, ObservationStore};
use hive_api::{StopWorkerRequest, client::Connections};
use journal::Journal;
use model_provisioner::{ModelProvisioner, Progress};
use registry_ram::WorkerRegistry;
use scheduler::UpkeepTimes;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Models, PlacementError, Stage, Switch, Waiter,
    choose::{Room, Wish},
    flights::{Aim, Flights, Landing, Started, coming, is_over, is_served},
};

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
    /// How long after the end of its last request a worker is stopped; zero is never.
    pub worker_idle: Duration,
    /// How long a hive that was started on demand is waited for.
    pub hive_wake: Duration,
    /// Without a worker for this long, a hive that was started on demand is stopped; zero is never.
    pub hive_idle: Duration,
    /// Times that the number of a model's workers is decided by.
    pub upkeep: UpkeepTimes,
    /// Longest and shortest pause between two looks at that.
    pub round: Duration,
    /// See [`Self::round`].
    pub round_least: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(3),
            hive_start: Duration::from_secs(15),
            load_stall: Duration::from_secs(300),
            remember: Duration::from_secs(2),
            worker_idle: Duration::from_secs(15 * 60),
            hive_wake: Duration::from_secs(180),
            hive_idle: Duration::from_secs(30 * 60),
            upkeep: UpkeepTimes::default(),
            round: Duration::from_secs(1),
            round_least: Duration::from_millis(200),
        }
    }
}

/// Models whose loads are remembered.
const LOADS: usize = 256;

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
    /// What workers were seen to need, for the next estimate.
    pub observations: Arc<dyn ObservationStore>,
    /// Starts and stops hives that are there on demand.
    pub switch: Switch,
    /// What the owner wants of models.
    pub models: Models,
    /// Where the queen stands: workers rather start there.
    pub region: Option<Arc<str>>,
    /// Times to judge by.
    pub settings: Settings,
}

/// Starts workers.
pub struct Placement {
    pub(crate) parts: Parts,
    pub(crate) begun: Instant,
    flights: Mutex<Flights>,
    pub(crate) tracker: TaskTracker,
    pub(crate) stopping: CancellationToken,
}

impl Placement {
    /// Nothing is under way yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        Arc::new(Self { parts, begun: Instant::now(), flights: Mutex::default(), tracker, stopping })
    }

    pub(crate) fn flights(&self) -> std::sync::MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that a worker for the model becomes ready: joins the flight that is under way, or begins one.
    #[must_use]
    pub fn ensure_worker(self: &Arc<Self>, model: &ModelRef) -> Waiter {
        self.ensure_worker_in(model, None)
    }

    /// The same for a worker in one region only, where one is given.
    #[must_use]
    pub fn ensure_worker_in(self: &Arc<Self>, model: &ModelRef, region: Option<&Arc<str>>) -> Waiter {
        let aim = Aim { model: model.clone(), region: region.cloned() };
        let mut flights = self.flights();
        let remember = self.parts.settings.remember;
        flights.failed.retain(|_, (at, _)| at.elapsed() < remember);
        if let Some(error) = flights.failure(&aim) {
            return Waiter::of(watch::channel(Stage::Failed(error.clone())).1);
        }
        if let Some(stage) = flights.of(&aim) {
            return Waiter::of(stage.subscribe());
        }
        let (sender, stage) = watch::channel(Stage::Choosing);
        flights.under_way.insert(aim.clone(), sender.clone());
        let end = Stage::Failed(PlacementError::Lost { model: model.clone() });
        let landing = Landing { this: Arc::clone(self), aim, stage: sender, end };
        let led = CancellationToken::new();
        let mut waiter = Waiter::of(stage);
        if planted::bug("leader-cancel-kills-flight") {
            waiter._leader = Some(led.clone().drop_guard());
        }
        self.tracker.spawn(async move {
            let this = Arc::clone(&landing.this);
            let outcome = tokio::select! {
                outcome = this.fly(&landing.aim, &landing.stage) => outcome,
                () = led.cancelled() => return,
                () = this.stopping.cancelled() => Err(PlacementError::Stopping),
            };
            landing.land(outcome);
        });
        waiter
    }

    async fn fly(self: &Arc<Self>, aim: &Aim, stage: &watch::Sender<Stage>) -> Result<(), PlacementError> {
        self.settled().await;
        self.until_elsewhere(aim, stage).await;
        let (model, region) = (&aim.model, aim.region.as_ref());
        let mut excluded: HashMap<HiveId, String> = HashMap::new();
        let mut failed: Option<PlacementError> = None;
        let mut anew = false;
        loop {
            let view = self.parts.registry.view();
            if is_served(&view, aim) {
                return Ok(());
            }
            let coming = coming(&view, model, &excluded, region);
            let (hive_id, outcome) = match coming {
                Some(worker) => {
                    let outcome = self.until_ready(model, &worker, stage).await;
                    (worker.hive_id, outcome)
                }
                None => {
                    stage.send_replace(Stage::Choosing);
                    let wish = Wish { excluded: &excluded, room: Room::Make, region };
                    let (hive_id, device) = match self.choose(model, &wish).await {
                        Ok(chosen) => chosen,
                        // Where hives were tried, what went wrong there says more than that none is left.
                        Err(none) => return Err(failed.unwrap_or(none)),
                    };
                    let outcome = self.start_on(aim, (&hive_id, device), stage).await;
                    (hive_id, outcome)
                }
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if !anew && error.is_damage() && self.withdraw(model, &hive_id).await => {
                    anew = true;
                }
                // What a hive was said to have may have left its disk meanwhile.
                Err(error) if !anew && error.is_missing() && self.is_gone(model, &hive_id).await => {
                    anew = true;
                }
                Err(error) if error.is_final(model) => return Err(error),
                Err(error) => {
                    tracing::info!(%model, %error, "trying another hive");
                    excluded.insert(hive_id, error.to_string());
                    failed = Some(error);
                }
            }
        }
    }

    /// Waits for a flight that may go anywhere: it may end where this one has to.
    async fn until_elsewhere(&self, aim: &Aim, stage: &watch::Sender<Stage>) {
        let anywhere = Aim { region: None, ..aim.clone() };
        let other = self.flights().under_way.get(&anywhere).map(watch::Sender::subscribe);
        let Some(mut other) = other.filter(|_| aim.region.is_some()) else { return };
        loop {
            let now = other.borrow_and_update().clone();
            if matches!(now, Stage::Ready | Stage::Failed(_)) {
                return;
            }
            stage.send_replace(now);
            if other.changed().await.is_err() {
                return;
            }
        }
    }

    /// Has a hive drop the files that an engine there could not read, once for each hive and model: what is damaged comes
    /// anew, and what no engine there reads is not fetched over and over.
    async fn withdraw(&self, model: &ModelRef, hive_id: &HiveId) -> bool {
        if matches!(model, ModelRef::File(_)) || !self.flights().withdraw_once(model, hive_id) {
            return false;
        }
        tracing::warn!(%model, %hive_id, "no engine there can read the model: its files are fetched anew");
        match self.parts.provisioner.withdraw(model, hive_id).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a damaged model stays where it is");
                false
            }
        }
    }

    /// Has it noted that a hive does not have a model any more that it reported.
    async fn is_gone(&self, model: &ModelRef, hive_id: &HiveId) -> bool {
        if matches!(model, ModelRef::File(_)) {
            return false;
        }
        tracing::warn!(%model, %hive_id, "the hive has the model no more: it is fetched anew");
        self.parts.provisioner.withdraw(model, hive_id).await.is_ok()
    }

    /// Waits until each hive that should run has answered, at most a moment after the queen's own start: what already runs on
    /// one that has not answered yet must not be started again.
    pub(crate) async fn settled(&self) {
        let mut changes = self.parts.registry.changes();
        let is_unknown = |phase| matches!(phase, HivePhase::Starting | HivePhase::Unreachable);
        let settled = async {
            while self.parts.registry.view().hives().any(|h| is_unknown(h.phase)) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout_at(self.begun + self.parts.settings.settle, settled).await;
    }

    pub(crate) async fn start_on(
        self: &Arc<Self>,
        aim: &Aim,
        (hive_id, device): (&HiveId, Option<DeviceSelector>),
        stage: &watch::Sender<Stage>,
    ) -> Result<(), PlacementError> {
        let model = &aim.model;
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
        let resolved = flight.landed_or(on_step).await?;
        if self.is_abandoned(aim, stage) {
            return Err(PlacementError::Abandoned { model: model.clone() });
        }
        stage.send_replace(Stage::Starting);
        let began = Instant::now();
        let started = self.spawn(model, resolved, (hive_id, device)).await?;
        let outcome = self.until_ready(model, &started, stage).await;
        if matches!(outcome, Err(PlacementError::LoadStalled { .. })) {
            self.stop_worker(&started).await;
        }
        if outcome.is_ok() {
            let mut flights = self.flights();
            flights.seen.loaded(&started, began.elapsed());
            if flights.loads.len() >= LOADS {
                flights.loads.clear();
            }
            flights.loads.insert(model.clone(), began.elapsed());
        }
        outcome
    }

    /// Whether nobody waits any more. If so the flight is out of the map at once, so that nobody can join it either.
    fn is_abandoned(&self, aim: &Aim, stage: &watch::Sender<Stage>) -> bool {
        let mut flights = self.flights();
        let abandoned = stage.receiver_count() == 0;
        if abandoned {
            flights.under_way.remove(aim);
        }
        abandoned
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
        let lasting = started.iter().filter(|worker| lasts(&worker.hive_id) && !is_over(&view, worker));
        futures_util::future::join_all(lasting.map(|worker| self.stop_worker(worker))).await;
    }

    /// Has a worker stopped, if its hive is still in the launch that started it.
    pub(crate) async fn stop_worker(&self, worker: &Started) {
        let Started { hive_id, launch_id, worker_id } = worker;
        let view = self.parts.registry.view();
        let endpoint = view.hive(hive_id).and_then(|hive| hive.endpoint.clone());
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.launch_id == *launch_id) else { return };
        let client = self.parts.connections.client(endpoint);
        if let Err(error) = client.stop_worker(worker_id, &StopWorkerRequest::default()).await {
            tracing::warn!(%hive_id, %worker_id, %error, "a worker could not be stopped");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a part done needs no more precision than a float has")]
fn part(bytes: u64, total: u64) -> Option<f32> {
    (total > 0).then(|| (bytes as f32 / total as f32).clamp(0.0, 1.0))
}

//! Models whose workers are looked after without anybody's asking: pinned ones, replicas, and those that nobody asks any more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use fleet::{HiveId, HivePhase, ModelRef};
use registry_ram::{FleetView, HiveView, WorkerView};
use scheduler::{ModelPolicy, ModelSeen, Replica, StartReason, Upkeep, UpkeepStep};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    Placement, PlacementError, Stage,
    choose::{Room, Wish},
    flights::{Aim, Crowd, Flights, Queue, Region, coming},
};

/// What the owner wants of some models.
#[derive(Debug, Clone, Default)]
pub struct Models {
    /// By their canonical names. All others idle as [`Settings::worker_idle`](crate::Settings::worker_idle) says, and get
    /// replicas as queues lead to them.
    pub named: BTreeMap<ModelRef, ModelSettings>,
}

/// What the owner wants of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSettings {
    /// How many workers, and for how long.
    pub policy: ModelPolicy,
    /// Context of each slot, in tokens; the hive's own if absent.
    pub context: Option<u32>,
    /// Slots of each worker; the hive's own if absent.
    pub slots: Option<u32>,
}

/// A request that waits for a slot of a model's workers. Dropping it is waiting no more.
#[must_use]
pub struct Waits {
    placement: Arc<Placement>,
    model: ModelRef,
    place: u64,
}

impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waits").field("model", &self.model).finish_non_exhaustive()
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut flights = self.placement.flights();
        if let Some(queue) = flights.waiting.get_mut(&self.model)
            && !queue.leave(self.place)
        {
            flights.waiting.remove(&self.model);
        }
    }
}

/// A further worker that is being brought up; dropping it makes place for the next one.
struct Starting {
    this: Arc<Placement>,
    model: ModelRef,
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.this.flights().starting.remove(&self.model);
    }
}

impl Placement {
    /// Notes that a request waits for a slot although workers serve the model, which region it asks for, if any, and for how long
    /// it is expected to wait, where that is known: where a queue is worth it, another worker is started.
    pub fn waits(
        self: &Arc<Self>,
        model: &ModelRef,
        expected: Option<Duration>,
        region: Option<&Arc<str>>,
    ) -> Waits {
        let place = self.flights().waiting.entry(model.clone()).or_default().join(expected, region.cloned());
        Waits { placement: Arc::clone(self), model: model.clone(), place }
    }

    /// How long a further worker would take to start: as long as the last one did, else as its size lets expect; with what the
    /// files take to come where no other hive of the region has them.
    fn takes(
        view: &FleetView,
        flights: &Flights,
        model: &ModelRef,
        region: Option<&Region>,
    ) -> Option<Duration> {
        let Some((resolved, shape)) = flights.shapes.get(model) else {
            return flights.loads.get(model).copied();
        };
        let is_free = |hive: &&Arc<HiveView>| {
            let works = |worker: &Arc<WorkerView>| {
                worker.record.model_ref == *model && !worker.record.state.is_over()
            };
            hive.phase == HivePhase::Online && stands_in(hive, region) && !hive.workers.values().any(works)
        };
        let is_there = view.hives().filter(is_free).any(|hive| hive.has_model(resolved));
        let whole = scheduler::start_expected(shape.bytes, is_there);
        let load = scheduler::start_expected(shape.bytes, true);
        Some(flights.loads.get(model).map_or(whole, |seen| *seen + (whole - load)))
    }

    /// The models that the owner said something about.
    pub fn named(&self) -> impl Iterator<Item = &ModelRef> {
        self.parts.models.named.keys()
    }

    /// How many workers of a model there should be, and for how long.
    #[must_use]
    pub fn policy(&self, model: &ModelRef) -> ModelPolicy {
        let others =
            ModelPolicy { pinned: false, idle: self.parts.settings.worker_idle, least: 0, most: u32::MAX };
        self.parts.models.named.get(model).map_or(others, |settings| settings.policy)
    }

    /// Looks after all models from now on until the queen stops.
    pub fn look_after(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.tracker.spawn(async move {
            let rounds = async {
                this.settled().await;
                let mut changes = this.parts.registry.changes();
                loop {
                    this.look();
                    sleep(this.parts.settings.round_least).await;
                    // What waits, idles or is lost changes without a report.
                    let _ = timeout(this.parts.settings.round, changes.changed()).await;
                }
            };
            tokio::select! {
                () = rounds => {}
                () = this.stopping.cancelled() => {}
            }
        });
    }

    fn look(self: &Arc<Self>) {
        let view = self.parts.registry.view();
        let now = self.begun.elapsed();
        let times = &self.parts.settings.upkeep;
        self.rest(&view, now);
        self.note_peaks(&view);
        let mut seen = self.seen(&view);
        let mut steps = Vec::new();
        {
            let mut flights = self.flights();
            let known = flights.upkeep.keys().chain(self.parts.models.named.keys());
            for model in known.cloned().collect::<Vec<_>>() {
                seen.entry(model).or_default();
            }
            let away = away(&view);
            for (model, mut seen) in seen {
                seen.away.clone_from(&away);
                let Crowd { waiting, expected, region } =
                    flights.waiting.get(&model).map(Queue::crowd).unwrap_or_default();
                (seen.waiting, seen.expected) = (waiting, expected);
                seen.takes = Self::takes(&view, &flights, &model, region.as_ref());
                for replica in &mut seen.replicas {
                    let hive = view.hive(&replica.hive_id);
                    replica.within_reach = hive.is_some_and(|hive| stands_in(hive, region.as_ref()));
                }
                seen.starting = flights.starting.contains(&model) || flights.is_under_way(&model);
                let upkeep = flights.upkeep.entry(model.clone()).or_default();
                let todo = upkeep.look(&self.policy(&model), times, &seen, now);
                steps.extend(todo.into_iter().map(|step| (model.clone(), region.clone(), step)));
            }
            flights.upkeep.retain(|_, upkeep| !upkeep.is_empty());
        }
        for (model, region, step) in steps {
            match step {
                // Only whoever is there when the queen starts gets a worker.
                UpkeepStep::Start(_)
                    if planted::bug("pins-once") && now > self.parts.settings.round_least * 20 => {}
                UpkeepStep::Start(reason) => {
                    let region = region.filter(|_| matches!(reason, StartReason::Queue { .. }));
                    tracing::info!(%model, ?region, %reason, "starting a worker unasked");
                    self.start_unasked(Aim { model, region });
                }
                UpkeepStep::Stop(replica, reason) => {
                    let Replica { hive_id, worker_id, .. } = &replica;
                    tracing::info!(%model, %hive_id, %worker_id, %reason, "stopping a worker");
                    let worker = view.hive(hive_id).and_then(|hive| hive.workers.get(worker_id)).cloned();
                    let this = Arc::clone(self);
                    self.tracker.spawn(async move {
                        if let Some(worker) = worker {
                            this.retire(&worker).await;
                        }
                    });
                }
            }
        }
    }

    /// All models that have workers, and those.
    fn seen(&self, view: &FleetView) -> BTreeMap<ModelRef, ModelSeen> {
        let mut seen: BTreeMap<ModelRef, ModelSeen> = BTreeMap::new();
        let online = view.hives().filter(|hive| hive.phase == HivePhase::Online);
        for worker in online.flat_map(|hive| hive.workers.values()) {
            let state = &worker.record.state;
            if !state.is_ready() && !state.is_coming() {
                continue;
            }
            let in_flight = worker.in_flight().max(worker.record.slots_busy);
            let replica = Replica {
                hive_id: worker.hive_id.clone(),
                worker_id: worker.record.worker_id.clone(),
                ready: state.is_ready(),
                within_reach: true,
                slots: worker.record.slots,
                in_flight,
                idle: worker.idle().filter(|_| in_flight == 0),
            };
            seen.entry(worker.record.model_ref.clone()).or_default().replicas.push(replica);
        }
        seen
    }

    fn start_unasked(self: &Arc<Self>, aim: Aim) {
        self.flights().starting.insert(aim.model.clone());
        let starting = Starting { this: Arc::clone(self), model: aim.model.clone() };
        self.tracker.spawn(async move {
            let (this, model) = (&starting.this, &starting.model);
            let outcome = tokio::select! {
                outcome = this.one_more(&aim) => outcome,
                () = this.stopping.cancelled() => return,
            };
            let now = this.begun.elapsed();
            let mut flights = this.flights();
            let upkeep: &mut Upkeep = flights.upkeep.entry(model.clone()).or_default();
            match outcome {
                Ok(()) => upkeep.started(),
                Err(error) => {
                    tracing::warn!(%model, %error, "no worker was started");
                    upkeep.failed(&this.parts.settings.upkeep, now);
                }
            }
        });
    }

    /// The first worker as a request would start it; a further one on a hive that has none of it, where nobody must go for
    /// it.
    async fn one_more(self: &Arc<Self>, aim: &Aim) -> Result<(), PlacementError> {
        let (model, region) = (&aim.model, aim.region.as_ref());
        let view = self.parts.registry.view();
        if view.serving(model).is_empty() && coming(&view, model, &HashMap::new(), None).is_none() {
            let mut waiter = self.ensure_worker_in(model, region);
            loop {
                match waiter.now() {
                    Stage::Ready => return Ok(()),
                    Stage::Failed(error) => return Err(error),
                    _ => waiter.moved().await,
                }
            }
        }
        let has = view.workers().filter(|w| w.record.model_ref == *model && !w.record.state.is_over());
        let excluded: HashMap<HiveId, String> =
            has.map(|w| (w.hive_id.clone(), "it has a worker of this model".to_owned())).collect();
        let wish = Wish { excluded: &excluded, room: Room::Spare, region };
        let (hive_id, device) = self.choose(model, &wish).await?;
        // Somebody waits to the end, so it is not abandoned.
        let (stage, _waiter) = watch::channel(Stage::Choosing);
        self.start_on(aim, (&hive_id, device), &stage).await
    }
}

/// Whether a hive stands where it may.
fn stands_in(hive: &HiveView, region: Option<&Region>) -> bool {
    region.is_none() || hive.region.as_ref() == region
}

/// Hives that should answer and do not. One that its owner stopped or drained is not among them.
fn away(view: &FleetView) -> BTreeSet<HiveId> {
    use HivePhase as P;
    let gone = view.hives().filter(|hive| match hive.phase {
        P::Unreachable | P::Starting | P::Error => true,
        // Its process ended, and is started again in a moment.
        P::Offline => hive.reason.is_some() && !hive.on_demand,
        P::Online | P::Draining | P::Stopping => false,
    });
    gone.map(|hive| hive.id.clone()).collect()
}

//! The set of hives, and the questions that the rest of the queen asks about it.

mod removal;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet::{
    Desired, DesiredBy, EventKind, HiveId, HiveKind, HiveLauncher, HivePhase, HiveRecord, HiveRegistry,
    HiveSource, HiveSpec, LaunchJournal, Registration, StartPolicy, StoreError,
};
use hive_api::client::Connections;
use journal::Journal;
use registry_ram::WorkerRegistry;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ManagerError, QueenKey, Settings,
    actor::Actor,
    context::{Context, Launchers},
    doubt::Doubt,
    rows::Rows,
};

/// What the manager is made of.
pub struct Parts {
    /// The registered hives.
    pub store: Arc<dyn HiveRegistry>,
    /// The launches.
    pub launches: Arc<dyn LaunchJournal>,
    /// Starts hives on this machine.
    pub local: Arc<dyn HiveLauncher>,
    /// Starts hives on other machines; without it, those are only attached.
    pub network: Option<Arc<dyn HiveLauncher>>,
    /// Where observations go.
    pub registry: Arc<WorkerRegistry>,
    /// Where events go.
    pub journal: Journal,
    /// Connections to hives.
    pub connections: Connections,
    /// What tokens are derived from.
    pub key: QueenKey,
    /// Times to decide by.
    pub settings: Settings,
}

/// What a hive's task should bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    Run,
    Drain,
    /// As drained, and its workers are stopped at once.
    Pause,
    Stop,
    /// It stops, and demand may start it again.
    Rest,
    CloseAndStop(Duration),
    CloseAndKeep,
}

impl From<(Desired, DesiredBy)> for Intent {
    fn from(decided: (Desired, DesiredBy)) -> Self {
        match decided {
            (Desired::Running, _) => Self::Run,
            (Desired::Drained, _) => Self::Drain,
            (Desired::Paused, _) => Self::Pause,
            (Desired::Stopped, DesiredBy::Person) => Self::Stop,
            (Desired::Stopped, DesiredBy::Placement) => Self::Rest,
        }
    }
}

/// The steps of changing what should be true of a hive: before it is noted, after that, and when the hive's task knows.
const fn steps(desired: Desired) -> [&'static str; 3] {
    match desired {
        Desired::Running => ["start-not-noted", "start-noted", "start-told"],
        Desired::Drained => ["drain-not-noted", "drain-noted", "drain-told"],
        Desired::Paused => ["pause-not-noted", "pause-noted", "pause-told"],
        Desired::Stopped => ["stop-not-noted", "stop-noted", "stop-told"],
    }
}

/// What a hive's task begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// The queen starts and finds the row.
    Queen,
    /// The hive was registered just now, or is looked after anew.
    Registered,
}

/// Whether demand starts and stops the hive.
fn by_demand(spec: &HiveSpec, decided_by: DesiredBy) -> bool {
    spec.start == StartPolicy::OnDemand && decided_by == DesiredBy::Placement
}

/// What becomes of the hives when the queen stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// They stop, and their workers first, which get this long to finish what they have.
    Stop(Duration),
    /// They go on; the next queen takes them over.
    Keep,
}

struct Task {
    intent: watch::Sender<Intent>,
    /// Cancelled when the task is over.
    ended: CancellationToken,
    /// Whether the hive is being removed, which nothing may undo any more.
    leaving: bool,
}

#[derive(Default)]
struct Tasks {
    by_hive: BTreeMap<HiveId, Task>,
    closed: bool,
}

/// All registered hives.
pub struct HiveManager {
    context: Arc<Context>,
    tasks: Mutex<Tasks>,
    tracker: TaskTracker,
    /// Cancelled when no hive's task is left, and the rows are written for the last time.
    closing: CancellationToken,
    writing: TaskTracker,
}

impl HiveManager {
    /// Reads the registered hives and starts a task for each.
    ///
    /// # Errors
    /// When the rows cannot be read at all. A single broken row is logged and left out.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, ManagerError> {
        let Parts { store, launches, local, network, registry, journal, connections, key, settings } = parts;
        let (launchers, changing) = (Launchers { local, network }, Semaphore::new(1));
        let context = Arc::new(Context {
            store,
            launches,
            launchers,
            registry,
            journal,
            connections,
            key,
            settings,
            changing,
            doubt: Doubt::default(),
        });
        let manager = Arc::new(Self {
            context,
            tasks: Mutex::default(),
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
            writing: TaskTracker::new(),
        });
        let mut rows = Rows::default();
        let registered = manager.context.store.list().await.map_err(ManagerError::Rows)?;
        planted::step("hives-read");
        for row in registered {
            match row {
                Ok(row) => {
                    rows.read(row.spec.id.clone(), row.status);
                    manager.add(row, Begin::Queen);
                }
                Err(error) => tracing::error!(%error, "a registered hive cannot be used"),
            }
        }
        for row in manager.context.store.leaving().await.map_err(ManagerError::Rows)? {
            match row {
                Ok(row) => manager.retire(row),
                Err(error) => tracing::error!(%error, "a hive that was removed cannot be ended"),
            }
        }
        planted::step("hives-begun");
        manager.writing.spawn(rows.keep(Arc::clone(&manager.context), manager.closing.clone()));
        Ok(manager)
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, row: HiveRecord, begin: Begin) {
        let mut tasks = self.tasks();
        if tasks.closed || tasks.by_hive.contains_key(&row.spec.id) {
            return;
        }
        let on_demand = by_demand(&row.spec, row.desired_by);
        let (intent, receiver) = watch::channel(Intent::from((row.desired, row.desired_by)));
        let id = row.spec.id.clone();
        let writer = self.context.registry.writer(id.clone());
        writer.region(row.spec.region.as_deref());
        self.context.registry.introduce(&id, row.capabilities, on_demand);
        if row.desired != Desired::Stopped {
            // From the first moment on it counts as one that is being looked for, so that nobody decides without it.
            writer.phase(HivePhase::Starting, None);
        }
        let mut actor = Actor::new(Arc::clone(&self.context), writer, row.spec, receiver);
        if on_demand && begin == Begin::Queen {
            // Whoever needed it asked an earlier queen.
            actor.only_adopt();
        }
        let ended = CancellationToken::new();
        let over = ended.clone().drop_guard();
        self.tracker.spawn(async move {
            let _over = over;
            actor.run().await;
        });
        tasks.by_hive.insert(id, Task { intent, ended, leaving: false });
    }

    /// Runs a change in a task of its own: a caller that leaves half-way does not leave a half change behind.
    async fn whole<T: Send + 'static>(
        &self,
        hive_id: HiveId,
        change: impl Future<Output = Result<T, ManagerError>> + Send + 'static,
    ) -> Result<T, ManagerError> {
        self.tracker.spawn(change).await.unwrap_or(Err(ManagerError::Lost { hive_id }))
    }

    /// Registers a hive and starts to look after it. True if it is new, false if it was registered the same way before.
    ///
    /// # Errors
    /// A conflict with another hive of that id, a hive that nothing here could start, or a registry that does not take it.
    pub async fn register(self: &Arc<Self>, spec: HiveSpec) -> Result<bool, ManagerError> {
        if spec.kind == HiveKind::Managed && self.context.launchers.of(spec.mode).is_none() {
            let (hive_id, host) = (spec.id.clone(), spec.hostname.to_string());
            return Err(ManagerError::NoLauncher { hive_id, host });
        }
        let (this, id) = (Arc::clone(self), spec.id.clone());
        self.whole(id, async move { this.register_whole(spec).await }).await
    }

    async fn register_whole(&self, spec: HiveSpec) -> Result<bool, ManagerError> {
        let id = spec.id.clone();
        let _turn = self.context.changing.acquire().await;
        if self.tasks().closed {
            return Err(ManagerError::Stopping);
        }
        let store_error =
            |source| ManagerError::Store { hive_id: id.clone(), action: "could not be registered", source };
        let before = self.context.store.get(&id).await.map_err(store_error)?;
        let stored = self.context.store.register(spec.clone()).await.map_err(store_error)?;
        match stored {
            Registration::Conflict { existing } if existing.source == HiveSource::Config => {
                Err(ManagerError::Configured { hive_id: existing.id })
            }
            Registration::Conflict { existing } => Err(ManagerError::Conflict { existing }),
            Registration::Unchanged => {
                self.context.registry.writer(id.clone()).region(spec.region.as_deref());
                let row = self.context.store.get(&id).await.map_err(store_error)?;
                let (Some(before), Some(row)) = (before, row) else { return Ok(false) };
                if before.spec.kind != spec.kind {
                    self.succeed(row).await;
                } else if before.spec.start != spec.start {
                    self.intend(&row.spec, (row.desired, row.desired_by));
                }
                Ok(false)
            }
            Registration::Created => {
                self.context.journal.record(EventKind::HiveRegistered { hive_id: id.clone() });
                if let Some(row) = self.context.store.get(&id).await.map_err(store_error)? {
                    self.add(row, Begin::Registered);
                }
                Ok(true)
            }
        }
    }

    /// Tells the hive's task what holds now.
    fn intend(&self, spec: &HiveSpec, decided: (Desired, DesiredBy)) {
        let tasks = self.tasks();
        if let Some(task) = tasks.by_hive.get(&spec.id).filter(|task| !tasks.closed && !task.leaving) {
            self.context.registry.on_demand(&spec.id, by_demand(spec, decided.1));
            task.intent.send_replace(decided.into());
        }
    }

    /// Looks after a hive with another token from now on. Its process is not touched.
    async fn succeed(&self, row: HiveRecord) {
        let ended = self.tasks().by_hive.get(&row.spec.id).filter(|task| !task.leaving).map(|task| {
            task.intent.send_replace(Intent::CloseAndKeep);
            task.ended.clone()
        });
        let Some(ended) = ended else { return };
        ended.cancelled().await;
        self.tasks().by_hive.remove(&row.spec.id);
        self.add(row, Begin::Registered);
    }

    /// The rows of all hives that can be read.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn rows(&self) -> Result<Vec<HiveRecord>, ManagerError> {
        let rows = self.context.store.list().await.map_err(ManagerError::Rows)?;
        Ok(rows
            .into_iter()
            .filter_map(|row| row.inspect_err(|e| tracing::error!(%e, "unreadable row")).ok())
            .collect())
    }

    /// What should be true of a hive from now on; returns what holds.
    ///
    /// # Errors
    /// An unknown hive, or a registry that does not take it.
    pub async fn desire(
        self: &Arc<Self>,
        id: &HiveId,
        desired: Desired,
        by: DesiredBy,
    ) -> Result<Desired, ManagerError> {
        let (this, id) = (Arc::clone(self), id.clone());
        self.whole(id.clone(), async move { this.desire_whole(&id, desired, by).await }).await
    }

    async fn desire_whole(
        &self,
        id: &HiveId,
        desired: Desired,
        by: DesiredBy,
    ) -> Result<Desired, ManagerError> {
        let _turn = self.context.changing.acquire().await;
        let unstored = |source| match source {
            StoreError::NotFound { .. } => ManagerError::Unknown { hive_id: id.clone() },
            source => ManagerError::Store { hive_id: id.clone(), action: "could not be changed", source },
        };
        let [not_noted, noted, told] = steps(desired);
        planted::step(not_noted);
        let holds = self.context.store.set_desired(id, desired, by).await.map_err(unstored)?;
        planted::step(noted);
        if let Some(row) = self.context.store.get(id).await.map_err(unstored)? {
            self.intend(&row.spec, holds);
        }
        planted::step(told);
        Ok(holds.0)
    }

    /// Ends all tasks, the hives themselves too unless they are kept. Hives stop in parallel, each by its own deadline;
    /// closing once more with a shorter grace shortens it.
    pub async fn close(&self, hives: OnStop) {
        let intent = match hives {
            OnStop::Stop(grace) => Intent::CloseAndStop(grace),
            OnStop::Keep => Intent::CloseAndKeep,
        };
        {
            let mut tasks = self.tasks();
            tasks.closed = true;
            // A hive that is being removed stops even if the others are kept: nobody would know it afterwards.
            let kept = |task: &&Task| task.leaving && intent == Intent::CloseAndKeep;
            for task in tasks.by_hive.values().filter(|task| !kept(task)) {
                task.intent.send_replace(intent);
            }
        }
        self.tracker.close();
        self.tracker.wait().await;
        self.closing.cancel();
        self.writing.close();
        self.writing.wait().await;
    }
}

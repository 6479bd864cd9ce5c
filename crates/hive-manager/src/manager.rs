//! The set of hives, and the questions that the rest of the queen asks about it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet::{
    Desired, DesiredBy, EventKind, HiveId, HiveKind, HiveLauncher, HivePhase, HiveRecord, HiveRegistry,
    HiveSource, HiveSpec, LaunchJournal, Registration, StoreError,
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
    Stop,
    CloseAndStop(Duration),
    CloseAndKeep,
}

impl From<Desired> for Intent {
    fn from(desired: Desired) -> Self {
        match desired {
            Desired::Running => Self::Run,
            Desired::Drained => Self::Drain,
            Desired::Stopped => Self::Stop,
        }
    }
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
    /// Held while row and task are changed together, so that the two never contradict each other.
    changing: Semaphore,
    tracker: TaskTracker,
}

impl HiveManager {
    /// Reads the registered hives and starts a task for each.
    ///
    /// # Errors
    /// When the rows cannot be read at all. A single broken row is logged and left out.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, ManagerError> {
        let Parts { store, launches, local, network, registry, journal, connections, key, settings } = parts;
        let launchers = Launchers { local, network };
        let context =
            Arc::new(Context { store, launches, launchers, registry, journal, connections, key, settings });
        let (tracker, changing) = (TaskTracker::new(), Semaphore::new(1));
        let manager = Arc::new(Self { context, tasks: Mutex::default(), changing, tracker });
        for row in manager.context.store.list().await.map_err(ManagerError::Rows)? {
            match row {
                Ok(row) => manager.add(row.spec, row.desired),
                Err(error) => tracing::error!(%error, "a registered hive cannot be used"),
            }
        }
        Ok(manager)
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, spec: HiveSpec, desired: Desired) {
        let mut tasks = self.tasks();
        if tasks.closed || tasks.by_hive.contains_key(&spec.id) {
            return;
        }
        let (intent, receiver) = watch::channel(Intent::from(desired));
        let id = spec.id.clone();
        let writer = self.context.registry.writer(id.clone());
        if desired != Desired::Stopped {
            // From the first moment on it counts as one that is being looked for, so that nobody decides without it.
            writer.phase(HivePhase::Starting, None);
        }
        let actor = Actor::new(Arc::clone(&self.context), writer, spec, receiver);
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
        let _turn = self.changing.acquire().await;
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
                if let Some(before) = before.filter(|row| row.spec.kind != spec.kind) {
                    self.succeed(spec, before.desired).await;
                }
                Ok(false)
            }
            Registration::Created => {
                self.context.journal.record(EventKind::HiveRegistered { hive_id: id });
                self.add(spec, Desired::Running);
                Ok(true)
            }
        }
    }

    /// Looks after a hive with another token from now on. Its process is not touched.
    async fn succeed(&self, spec: HiveSpec, desired: Desired) {
        let ended = self.tasks().by_hive.get(&spec.id).filter(|task| !task.leaving).map(|task| {
            task.intent.send_replace(Intent::CloseAndKeep);
            task.ended.clone()
        });
        let Some(ended) = ended else { return };
        ended.cancelled().await;
        self.tasks().by_hive.remove(&spec.id);
        self.add(spec, desired);
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
        let _turn = self.changing.acquire().await;
        let stored = self.context.store.set_desired(id, desired, by).await;
        let (holds, _) = stored.map_err(|source| match source {
            StoreError::NotFound { .. } => ManagerError::Unknown { hive_id: id.clone() },
            source => ManagerError::Store { hive_id: id.clone(), action: "could not be changed", source },
        })?;
        let tasks = self.tasks();
        if let Some(task) = tasks.by_hive.get(id).filter(|task| !tasks.closed && !task.leaving) {
            task.intent.send_replace(holds.into());
        }
        Ok(holds)
    }

    /// Stops a hive and forgets it.
    ///
    /// # Errors
    /// An unknown hive, one of the configuration file, or a registry that does not take it; then the hive stays, stopped.
    pub async fn remove(self: &Arc<Self>, id: &HiveId) -> Result<(), ManagerError> {
        let (this, id) = (Arc::clone(self), id.clone());
        self.whole(id.clone(), async move { this.remove_whole(&id).await }).await
    }

    /// Stops a hive whose row is gone already, because the configuration has it no more. One that was attached goes on.
    pub fn retire(self: &Arc<Self>, spec: HiveSpec) {
        let id = spec.id.clone();
        self.add(spec, Desired::Stopped);
        let ended = self.tasks().by_hive.get_mut(&id).map(|task| {
            task.leaving = true;
            task.intent.send_replace(Intent::CloseAndStop(self.context.settings.grace));
            task.ended.clone()
        });
        let Some(ended) = ended else { return };
        let this = Arc::clone(self);
        self.tracker.spawn(async move {
            ended.cancelled().await;
            let _turn = this.changing.acquire().await;
            this.tasks().by_hive.remove(&id);
            // Somebody may have registered another hive of that name meanwhile.
            match this.context.store.get(&id).await {
                Ok(Some(row)) => this.add(row.spec, row.desired),
                _ => {
                    this.context.registry.forget(&id);
                    this.context.journal.record(EventKind::HiveRemoved { hive_id: id });
                }
            }
        });
    }

    async fn remove_whole(&self, id: &HiveId) -> Result<(), ManagerError> {
        let store_error =
            |source| ManagerError::Store { hive_id: id.clone(), action: "could not be removed", source };
        let row = self.context.store.get(id).await.map_err(store_error)?;
        let row = row.ok_or_else(|| ManagerError::Unknown { hive_id: id.clone() })?;
        if row.spec.source == HiveSource::Config {
            return Err(ManagerError::Configured { hive_id: id.clone() });
        }
        let ended = self.tasks().by_hive.get_mut(id).map(|task| {
            task.leaving = true;
            task.intent.send_replace(Intent::CloseAndStop(self.context.settings.grace));
            task.ended.clone()
        });
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
        let _turn = self.changing.acquire().await;
        let removed = self.context.store.remove(id).await;
        self.tasks().by_hive.remove(id);
        match removed {
            Err(source) => {
                self.add(row.spec, Desired::Stopped);
                Err(store_error(source))
            }
            // Somebody else, who asked for the same, was first.
            Ok(false) => Ok(()),
            Ok(true) => {
                self.context.registry.forget(id);
                self.context.journal.record(EventKind::HiveRemoved { hive_id: id.clone() });
                Ok(())
            }
        }
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
    }
}

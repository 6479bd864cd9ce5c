//! The set of hives, and the questions that the rest of the queen asks about it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use fleet::{
    Desired, DesiredBy, EventKind, HiveId, HiveKind, HiveLauncher, HiveMode, HivePhase, HiveRecord,
    HiveRegistry, HiveSource, HiveSpec, HiveStatus, LaunchId, LaunchJournal, ObservedHive, Registration,
    StoreError, Timestamp,
};
use hive_api::client::Connections;
use journal::Journal;
use registry_ram::WorkerRegistry;
use tokio::{sync::watch, task::JoinHandle};

use crate::{ManagerError, QueenKey, Settings, actor::Actor};

/// What the manager is made of.
pub struct Parts {
    /// The registered hives.
    pub store: Arc<dyn HiveRegistry>,
    /// The launches.
    pub launches: Arc<dyn LaunchJournal>,
    /// Starts hives on this machine.
    pub local: Arc<dyn HiveLauncher>,
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

/// Who starts which hives.
pub(crate) struct Launchers {
    local: Arc<dyn HiveLauncher>,
}

impl Launchers {
    pub(crate) fn of(&self, mode: HiveMode) -> Option<Arc<dyn HiveLauncher>> {
        match mode {
            HiveMode::Local => Some(Arc::clone(&self.local)),
            HiveMode::Network => None,
        }
    }
}

/// What every hive's task needs.
pub(crate) struct Context {
    pub(crate) store: Arc<dyn HiveRegistry>,
    pub(crate) launches: Arc<dyn LaunchJournal>,
    pub(crate) launchers: Launchers,
    pub(crate) registry: Arc<WorkerRegistry>,
    pub(crate) journal: Journal,
    pub(crate) connections: Connections,
    pub(crate) key: QueenKey,
    pub(crate) settings: Settings,
}

impl Context {
    pub(crate) fn new_launch_id(&self) -> LaunchId {
        let mut bytes = [0; 10];
        // Without random bytes the launch would not be unguessable, but it must still be unique: the clock makes it so.
        if getrandom::fill(&mut bytes).is_err() {
            let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
            bytes.copy_from_slice(&nanos.to_be_bytes()[6..]);
        }
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        format!("l-{hex}").parse().unwrap_or_else(|_| unreachable!("hexadecimal digits are an id"))
    }

    /// Writes what was last seen of a hive into its row.
    pub(crate) async fn flush(&self, id: &HiveId, phase: HivePhase) {
        let answers = phase.status() == HiveStatus::Online;
        let capabilities =
            self.registry.view().hive(id).and_then(|h| h.capabilities.clone()).filter(|_| answers);
        let last_seen = answers.then(|| Timestamp::from(SystemTime::now()));
        let seen = ObservedHive { status: phase.status(), last_seen, capabilities };
        match self.store.observe(id, seen).await {
            // A hive that was removed meanwhile has no row to write.
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(hive_id = %id, %error, "what was seen of the hive could not be stored")
            }
        }
    }
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
    handle: JoinHandle<()>,
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
    tracker: tokio_util::task::TaskTracker,
}

impl HiveManager {
    /// Reads the registered hives and starts a task for each.
    ///
    /// # Errors
    /// When the rows cannot be read at all. A single broken row is logged and left out.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, ManagerError> {
        let Parts { store, launches, local, registry, journal, connections, key, settings } = parts;
        let launchers = Launchers { local };
        let context =
            Arc::new(Context { store, launches, launchers, registry, journal, connections, key, settings });
        let tracker = tokio_util::task::TaskTracker::new();
        let manager = Arc::new(Self { context, tasks: Mutex::default(), tracker });
        for row in manager.context.store.list().await.map_err(ManagerError::Rows)? {
            match row {
                Ok(row) => manager.add(row.spec, row.desired),
                Err(error) => tracing::error!(%error, "a registered hive cannot be used"),
            }
        }
        Ok(manager)
    }

    fn add(&self, spec: HiveSpec, desired: Desired) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
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
        let handle = self.tracker.spawn(actor.run());
        tasks.by_hive.insert(id, Task { intent, handle });
    }

    /// Registers a hive and starts to look after it. True if it is new, false if it was registered the same way before.
    ///
    /// # Errors
    /// A conflict with another hive of that id, a hive that nothing here could start, or a registry that does not take it.
    pub async fn register(&self, spec: HiveSpec) -> Result<bool, ManagerError> {
        if self.tasks.lock().unwrap_or_else(PoisonError::into_inner).closed {
            return Err(ManagerError::Stopping);
        }
        if spec.kind == HiveKind::Managed && self.context.launchers.of(spec.mode).is_none() {
            let (hive_id, host) = (spec.id.clone(), spec.hostname.to_string());
            return Err(ManagerError::NoLauncher { hive_id, host });
        }
        let id = spec.id.clone();
        let store_error = |action| {
            let hive_id = id.clone();
            move |source| ManagerError::Store { hive_id, action, source }
        };
        match self
            .context
            .store
            .register(spec.clone())
            .await
            .map_err(store_error("could not be registered"))?
        {
            Registration::Conflict { existing } if existing.source == HiveSource::Config => {
                Err(ManagerError::Configured { hive_id: existing.id })
            }
            Registration::Conflict { existing } => Err(ManagerError::Conflict { existing }),
            Registration::Unchanged => Ok(false),
            Registration::Created => {
                self.context.journal.record(EventKind::HiveRegistered { hive_id: id });
                self.add(spec, Desired::Running);
                Ok(true)
            }
        }
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
        &self,
        id: &HiveId,
        desired: Desired,
        by: DesiredBy,
    ) -> Result<Desired, ManagerError> {
        let stored = self.context.store.set_desired(id, desired, by).await;
        let (holds, _) = stored.map_err(|source| match source {
            StoreError::NotFound { .. } => ManagerError::Unknown { hive_id: id.clone() },
            source => ManagerError::Store { hive_id: id.clone(), action: "could not be changed", source },
        })?;
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = tasks.by_hive.get(id).filter(|_| !tasks.closed) {
            task.intent.send_replace(holds.into());
        }
        Ok(holds)
    }

    /// Stops a hive and forgets it.
    ///
    /// # Errors
    /// An unknown hive, one of the configuration file, or a registry that does not take it.
    pub async fn remove(&self, id: &HiveId) -> Result<(), ManagerError> {
        let store_error =
            |source| ManagerError::Store { hive_id: id.clone(), action: "could not be removed", source };
        let row = self.context.store.get(id).await.map_err(store_error)?;
        match row {
            None => return Err(ManagerError::Unknown { hive_id: id.clone() }),
            Some(row) if row.spec.source == HiveSource::Config => {
                return Err(ManagerError::Configured { hive_id: id.clone() });
            }
            Some(_) => {}
        }
        let task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).by_hive.remove(id);
        if let Some(Task { intent, handle }) = task {
            intent.send_replace(Intent::CloseAndStop(self.context.settings.grace));
            let _ = handle.await;
        }
        self.context.store.remove(id).await.map_err(store_error)?;
        self.context.registry.forget(id);
        self.context.journal.record(EventKind::HiveRemoved { hive_id: id.clone() });
        Ok(())
    }

    /// Ends all tasks, the hives themselves too unless they are kept. Hives stop in parallel, each by its own deadline;
    /// closing once more ends those that are still stopping by force.
    pub async fn close(&self, hives: OnStop) {
        let intent = match hives {
            OnStop::Stop(grace) => Intent::CloseAndStop(grace),
            OnStop::Keep => Intent::CloseAndKeep,
        };
        {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.closed = true;
            for task in tasks.by_hive.values() {
                task.intent.send_replace(intent);
            }
        }
        self.tracker.close();
        self.tracker.wait().await;
    }
}

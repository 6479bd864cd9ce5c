//! A manager with its surroundings, and waits with deadlines.

use std::{sync::Arc, time::Duration};

use fake_hive::{CallName, FakeHive, Options, Script};
use fleet::{Event, EventKind, HiveId, HiveKind, HiveLauncher, HiveMode, HivePhase, HiveSpec};
use hive_api::client::{Connections, Timeouts};
use hive_manager::{HiveManager, Parts, QueenKey, Settings};
use journal::Journal;
use registry_ram::{HiveView, WorkerRegistry};
use registry_sqlite::memory::MemoryStore;
use serde_json::json;
use tokio::time::timeout;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Times short enough for a test, long enough for a busy machine.
pub(crate) fn settings() -> Settings {
    Settings {
        suspect: Duration::from_millis(600),
        probe: Duration::from_millis(300),
        retry_max: Duration::from_millis(500),
        grace: Duration::from_millis(300),
        force_after: Duration::from_millis(300),
        write_every: Duration::from_millis(100),
        ..Settings::default()
    }
}

pub(crate) fn script(patch: serde_json::Value) -> Script {
    let lively = json!({ "watch": { "beat_ms": 50 } });
    Script::default().with(&lively).and_then(|script| script.with(&patch)).expect("a script")
}

pub(crate) struct Rig {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) registry: Arc<WorkerRegistry>,
    pub(crate) journal: Journal,
    pub(crate) manager: Arc<HiveManager>,
    pub(crate) data_dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) async fn start(store: Arc<MemoryStore>, local: Arc<dyn HiveLauncher>) -> Self {
        Self::over(tempfile::tempdir().unwrap(), store, local).await
    }

    /// A queen on the data directory of an earlier one.
    pub(crate) async fn over(
        data_dir: tempfile::TempDir,
        store: Arc<MemoryStore>,
        local: Arc<dyn HiveLauncher>,
    ) -> Self {
        let network = Some(local.clone());
        Self::with(data_dir, store, (local, network), settings()).await
    }

    pub(crate) async fn with(
        data_dir: tempfile::TempDir,
        store: Arc<MemoryStore>,
        (local, network): (Arc<dyn HiveLauncher>, Option<Arc<dyn HiveLauncher>>),
        settings: Settings,
    ) -> Self {
        let (registry, journal) = (Arc::new(WorkerRegistry::default()), Journal::new(10_000));
        let key = QueenKey::load_or_create(data_dir.path()).unwrap();
        let manager = HiveManager::start(Parts {
            store: store.clone(),
            launches: store.clone(),
            network,
            local,
            registry: registry.clone(),
            journal: journal.clone(),
            connections: Connections::new(Timeouts::default()).unwrap(),
            key,
            settings,
        });
        let manager = manager.await.unwrap();
        Self { store, registry, journal, manager, data_dir }
    }

    /// Registers a fake that somebody else started.
    pub(crate) async fn attach(&self, name: &str, script: Script) -> FakeHive {
        let fake = FakeHive::start(script, Options::named(name).unwrap()).await.unwrap();
        assert!(self.manager.register(attached(&fake)).await.unwrap());
        fake
    }

    pub(crate) fn view(&self, id: &str) -> Option<Arc<HiveView>> {
        self.registry.view().hive(&id.parse::<HiveId>().unwrap()).cloned()
    }

    /// Waits until the hive is in the phase; returns the reason.
    pub(crate) async fn until(&self, id: &str, phase: HivePhase) -> Option<String> {
        let mut changes = self.registry.changes();
        let waited = timeout(PATIENCE, async {
            while self.view(id).is_none_or(|hive| hive.phase != phase) {
                changes.changed().await.expect("the registry lives");
            }
        });
        assert!(waited.await.is_ok(), "{id} is not {phase:?} but {:?}", self.view(id).map(|hive| hive.phase));
        self.view(id).and_then(|hive| hive.reason.clone())
    }

    pub(crate) fn events(&self, wanted: impl Fn(&EventKind) -> bool) -> Vec<Arc<Event>> {
        self.journal.since(0).into_iter().filter(|event| wanted(&event.kind)).collect()
    }
}

pub(crate) fn attached(fake: &FakeHive) -> HiveSpec {
    let endpoint = fake.endpoint();
    let mut spec = HiveSpec::local(endpoint.hive_id, endpoint.host, endpoint.port);
    spec.kind = HiveKind::Attached { token: Some(endpoint.token), pin: None };
    spec
}

/// A hive of this machine that the manager starts.
pub(crate) fn managed() -> HiveSpec {
    HiveSpec::local("local".parse().unwrap(), "127.0.0.1".parse().unwrap(), 7835)
}

/// A hive of another machine that the manager starts.
pub(crate) fn elsewhere() -> HiveSpec {
    HiveSpec { mode: HiveMode::Network, ..managed() }
}

/// How often a fake was called.
pub(crate) fn calls(fake: &FakeHive, call: CallName) -> usize {
    fake.journal().iter().filter(|c| c.call == call).count()
}

/// The result, which must come in time.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come in time"))
}

/// Looks until it is so.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

//! Placement over scripted hives that the real manager reports.

use std::{sync::Arc, time::Duration};

use fake_hive::{CallName, FakeHive, Options, Script};
use fleet::{DesiredBy, HiveId, HiveKind, HivePhase, HiveSpec, MockHiveLauncher, ModelRef};
use hive_api::{
    SpawnRequest,
    client::{Connections, Timeouts},
};
use hive_manager::{HiveManager, QueenKey};
use journal::Journal;
use model_provisioner::ModelProvisioner;
use placement::{Models, Parts, Placement, PlacementError, Settings, Stage, Switch, Waiter};
use registry_ram::{FleetView, WorkerRegistry};
use registry_sqlite::memory::MemoryStore;
use serde_json::json;
use tokio::time::timeout;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) fakes: Vec<FakeHive>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) registry: Arc<WorkerRegistry>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) connections: Connections,
    pub(crate) manager: Arc<HiveManager>,
    _data_dir: tempfile::TempDir,
}

/// A hive that has the model, with differences.
pub(crate) fn script(patch: serde_json::Value) -> Script {
    let lively = json!({
        "watch": { "beat_ms": 50 }, "models": { "known": [{ "model_ref": "hf:a/b", "stored": true }] }
    });
    Script::default().with(&lively).and_then(|script| script.with(&patch)).unwrap()
}

pub(crate) fn model() -> ModelRef {
    "hf:a/b".parse().unwrap()
}

/// The hive of this position.
pub(crate) fn hive(at: usize) -> HiveId {
    format!("box-{at}").parse().unwrap()
}

impl Rig {
    /// All hives are online when this returns.
    pub(crate) async fn start(scripts: Vec<Script>, settings: Settings) -> Self {
        Self::with_models(scripts, settings, Models::default()).await
    }

    /// The same where the owner said something about models.
    pub(crate) async fn with_models(scripts: Vec<Script>, settings: Settings, models: Models) -> Self {
        let rig = Self::begun(scripts, settings, models).await;
        let all = rig.fakes.len();
        let online = |view: &FleetView| view.hives().filter(|h| h.phase == HivePhase::Online).count() == all;
        rig.until("all hives are online", online).await;
        rig
    }

    /// Nothing is known of the hives yet.
    pub(crate) async fn just_begun(scripts: Vec<Script>, settings: Settings) -> Self {
        Self::begun(scripts, settings, Models::default()).await
    }

    async fn begun(scripts: Vec<Script>, settings: Settings, models: Models) -> Self {
        let store = Arc::new(MemoryStore::new());
        let (registry, journal) = (Arc::new(WorkerRegistry::default()), Journal::new(1000));
        let connections = Connections::new(Timeouts::default()).unwrap();
        let data_dir = tempfile::tempdir().unwrap();
        let manager = HiveManager::start(hive_manager::Parts {
            store: store.clone(),
            launches: store.clone(),
            local: Arc::new(MockHiveLauncher::new()),
            network: None,
            registry: registry.clone(),
            journal: journal.clone(),
            connections: connections.clone(),
            key: QueenKey::load_or_create(data_dir.path()).unwrap(),
            settings: hive_manager::Settings {
                suspect: Duration::from_millis(600),
                probe: Duration::from_millis(300),
                ..Default::default()
            },
        });
        let manager = manager.await.unwrap();
        let mut fakes = Vec::new();
        for (at, script) in scripts.into_iter().enumerate() {
            let fake = FakeHive::start(script, Options::named(hive(at).as_str()).unwrap()).await.unwrap();
            let endpoint = fake.endpoint();
            let mut spec = HiveSpec::local(endpoint.hive_id, endpoint.host, endpoint.port);
            spec.kind = HiveKind::Attached { token: Some(endpoint.token), pin: None };
            manager.register(spec).await.unwrap();
            fakes.push(fake);
        }
        let provisioner = ModelProvisioner::new(model_provisioner::Parts {
            catalog: store.clone(),
            registry: registry.clone(),
            connections: connections.clone(),
            journal: journal.clone(),
            settings: model_provisioner::Settings::default(),
        });
        let parts = Parts {
            registry: registry.clone(),
            provisioner,
            connections: connections.clone(),
            journal,
            observations: store.clone(),
            switch: switch(&manager),
            models,
            region: Some("home".into()),
            settings,
        };
        let placement = Placement::new(parts);
        Self { fakes, store, registry, placement, connections, manager, _data_dir: data_dir }
    }

    /// Has a worker started past the queen.
    pub(crate) async fn spawn_on(&self, at: usize) {
        let request: SpawnRequest =
            serde_json::from_value(json!({ "model_ref": "hf:a/b", "idempotency_key": "k" })).unwrap();
        self.connections.client(self.fakes[at].endpoint()).spawn(&request).await.unwrap();
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&FleetView) -> bool) {
        let mut changes = self.registry.changes();
        let waited = timeout(PATIENCE, async {
            while !holds(&self.registry.view()) {
                changes.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "not so: {what}");
    }

    pub(crate) async fn until_coming(&self) {
        self.until("a worker is coming", |view| view.workers().any(|w| w.record.state.is_coming())).await;
    }

    /// How a cold start of the model ends.
    pub(crate) async fn ensure(&self) -> Result<(), PlacementError> {
        end(self.placement.ensure_worker(&model())).await
    }

    pub(crate) fn count(&self, call: CallName) -> usize {
        self.fakes.iter().map(|fake| calls(fake, call)).sum()
    }
}

fn switch(manager: &Arc<HiveManager>) -> Switch {
    let manager = Arc::clone(manager);
    Box::new(move |hive, desired| {
        let manager = Arc::clone(&manager);
        Box::pin(async move {
            let decided = manager.desire(&hive, desired, DesiredBy::Placement).await;
            decided.map(drop).map_err(|error| error.to_string())
        })
    })
}

/// How often a fake was called.
pub(crate) fn calls(fake: &FakeHive, call: CallName) -> usize {
    fake.journal().iter().filter(|c| c.call == call).count()
}

pub(crate) async fn end(mut waiter: Waiter) -> Result<(), PlacementError> {
    soon(async {
        loop {
            match waiter.now() {
                Stage::Ready => return Ok(()),
                Stage::Failed(error) => return Err(error),
                _ => waiter.moved().await,
            }
        }
    })
    .await
}

/// The result, which must come in time.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it ends in time")
}

/// Looks until it is so.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

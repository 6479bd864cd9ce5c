//! A queen's inner crates over scripted hives, in one process.

use std::{sync::Arc, time::Duration};

use fake_hive::{CallName, FakeHive, Options, Script};
use fleet::{HiveKind, HivePhase, HiveSpec, MockHiveLauncher};
use hive_api::client::{Connections, Timeouts};
use hive_manager::{HiveManager, QueenKey};
use journal::Journal;
use model_provisioner::ModelProvisioner;
use placement::Placement;
use queen_api::{InferEvent, InferRequest};
use registry_ram::WorkerRegistry;
use registry_sqlite::memory::MemoryStore;
use router::Router;
use tokio::{sync::mpsc, time::timeout};

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Fleet {
    pub(crate) fakes: Vec<FakeHive>,
    pub(crate) registry: Arc<WorkerRegistry>,
    pub(crate) router: Arc<Router>,
    pub(crate) journal: Journal,
    pub(crate) manager: Arc<HiveManager>,
    _data_dir: tempfile::TempDir,
}

impl Fleet {
    pub(crate) async fn start(hives: usize) -> Self {
        Self::scripted(vec![Script::default(); hives], router::Settings::default()).await
    }

    /// A fleet of one hive per script, all online.
    pub(crate) async fn scripted(scripts: Vec<Script>, settings: router::Settings) -> Self {
        let store = Arc::new(MemoryStore::new());
        let registry = Arc::new(WorkerRegistry::default());
        let journal = Journal::new(10_000);
        let connections = Connections::new(Timeouts::default()).expect("a client");
        let data_dir = tempfile::tempdir().expect("a directory");
        let manager = HiveManager::start(hive_manager::Parts {
            store: store.clone(),
            launches: store.clone(),
            local: Arc::new(MockHiveLauncher::new()),
            registry: registry.clone(),
            journal: journal.clone(),
            connections: connections.clone(),
            key: QueenKey::load_or_create(data_dir.path()).expect("a key"),
            settings: hive_manager::Settings::default(),
        })
        .await
        .expect("an empty registry");
        let mut fakes = Vec::new();
        for (at, script) in scripts.into_iter().enumerate() {
            let fake = FakeHive::start(script, Options::named(&format!("box-{at}")).expect("an id"))
                .await
                .expect("a fake");
            let endpoint = fake.endpoint();
            let mut spec = HiveSpec::local(endpoint.hive_id, endpoint.host, endpoint.port);
            spec.kind = HiveKind::Attached { token: Some(endpoint.token) };
            assert!(manager.register(spec).await.expect("registered"));
            fakes.push(fake);
        }
        let provisioner = ModelProvisioner::new(model_provisioner::Parts {
            catalog: store,
            registry: registry.clone(),
            connections: connections.clone(),
            journal: journal.clone(),
            settings: model_provisioner::Settings::default(),
        });
        let placement = Placement::new(placement::Parts {
            registry: registry.clone(),
            provisioner,
            connections,
            journal: journal.clone(),
            settings: placement::Settings::default(),
        });
        let parts =
            router::Parts { registry: registry.clone(), placement, journal: journal.clone(), settings };
        let fleet = Self {
            fakes,
            registry,
            router: Arc::new(Router::new(parts)),
            journal,
            manager,
            _data_dir: data_dir,
        };
        let all = fleet.fakes.len();
        fleet
            .until("all hives are online", |view| {
                view.hives().filter(|h| h.phase == HivePhase::Online).count() == all
            })
            .await;
        fleet
    }

    /// Waits until the registry's view is as described.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&registry_ram::FleetView) -> bool) {
        let mut changes = self.registry.changes();
        let waited = timeout(PATIENCE, async {
            while !holds(&self.registry.view()) {
                changes.changed().await.expect("the registry lives");
            }
        });
        assert!(waited.await.is_ok(), "not so: {what}");
    }

    /// How many calls of a kind all fakes got.
    pub(crate) fn count(&self, call: CallName) -> usize {
        self.fakes.iter().flat_map(FakeHive::journal).filter(|c| c.call == call).count()
    }
}

pub(crate) fn request(model: &str, max_tokens: u32) -> InferRequest {
    let json = serde_json::json!({ "model": model, "prompt": "Tell me.", "max_tokens": max_tokens });
    serde_json::from_value(json).expect("a request")
}

/// All events of one request.
pub(crate) async fn collect(fleet: &Fleet, request: InferRequest) -> Vec<InferEvent> {
    let (sender, mut events) = mpsc::channel(16);
    let model = request.model.parse().expect("a model");
    let id = format!("r-{}", fleet.journal.newest()).parse().expect("an id");
    let task = router::infer(fleet.router.clone(), id, model, request, sender);
    let all = async {
        let mut all = Vec::new();
        while let Some(event) = events.recv().await {
            all.push(event);
        }
        all
    };
    let (all, ()) = timeout(PATIENCE, async { tokio::join!(all, task) }).await.expect("the request ends");
    all
}

/// The answer's text.
pub(crate) fn text(events: &[InferEvent]) -> String {
    events
        .iter()
        .filter_map(|e| if let InferEvent::Token { t, .. } = e { Some(t.as_str()) } else { None })
        .collect()
}

//! A whole queen over scripted hives, in one process, behind a real socket.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use fake_hive::{CallName, FakeHive, Options, Outcome, Script};
use fleet::{EventKind, HiveKind, HivePhase, HiveSpec, MockHiveLauncher, ModelRef, RequestOutcome};
use hive_api::client::{Connections, Timeouts};
use hive_manager::{HiveManager, QueenKey};
use http_api::{Api, Limits, Parts, StopOrder};
use http_serve::{Server, Shutdown};
use journal::Journal;
use model_provisioner::ModelProvisioner;
use placement::Placement;
use registry_ram::WorkerRegistry;
use registry_sqlite::memory::MemoryStore;
use router::Router;
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::TaskTracker;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The model that [`Queen::serving`] serves.
pub(crate) const MODEL: &str = "hf:a/b";

/// A name of a model at which the queen panics.
pub(crate) const PANIC: &str = "hf:pa/nic";

pub(crate) struct Queen {
    pub(crate) address: SocketAddr,
    pub(crate) fakes: Vec<FakeHive>,
    pub(crate) api: Arc<Api>,
    pub(crate) router: Arc<Router>,
    pub(crate) registry: Arc<WorkerRegistry>,
    pub(crate) journal: Journal,
    pub(crate) stop: mpsc::Receiver<StopOrder>,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: TaskTracker,
    _manager: Arc<HiveManager>,
    _data_dir: tempfile::TempDir,
}

/// What differs from one queen to the next.
#[derive(Default)]
pub(crate) struct Wishes {
    pub(crate) token: Option<&'static str>,
    pub(crate) limits: Limits,
    pub(crate) serve: http_serve::Limits,
    pub(crate) router: router::Settings,
}

pub(crate) fn script(patch: serde_json::Value) -> Script {
    Script::default().with(&patch).unwrap()
}

impl Queen {
    /// A queen without hives.
    pub(crate) async fn alone(wishes: Wishes) -> Self {
        Self::start(Vec::new(), wishes).await
    }

    /// A queen with hives that have no worker.
    pub(crate) async fn start(scripts: Vec<Script>, wishes: Wishes) -> Self {
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
            settings: hive_manager::Settings::default(),
        });
        let manager = manager.await.unwrap();
        let provisioner = ModelProvisioner::new(model_provisioner::Parts {
            catalog: store,
            registry: registry.clone(),
            connections: connections.clone(),
            journal: journal.clone(),
            settings: model_provisioner::Settings::default(),
        });
        let placement = Placement::new(placing(&registry, &provisioner, connections, &journal));
        let parts = router::Parts {
            registry: registry.clone(),
            placement: placement.clone(),
            journal: journal.clone(),
            settings: wishes.router,
        };
        let router = Arc::new(Router::new(parts));
        let (sender, stop) = mpsc::channel(1);
        let api = Api::new(Parts {
            manager: manager.clone(),
            registry: registry.clone(),
            router: router.clone(),
            placement,
            provisioner,
            journal: journal.clone(),
            token: wishes.token.map(|token| token.parse().unwrap()),
            aliases: BTreeMap::from([("small".to_owned(), MODEL.parse().unwrap())]),
            may_introduce: Box::new(may_introduce),
            limits: wishes.limits,
            process: None,
            stop: sender,
        });
        let (address, shutdown, running) = serve(&api, wishes.serve);
        let mut queen = Self {
            address,
            fakes: Vec::new(),
            api,
            router,
            registry,
            journal,
            stop,
            shutdown,
            running,
            _manager: manager.clone(),
            _data_dir: data_dir,
        };
        queen.attach(&manager, scripts).await;
        queen
    }

    async fn attach(&mut self, manager: &Arc<HiveManager>, scripts: Vec<Script>) {
        for (at, script) in scripts.into_iter().enumerate() {
            let fake = FakeHive::start(script, Options::named(&format!("box-{at}")).unwrap()).await.unwrap();
            manager.register(attached(&fake)).await.unwrap();
            self.fakes.push(fake);
        }
        let all = self.fakes.len();
        let online = || self.registry.view().hives().filter(|h| h.phase == HivePhase::Online).count() == all;
        eventually("all hives are online", online).await;
    }

    /// A queen with one hive per script, each with a ready worker for [`MODEL`].
    pub(crate) async fn serving(scripts: Vec<Script>, wishes: Wishes) -> Self {
        let stored = json!({ "models": { "known": [{ "model_ref": MODEL, "stored": true }] } });
        let scripts = scripts.iter().map(|script| script.with(&stored).unwrap()).collect();
        let queen = Self::start(scripts, wishes).await;
        let connections = Connections::new(Timeouts::default()).unwrap();
        for fake in &queen.fakes {
            let request = json!({ "model_ref": MODEL, "idempotency_key": "k" });
            let request = serde_json::from_value(request).unwrap();
            connections.client(fake.endpoint()).spawn(&request).await.unwrap();
        }
        let (model, all) = (MODEL.parse().unwrap(), queen.fakes.len());
        eventually("all workers are ready", || queen.registry.view().serving(&model).len() == all).await;
        queen
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        http().get(self.url(path)).timeout(PATIENCE)
    }

    pub(crate) fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        http().post(self.url(path)).timeout(PATIENCE).body(body)
    }

    /// How the requests so far ended.
    pub(crate) fn endings(&self) -> Vec<RequestOutcome> {
        let ending = |event: &Arc<fleet::Event>| match &event.kind {
            EventKind::RequestEnded { outcome, .. } => Some(*outcome),
            _ => None,
        };
        self.journal.since(0).iter().filter_map(ending).collect()
    }

    /// How many generations of all workers ended, or stand, that way.
    pub(crate) fn generations(&self, outcome: Outcome) -> usize {
        let calls = self.fakes.iter().flat_map(FakeHive::journal);
        calls.filter(|call| call.call == CallName::Proxy && call.outcome == outcome).count()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.registry.view().workers().map(|w| w.in_flight()).sum()
    }
}

/// Placement without wishes and without hives on demand.
fn placing(
    registry: &Arc<WorkerRegistry>,
    provisioner: &Arc<ModelProvisioner>,
    connections: Connections,
    journal: &Journal,
) -> placement::Parts {
    placement::Parts {
        registry: registry.clone(),
        provisioner: provisioner.clone(),
        connections,
        journal: journal.clone(),
        observations: Arc::new(MemoryStore::new()),
        switch: Box::new(|_, _| Box::pin(async { Ok(()) })),
        models: placement::Models::default(),
        region: None,
        settings: placement::Settings::default(),
    }
}

fn may_introduce(model: &ModelRef) -> bool {
    assert!(model.to_string() != PANIC, "a secret of the prompt");
    !model.to_string().starts_with("hf:forbidden/")
}

fn serve(api: &Arc<Api>, limits: http_serve::Limits) -> (SocketAddr, Shutdown, TaskTracker) {
    let listener = http_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, running) = (Shutdown::default(), TaskTracker::new());
    let server = Server::with_service(listener, api.clone().surface(), limits)
        .with_shutdown(shutdown.clone(), Duration::from_secs(30));
    running.spawn(server.run());
    (address, shutdown, running)
}

pub(crate) fn http() -> reqwest::Client {
    http_client::builder(http_client::Trust::Nobody).build().unwrap()
}

pub(crate) fn attached(fake: &FakeHive) -> HiveSpec {
    let endpoint = fake.endpoint();
    let mut spec = HiveSpec::local(endpoint.hive_id, endpoint.host, endpoint.port);
    spec.kind = HiveKind::Attached { token: Some(endpoint.token), pin: None };
    spec
}

/// Looks until it is so.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, looking).await.is_ok(), "not so: {what}");
}

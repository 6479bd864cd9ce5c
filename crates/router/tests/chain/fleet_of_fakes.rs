//! A queen's inner crates over scripted hives, in one process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use fake_hive::{CallName, FakeHive, Options, Script};
use fleet::{
    EventKind, HiveKind, HivePhase, HiveSpec, MockHiveLauncher, ModelRef, RequestId, RequestOutcome,
};
use hive_api::client::{Connections, Timeouts};
use hive_manager::{HiveManager, QueenKey};
use journal::Journal;
use model_provisioner::ModelProvisioner;
use placement::Placement;
use queen_api::{ErrorCode, InferEvent, InferRequest};
use registry_ram::WorkerRegistry;
use registry_sqlite::memory::MemoryStore;
use router::{Job, Router, Terms};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::TaskTracker;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Fleet {
    pub(crate) fakes: Vec<FakeHive>,
    pub(crate) registry: Arc<WorkerRegistry>,
    pub(crate) router: Arc<Router>,
    pub(crate) journal: Journal,
    manager: Arc<HiveManager>,
    connections: Connections,
    clients: TaskTracker,
    _data_dir: tempfile::TempDir,
}

impl Fleet {
    pub(crate) async fn start(hives: usize) -> Self {
        Self::scripted(vec![Script::default(); hives], router::Settings::default()).await
    }

    /// A fleet of one hive per script, all online.
    pub(crate) async fn scripted(scripts: Vec<Script>, settings: router::Settings) -> Self {
        Self::reached(false, scripts, settings).await
    }

    /// The same, over TLS or not.
    async fn reached(tls: bool, scripts: Vec<Script>, settings: router::Settings) -> Self {
        let store = Arc::new(MemoryStore::new());
        let registry = Arc::new(WorkerRegistry::default());
        let journal = Journal::new(10_000);
        let connections = Connections::new(Timeouts::default()).expect("a client");
        let data_dir = tempfile::tempdir().expect("a directory");
        let manager = HiveManager::start(hive_manager::Parts {
            store: store.clone(),
            launches: store.clone(),
            local: Arc::new(MockHiveLauncher::new()),
            network: None,
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
            let options = Options { tls, ..Options::named(&format!("box-{at}")).expect("an id") };
            let fake = FakeHive::start(script, options).await.expect("a fake");
            let endpoint = fake.endpoint();
            let mut spec = HiveSpec::local(endpoint.hive_id, endpoint.host, endpoint.port);
            spec.kind = HiveKind::Attached { token: Some(endpoint.token), pin: endpoint.pin };
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
            connections: connections.clone(),
            journal: journal.clone(),
            observations: Arc::new(MemoryStore::new()),
            switch: Box::new(|_, _| Box::pin(async { Ok(()) })),
            models: placement::Models::default(),
            region: None,
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
            connections,
            clients: TaskTracker::new(),
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

    /// A fleet of one hive per script, each with a ready worker for [`MODEL`].
    pub(crate) async fn serving(scripts: Vec<Script>, settings: router::Settings) -> Self {
        Self::serving_over(false, scripts, settings).await
    }

    /// The same, over TLS or not.
    pub(crate) async fn serving_over(tls: bool, scripts: Vec<Script>, settings: router::Settings) -> Self {
        let stored = serde_json::json!({ "models": { "known": [{ "model_ref": MODEL, "stored": true }] } });
        let scripts = scripts.iter().map(|script| script.with(&stored).expect("a script")).collect();
        let fleet = Self::reached(tls, scripts, settings).await;
        for fake in &fleet.fakes {
            let request = serde_json::json!({ "model_ref": MODEL, "idempotency_key": "k" });
            let request = serde_json::from_value(request).expect("a spawn request");
            fleet.connections.client(fake.endpoint()).spawn(&request).await.expect("a worker");
        }
        let (model, all) = (model(), fleet.fakes.len());
        fleet.until("all workers are ready", |view| view.serving(&model).len() == all).await;
        fleet
    }

    /// Asks, in a task that ends when the events are dropped.
    pub(crate) fn ask(&self, request: InferRequest) -> mpsc::Receiver<InferEvent> {
        self.ask_under(Terms::default(), request)
    }

    /// The same under other terms.
    pub(crate) fn ask_under(&self, terms: Terms, request: InferRequest) -> mpsc::Receiver<InferEvent> {
        let (sender, events) = mpsc::channel(16);
        let model = request.model.parse().expect("a model");
        self.clients.spawn(router::infer(self.router.clone(), request_id(), model, request, terms, sender));
        events
    }

    /// Requests that the queen has under way on any worker.
    pub(crate) fn in_flight(&self) -> u32 {
        self.registry.view().workers().map(|w| w.in_flight()).sum()
    }

    /// How the requests so far ended, and with how many attempts.
    pub(crate) fn endings(&self) -> Vec<(RequestOutcome, u32)> {
        let ending = |event: &Arc<fleet::Event>| match &event.kind {
            EventKind::RequestEnded { outcome, attempts, .. } => Some((*outcome, *attempts)),
            _ => None,
        };
        self.journal.since(0).iter().filter_map(ending).collect()
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

    /// Says where a hive stands.
    pub(crate) async fn stands(&self, at: usize, region: &str) {
        let endpoint = self.fakes[at].endpoint();
        let mut spec = HiveSpec::local(endpoint.hive_id, endpoint.host, endpoint.port);
        spec.kind = HiveKind::Attached { token: Some(endpoint.token), pin: endpoint.pin };
        spec.region = Some(region.to_owned());
        assert!(!self.manager.register(spec).await.expect("registered"), "the same hive");
    }

    /// How many requests each hive's workers were sent.
    pub(crate) fn proxied(&self) -> Vec<usize> {
        let proxied = |fake: &FakeHive| fake.journal().iter().filter(|c| c.call == CallName::Proxy).count();
        self.fakes.iter().map(proxied).collect()
    }

    /// Has a hive's worker answer somebody who does not ask through the queen.
    pub(crate) async fn answer_behind_the_queen(&self, at: usize) {
        let endpoint = self.fakes[at].endpoint();
        let view = self.registry.view();
        let worker = view.workers().find(|worker| worker.hive_id == endpoint.hive_id).expect("a worker");
        let url =
            format!("{}/v1/workers/{}/proxy/v1/completions", endpoint.base_url(), worker.record.worker_id);
        let client = http_client::builder(http_client::Trust::Nobody).build().expect("a client");
        let body = serde_json::json!({ "model": MODEL, "prompt": "Tell me.", "max_tokens": 3 }).to_string();
        let request = client.post(url).bearer_auth(endpoint.token.reveal()).body(body);
        let request = request.header(hive_api::LAUNCH_HEADER, endpoint.launch_id.as_str());
        let answer = request.header("content-type", "application/json").send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    /// How many calls of a kind all fakes got.
    pub(crate) fn count(&self, call: CallName) -> usize {
        self.fakes.iter().flat_map(FakeHive::journal).filter(|c| c.call == call).count()
    }
}

/// The model that a serving fleet serves.
pub(crate) const MODEL: &str = "hf:a/b";

pub(crate) fn model() -> ModelRef {
    MODEL.parse().expect("a model")
}

/// Another name each time.
pub(crate) fn request_id() -> RequestId {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("r-{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().expect("an id")
}

/// A request as the OpenAI routes forward it.
pub(crate) fn job(stream: bool, max_tokens: u32) -> Job {
    let body = serde_json::json!({
        "model": MODEL, "prompt": "Tell me.", "max_tokens": max_tokens, "stream": stream
    });
    let body = bytes::Bytes::from(body.to_string()).into();
    Job {
        request_id: request_id(),
        model: model(),
        path: "/v1/completions",
        body,
        stream,
        prompt: Default::default(),
        max_tokens: None,
        terms: Terms::default(),
    }
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

pub(crate) fn request(model: &str, max_tokens: u32) -> InferRequest {
    let json = serde_json::json!({ "model": model, "prompt": "Tell me.", "max_tokens": max_tokens });
    serde_json::from_value(json).expect("a request")
}

/// All events of one request.
pub(crate) async fn collect(fleet: &Fleet, request: InferRequest) -> Vec<InferEvent> {
    rest(&mut fleet.ask(request)).await
}

/// The events that are left.
pub(crate) async fn rest(events: &mut mpsc::Receiver<InferEvent>) -> Vec<InferEvent> {
    let mut all = Vec::new();
    let collected = timeout(PATIENCE, async {
        while let Some(event) = events.recv().await {
            all.push(event);
        }
    });
    collected.await.expect("the request ends");
    all
}

/// The code of the error that the events end with.
pub(crate) fn error(events: &[InferEvent]) -> Option<ErrorCode> {
    match events.last() {
        Some(InferEvent::Error { code, .. }) => Some(*code),
        _ => None,
    }
}

/// The answer's text.
pub(crate) fn text(events: &[InferEvent]) -> String {
    events
        .iter()
        .filter_map(|e| if let InferEvent::Token { t, .. } = e { Some(t.as_str()) } else { None })
        .collect()
}

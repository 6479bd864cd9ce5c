//! A machine with one hive, cleaned up whatever happens.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fleet::{
    HiveEndpoint, HiveLauncher, HiveSpec, LaunchError, LaunchId, LaunchObserver, LaunchOrder, LaunchProgress,
    ModelRef, ProcessIdentity, RunningHive, StoreError, Token, WorkerId, WorkerRecord, WorkerStateName,
};
use hive_api::{
    SpawnRequest,
    client::{Connections, HiveClient, Timeouts},
};
use local_lifecycle::{LocalLauncher, Settings};
use warden::Ward;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rbee-hive");

/// No wait of a test is longer.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(value) => value,
        Err(_) => panic!("never happened: {what}"),
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) struct Machine {
    dir: Ward,
    pub(crate) launcher: LocalLauncher,
    pub(crate) spec: HiveSpec,
    pub(crate) connections: Connections,
}

/// A hive that runs, and what calls it.
pub(crate) struct Running {
    pub(crate) hive: RunningHive,
    pub(crate) client: HiveClient,
    pub(crate) token: Token,
}

/// Remembers what it was told.
#[derive(Default)]
pub(crate) struct Observer(pub(crate) std::sync::Mutex<Vec<ProcessIdentity>>);

#[async_trait]
impl LaunchObserver for Observer {
    fn progress(&self, _launch: &LaunchId, _progress: LaunchProgress) {}

    async fn spawned(&self, _: &LaunchId, process: &ProcessIdentity) -> Result<(), StoreError> {
        self.0.lock().expect("no panic").push(process.clone());
        Ok(())
    }
}

impl Machine {
    pub(crate) fn new(hive_toml: &str) -> Self {
        let dir = Ward::new().expect("a directory");
        let mut settings = Settings::new(dir.path());
        settings.binary = Some(BINARY.into());
        let launcher = LocalLauncher::new(settings).expect("a launcher");
        let spec = HiveSpec::local("box".parse().expect("an id"), "localhost".parse().expect("a name"), 0);
        let connections = Connections::new(Timeouts::default()).expect("connections");
        let machine = Self { launcher, spec, connections, dir };
        std::fs::create_dir_all(machine.hive_dir().join("models")).expect("a directory");
        // Whoever runs this may have a cache of their own.
        let hive_toml = format!("hf_cache = \"off\"\n{hive_toml}");
        std::fs::write(machine.hive_dir().join("hive.toml"), hive_toml).expect("a file");
        std::fs::write(machine.model_path(), tiny_model::bytes()).expect("a model");
        machine
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn hive_dir(&self) -> PathBuf {
        self.launcher.hive_dir(&self.spec.id)
    }

    pub(crate) fn model_path(&self) -> PathBuf {
        self.hive_dir().join("models/tiny.gguf")
    }

    pub(crate) fn model(&self) -> ModelRef {
        format!("file:{}", self.model_path().display()).parse().expect("a reference")
    }

    pub(crate) fn order(&self, launch: &str) -> LaunchOrder {
        LaunchOrder {
            spec: self.spec.clone(),
            launch_id: launch.parse().expect("an id"),
            token: format!("token-of-{launch}-0123456789").parse().expect("a token"),
        }
    }

    pub(crate) async fn try_launch(&self, launch: &str) -> Result<Running, LaunchError> {
        let order = self.order(launch);
        let hive = self.launcher.launch(&order, Arc::new(Observer::default())).await?;
        Ok(self.running(hive, order.token))
    }

    pub(crate) fn running(&self, hive: RunningHive, token: Token) -> Running {
        let client = self.connections.client(HiveEndpoint {
            hive_id: self.spec.id.clone(),
            launch_id: hive.launch_id.clone(),
            host: "127.0.0.1".parse().expect("an address"),
            port: hive.port,
            token: token.clone(),
            pin: hive.tls_fingerprint,
        });
        Running { hive, client, token }
    }

    pub(crate) async fn launch(&self, launch: &str) -> Running {
        self.try_launch(launch).await.expect("the hive starts")
    }

    pub(crate) fn request(&self, engine: &str, key: &str) -> SpawnRequest {
        SpawnRequest {
            model_ref: self.model(),
            resolved: None,
            engine: Some(engine.into()),
            device: None,
            context: Some(64),
            slots: Some(2),
            idempotency_key: key.into(),
        }
    }

    pub(crate) async fn ready_worker(&self, running: &Running, engine: &str) -> WorkerRecord {
        let reply = running.client.spawn(&self.request(engine, engine)).await.expect("a worker");
        running.worker_in(&reply.worker_id, WorkerStateName::Ready).await
    }
}

impl Running {
    /// Waits until a worker is in a state.
    pub(crate) async fn worker_in(&self, worker: &WorkerId, state: WorkerStateName) -> WorkerRecord {
        within(&format!("{worker} is {}", state.as_str()), async {
            loop {
                let workers = self.client.workers().await.expect("a list").workers;
                let record =
                    workers.into_iter().find(|record| record.worker_id == *worker).expect("is listed");
                if record.state.name() == state {
                    return record;
                }
                let over = record.state.is_over();
                assert!(!over, "wanted {}, it is over: {:?}", state.as_str(), record.state);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// A plain request with the hive's credentials.
    pub(crate) fn http(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        let client = http_client::builder(self.hive.tls_fingerprint.into()).build().expect("a client");
        client
            .request(method, url)
            .header(hive_api::LAUNCH_HEADER, self.hive.launch_id.as_str())
            .bearer_auth(self.token.reveal())
    }
}

pub(crate) fn identity(pid: u32) -> ProcessIdentity {
    process::of(pid).expect("the kernel tells").expect("it lives")
}

//! A machine whose hive processes are fake hives in this process.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_trait::async_trait;
use fake_hive::{Act, FakeHive, Options, Script};
use fleet::{
    HiveExit, HiveLauncher, HiveMode, HiveSpec, Hostname, LaunchError, LaunchId, LaunchJournal,
    LaunchObserver, LaunchOrder, LaunchStage, LaunchStep, ProcessIdentity, RunningHive, Token,
};
use futures_util::{FutureExt, future::BoxFuture};
use registry_sqlite::memory::MemoryStore;
use tokio::sync::Semaphore;

/// Starts fakes, and notes what it was asked to do.
pub(crate) struct Machine {
    pub(crate) journal: Arc<MemoryStore>,
    pub(crate) script: Mutex<Script>,
    running: Mutex<Option<(RunningHive, Arc<FakeHive>)>>,
    pub(crate) launches: AtomicU32,
    pub(crate) kills: AtomicU32,
    /// How often it was asked what runs.
    pub(crate) looks: AtomicU32,
    /// Whether nobody can be reached there, so that it is neither looked at nor ended.
    pub(crate) is_off: AtomicBool,
    /// What the journal held when the launcher was asked.
    pub(crate) committed: Mutex<Vec<Option<LaunchStep>>>,
    /// Launches wait for one of these.
    pub(crate) permits: Semaphore,
}

impl Machine {
    pub(crate) fn new(journal: Arc<MemoryStore>, script: Script) -> Arc<Self> {
        Arc::new(Self {
            journal,
            script: Mutex::new(script),
            running: Mutex::default(),
            launches: AtomicU32::new(0),
            kills: AtomicU32::new(0),
            looks: AtomicU32::new(0),
            is_off: AtomicBool::new(false),
            committed: Mutex::default(),
            permits: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    /// Starts a hive as an earlier queen would have.
    pub(crate) async fn run(&self, spec: &HiveSpec, launch_id: LaunchId, token: Token) -> RunningHive {
        let options = Options {
            hive_id: spec.id.clone(),
            launch_id: Some(launch_id.clone()),
            token: Some(token),
            tls: spec.mode == HiveMode::Network,
            ..Options::default()
        };
        let script = self.script.lock().unwrap().clone();
        let fake = Arc::new(FakeHive::start(script, options).await.unwrap());
        let process = ProcessIdentity { pid: 7, start_time: 9, boot_id: "b".to_owned() };
        let running = RunningHive {
            launch_id,
            process,
            port: fake.endpoint().port,
            tls_fingerprint: fake.endpoint().pin,
        };
        *self.running.lock().unwrap() = Some((running.clone(), fake));
        running
    }

    pub(crate) fn fake(&self) -> Arc<FakeHive> {
        Arc::clone(&self.running.lock().unwrap().as_ref().expect("a hive was started").1)
    }

    pub(crate) fn launched(&self) -> u32 {
        self.launches.load(Ordering::SeqCst)
    }

    pub(crate) fn killed(&self) -> u32 {
        self.kills.load(Ordering::SeqCst)
    }

    /// Whether a hive process lives.
    pub(crate) fn lives(&self) -> bool {
        self.running.lock().unwrap().as_ref().is_some_and(|(_, fake)| fake.ended().now_or_never().is_none())
    }

    fn reached(&self, spec: &HiveSpec) -> Result<(), LaunchError> {
        if !self.is_off.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (hive_id, host, source) = (spec.id.clone(), spec.hostname.clone(), "timed out".into());
        Err(LaunchError::Remote { hive_id, host, stage: LaunchStage::Connect, retry: true, source })
    }

    pub(crate) async fn crash(&self) {
        self.fake().act(Act::Exit { code: 3 }).await.unwrap();
    }
}

#[async_trait]
impl HiveLauncher for Machine {
    async fn launch(
        &self,
        order: &LaunchOrder,
        observer: Arc<dyn LaunchObserver>,
    ) -> Result<RunningHive, LaunchError> {
        let open = self.journal.open(&order.spec.id).await.unwrap();
        let step = open.iter().find(|launch| launch.launch_id == order.launch_id).map(|launch| launch.step);
        self.committed.lock().unwrap().push(step);
        self.launches.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.unwrap().forget();
        let running = self.run(&order.spec, order.launch_id.clone(), order.token.clone()).await;
        observer.spawned(&order.launch_id, &running.process).await.unwrap();
        Ok(running)
    }

    async fn discover(&self, spec: &HiveSpec) -> Result<Option<RunningHive>, LaunchError> {
        self.reached(spec)?;
        self.looks.fetch_add(1, Ordering::SeqCst);
        let lives = self.lives();
        Ok(self.running.lock().unwrap().as_ref().filter(|_| lives).map(|(running, _)| running.clone()))
    }

    fn exited(&self, spec: &HiveSpec, _: &RunningHive) -> BoxFuture<'static, HiveExit> {
        if spec.mode == HiveMode::Network {
            return Box::pin(std::future::pending());
        }
        let fake = self.fake();
        Box::pin(async move {
            let code = Some(i32::from(fake.ended().await));
            HiveExit { code, signal: None, log_tail: vec!["last words".to_owned()] }
        })
    }

    async fn kill(&self, spec: &HiveSpec, _: &RunningHive) -> Result<u32, LaunchError> {
        self.reached(spec)?;
        self.kills.fetch_add(1, Ordering::SeqCst);
        self.fake().act(Act::Exit { code: 137 }).await.unwrap();
        Ok(1)
    }

    async fn address(&self, spec: &HiveSpec) -> Hostname {
        spec.hostname.on_this_machine()
    }

    async fn log_tail(&self, _: &HiveSpec, lines: usize) -> Vec<String> {
        vec!["what the launcher reads".to_owned(); lines]
    }
}

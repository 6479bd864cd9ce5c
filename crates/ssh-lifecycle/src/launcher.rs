//! The launcher.

mod bring;
mod reach;
mod start;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet::{
    HiveExit, HiveLauncher, HiveSpec, Hostname, LaunchError, LaunchObserver, LaunchOrder, LaunchProgress,
    LaunchStage, RunningHive,
};
use futures_util::future::{BoxFuture, FutureExt};
use hive_api::client::{Connections, Timeouts};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    Destination, Machine, Settings, SshError,
    bundle::Bundles,
    config, connect,
    machine::{about, living, looking},
    remote::Remote,
    session::Threads,
    upload,
};

/// Sessions that are open at once: a whole fleet of the size that this is for is one wave, and a mistake is no flood.
const AT_ONCE: usize = 32;

/// How long a server may take to greet whoever only wants to know that it does.
const GREETING: Duration = Duration::from_secs(2);

/// Starts, finds and ends hives of other machines. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SshLauncher {
    settings: Arc<Settings>,
    bundles: Bundles,
    connections: Connections,
    sessions: Arc<Semaphore>,
    threads: Threads,
}

/// A machine that is logged in to, and its place among those.
struct Opened<'a> {
    remote: Remote,
    _place: Option<SemaphorePermit<'a>>,
}

impl SshLauncher {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When no HTTP client can be set up.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let bound = Duration::from_secs(2);
        let connections = Connections::new(Timeouts { connect: bound, call: bound, inspect: bound })?;
        Ok(Self {
            settings: Arc::new(settings),
            bundles: Bundles::default(),
            connections,
            sessions: Arc::new(Semaphore::new(AT_ONCE)),
            threads: Threads::default(),
        })
    }

    /// How many threads own an SSH session now. Each is gone soon after its session was given up.
    #[must_use]
    pub fn living_sessions(&self) -> usize {
        self.threads.living()
    }

    /// Looks what machine it is. Nothing is changed there.
    ///
    /// # Errors
    /// When it cannot be reached, logged in to or asked.
    pub async fn probe(&self, destination: &Destination) -> Result<Machine, SshError> {
        let opened = self.open(destination, &|_, _| {}).await.map_err(|(error, _)| error)?;
        Machine::probe(&opened.remote, &self.settings).await
    }

    /// Removes everything that was ever brought or made there, models and logs included. Refuses while the hive runs.
    ///
    /// # Errors
    /// When a hive runs there, the directory is none of a hive, or it cannot be removed.
    pub async fn purge(&self, destination: &Destination) -> Result<(), SshError> {
        let opened = self.open(destination, &|_, _| {}).await.map_err(|(error, _)| error)?;
        let host = destination.host.clone();
        let script = about(self.settings.dir.as_str(), include_str!("scripts/purge.sh"));
        let doing = "remove the hive's directory";
        // Models are large, and removing them takes a disk its time.
        let answer = opened.remote.ask(doing, self.settings.patience.stall * 4, script).await?;
        if let Some(by) = answer.get("alive") {
            let wrong = || SshError::Answer { host: host.clone(), doing, field: "alive" };
            return Err(SshError::StillRuns { by: by.parse().map_err(|_| wrong())?, host });
        }
        if answer.get("foreign").is_some() {
            return Err(SshError::NotOurs { host, dir: self.settings.dir.as_str().to_owned() });
        }
        Ok(())
    }

    /// Logs in. An error comes with the step that failed.
    async fn open(
        &self,
        destination: &Destination,
        tell: &(dyn Fn(LaunchStage, Option<String>) + Sync),
    ) -> Result<Opened<'_>, (SshError, LaunchStage)> {
        // It is never closed; without a place the work is still done.
        let place = self.sessions.acquire().await.ok();
        tell(LaunchStage::Connect, None);
        let mut stage = LaunchStage::Connect;
        let on_the_way = |_| {
            stage = LaunchStage::Authenticate;
            tell(stage, None);
        };
        match Remote::open(destination, &self.settings, &self.threads, on_the_way).await {
            Ok(remote) => Ok(Opened { remote, _place: place }),
            Err(error) => {
                let is_key = matches!(error, SshError::Key { .. } | SshError::NoKey { .. });
                Err((error, if is_key { LaunchStage::Authenticate } else { stage }))
            }
        }
    }

    async fn open_for(&self, spec: &HiveSpec) -> Result<Opened<'_>, LaunchError> {
        let destination = destination(spec).map_err(|error| at(spec, LaunchStage::Connect)(error))?;
        self.open(&destination, &|_, _| {}).await.map_err(|(error, stage)| at(spec, stage)(error))
    }
}

fn destination(spec: &HiveSpec) -> Result<Destination, SshError> {
    let wrong = |source| SshError::Destination { host: spec.hostname.clone(), source };
    Destination::of(&spec.hostname, &spec.ssh).map_err(wrong)
}

fn at(spec: &HiveSpec, stage: LaunchStage) -> impl FnOnce(SshError) -> LaunchError {
    let (id, host) = (spec.id.clone(), spec.hostname.clone());
    move |error| error.at(&id, &host, stage)
}

/// What the login tells whoever waits for it.
fn login_detail(remote: &Remote) -> String {
    let (user, with) = (&remote.to.user, &remote.login.with);
    if remote.login.by_agent {
        format!(
            "as {user} with {with}; an agent is there only while somebody is logged in here: name a key file without a \
             passphrase, or one with a passphrase file, for a queen that starts by itself"
        )
    } else {
        format!("as {user} with {with}")
    }
}

#[async_trait]
impl HiveLauncher for SshLauncher {
    async fn launch(
        &self,
        order: &LaunchOrder,
        observer: Arc<dyn LaunchObserver>,
    ) -> Result<RunningHive, LaunchError> {
        let spec = &order.spec;
        let tell: upload::Tell = {
            let (observer, launch_id) = (Arc::clone(&observer), order.launch_id.clone());
            Arc::new(move |progress| observer.progress(&launch_id, progress))
        };
        let stage = |stage, detail| tell(LaunchProgress { stage, detail, bytes: None, total: None });
        let destination = destination(spec).map_err(at(spec, LaunchStage::Connect))?;
        let opened = self.open(&destination, &stage).await;
        let opened = opened.map_err(|(error, stage)| at(spec, stage)(error))?;
        let remote = &opened.remote;
        planted::step("network-logged-in");
        stage(LaunchStage::Authenticate, Some(login_detail(remote)));
        stage(LaunchStage::Probe, None);
        let machine = Machine::probe(remote, &self.settings).await.map_err(at(spec, LaunchStage::Probe))?;
        stage(LaunchStage::Probe, Some(machine.to_string()));
        let file = match machine.running.clone() {
            // The answer of an earlier attempt at this launch was lost, not the hive.
            Some(file) if (&file.hive_id, &file.launch_id) == (&spec.id, &order.launch_id) => file,
            Some(file) => {
                let (host, dir, wanted) = (spec.hostname.clone(), machine.dir.clone(), spec.id.clone());
                let (by, launch) = (file.hive_id, file.launch_id.to_string());
                return Err(at(spec, LaunchStage::Probe)(SshError::Occupied {
                    host,
                    dir,
                    by,
                    launch,
                    wanted,
                }));
            }
            None => {
                stage(LaunchStage::Upload, None);
                let bundle = self.bundle(&spec.hostname, &machine, &tell).await;
                let bundle = bundle.map_err(|error| {
                    let is_engine = matches!(error, SshError::Engine { .. });
                    let stage = if is_engine { LaunchStage::Fetch } else { LaunchStage::Upload };
                    at(spec, stage)(error)
                })?;
                let brought = upload::bring(remote, &machine, &self.settings, &bundle, &tell).await;
                brought.map_err(at(spec, LaunchStage::Upload))?;
                planted::step("upload-activated");
                stage(LaunchStage::Start, None);
                let started = self.start(remote, &machine, &bundle, order).await;
                started.map_err(at(spec, LaunchStage::Start))?
            }
        };
        let running = RunningHive::from(file.clone());
        planted::step("network-started");
        if let Err(source) = observer.spawned(&order.launch_id, &running.process).await {
            if let Err(error) = self.end(remote, &running).await {
                tracing::warn!(hive_id = %spec.id, %error, "could not end a hive that could not be recorded");
            }
            return Err(LaunchError::Journal { hive_id: spec.id.clone(), source });
        }
        planted::step("network-recorded");
        stage(LaunchStage::Reach, None);
        self.reach(remote, &file).await.map_err(at(spec, LaunchStage::Reach))?;
        Ok(running)
    }

    async fn discover(&self, spec: &HiveSpec) -> Result<Option<RunningHive>, LaunchError> {
        let opened = self.open_for(spec).await?;
        let doing = "look for a running hive";
        let script = looking(&self.settings, include_str!("scripts/find.sh"));
        let answer = opened.remote.ask(doing, self.settings.patience.look(), script).await;
        let found = answer.and_then(|answer| living(&spec.hostname, doing, &answer));
        let found = found.map_err(at(spec, LaunchStage::Probe))?;
        Ok(found.filter(|file| file.hive_id == spec.id).map(RunningHive::from))
    }

    fn exited(&self, _spec: &HiveSpec, _running: &RunningHive) -> BoxFuture<'static, HiveExit> {
        // Another machine tells nothing by itself; the hive's own beats do.
        std::future::pending().boxed()
    }

    async fn kill(&self, spec: &HiveSpec, running: &RunningHive) -> Result<u32, LaunchError> {
        let opened = self.open_for(spec).await?;
        self.end(&opened.remote, running).await.map_err(at(spec, LaunchStage::Start))
    }

    async fn address(&self, spec: &HiveSpec) -> Hostname {
        let Ok(destination) = destination(spec) else { return spec.hostname.clone() };
        match config::resolve(&destination, &self.settings).await {
            Ok(to) => to.address,
            Err(_) => spec.hostname.clone(),
        }
    }

    async fn greets(&self, spec: &HiveSpec) -> bool {
        let Ok(destination) = destination(spec) else { return false };
        let greeted = connect::says_hello(&destination, &self.settings);
        tokio::time::timeout(GREETING, greeted).await.unwrap_or(false)
    }

    async fn log_tail(&self, spec: &HiveSpec, lines: usize) -> Vec<String> {
        let Ok(opened) = self.open_for(spec).await else { return Vec::new() };
        let script = about(self.settings.dir.as_str(), include_str!("scripts/log.sh"))
            .with("lines", lines.min(10_000).to_string());
        match opened.remote.ask("read the hive's log", self.settings.patience.command, script).await {
            Ok(answer) => answer.all("log").map(str::to_owned).collect(),
            Err(_) => Vec::new(),
        }
    }
}

impl SshLauncher {
    /// Ends exactly this process, and the workers that it left.
    async fn end(&self, remote: &Remote, running: &RunningHive) -> Result<u32, SshError> {
        let doing = "end the hive";
        let host = remote.to.host.clone();
        let process = &running.process;
        let script = about(self.settings.dir.as_str(), include_str!("scripts/kill.sh"))
            .with("pid", process.pid.to_string())
            .with("start", process.start_time.to_string())
            .with("boot", process.boot_id.as_str());
        let answer = remote.ask(doing, self.settings.patience.command * 2, script).await?;
        if answer.get("stuck").is_some() {
            let said = format!("process {} does not end", process.pid);
            return Err(SshError::Failed { host, doing, status: 1, said });
        }
        let count = |field| answer.number(field).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        Ok(count("ended") + count("reaped"))
    }
}

//! The launcher.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fleet::{
    HiveCommand, HiveExit, HiveId, HiveLauncher, HiveSpec, Hostname, LaunchError, LaunchObserver,
    LaunchOrder, RunningHive, SecretSource,
};
use futures_util::future::{BoxFuture, FutureExt};
use hive_api::{
    HiveFile, SecretLine,
    client::{Connections, Timeouts},
};
use process::{Environment, Exit, LogFile, Process, ProcessError, Program};

use crate::{
    Settings, binary,
    children::{self, Children, Ended},
};

/// How often is looked whether a new hive listens. It usually takes a few tens of milliseconds.
const LOOK: Duration = Duration::from_millis(5);

/// Lines of the hive's log that an error or an exit carries.
const TAIL_LINES: usize = 20;

/// How long `reap` may take: it waits 5 s at most for each worker that hangs in the kernel.
const REAP: Duration = Duration::from_secs(20);

/// Starts, finds and ends hives of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalLauncher {
    settings: Settings,
    children: Children,
    connections: Connections,
}

impl LocalLauncher {
    /// Starts nothing yet.
    ///
    /// # Errors
    /// When no HTTP client can be set up.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let second = Duration::from_secs(1);
        let connections = Connections::new(Timeouts { connect: second, call: second, inspect: second })?;
        Ok(Self { settings, children: Children::default(), connections })
    }

    /// Where a hive keeps its state.
    #[must_use]
    pub fn hive_dir(&self, hive: &HiveId) -> PathBuf {
        self.settings.data_dir.join("hives").join(hive.as_str())
    }

    fn log(&self, hive: &HiveId) -> LogFile {
        LogFile::new(self.hive_dir(hive).join("hive.log"))
    }

    fn binary(&self, hive: &HiveId) -> Result<PathBuf, LaunchError> {
        binary::find(self.settings.binary.as_deref())
            .map_err(|tried| LaunchError::BinaryMissing { hive_id: hive.clone(), tried })
    }

    fn program(&self, order: &LaunchOrder) -> Result<Program, LaunchError> {
        let id = &order.spec.id;
        let command = HiveCommand {
            port: order.spec.port,
            host: order.spec.hostname.on_this_machine(),
            data_dir: Some(self.hive_dir(id)),
            hive_id: Some(id.clone()),
            launch_id: Some(order.launch_id.clone()),
            secret: SecretSource::Stdin,
            plain_http: false,
        };
        Ok(Program {
            path: self.binary(id)?,
            args: command.to_args().into_iter().map(Into::into).collect(),
            environment: self.environment(),
            log: self.log(id),
        })
    }

    fn environment(&self) -> Environment {
        // The hub's token is the hive's to use; no other secret of the queen's environment is. Where the owner's Hugging Face
        // cache lies is no secret.
        let inherited = Environment::inherited()
            .inherit_prefix("RBEE_HIVE_")
            .inherit_prefix("HF_TOKEN")
            .inherit_prefix("HF_HOME")
            .inherit_prefix("HF_HUB_CACHE")
            .inherit_prefix("XDG_CACHE_HOME");
        let chosen = self.settings.environment.iter();
        chosen.fold(inherited, |environment, (name, value)| environment.with(name, value))
    }

    /// Reads `hive.json`; none if there is none, or it is another hive's.
    async fn announced(&self, hive: &HiveId) -> Result<Option<HiveFile>, LaunchError> {
        let path = self.hive_dir(hive).join(HiveFile::NAME);
        let failed =
            |source| LaunchError::Io { hive_id: hive.clone(), action: "read", path: path.clone(), source };
        let reading = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || std::fs::read_to_string(path))
        };
        match reading.await.map_err(|error| failed(io::Error::other(error)))? {
            Ok(text) => {
                let file = HiveFile::parse(&text).map_err(|error| failed(error.into()))?;
                Ok((file.hive_id == *hive).then_some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Ends when the hive answers for this launch.
    async fn listening(&self, order: &LaunchOrder) -> HiveFile {
        let host = order.spec.hostname.on_this_machine();
        loop {
            // What a predecessor left there, even if it cannot be read, is about to be replaced.
            if let Ok(Some(file)) = self.announced(&order.spec.id).await
                && file.launch_id == order.launch_id
                && let Ok(health) = self.connections.health(&host, file.port, file.tls_fingerprint).await
                && (&health.hive_id, &health.launch_id) == (&order.spec.id, &order.launch_id)
            {
                return file;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn tail(&self, hive: &HiveId, lines: usize) -> Vec<String> {
        tail(self.log(hive).path, lines).await
    }

    async fn listen_or_end(&self, order: &LaunchOrder, ended: Ended) -> Result<HiveFile, LaunchError> {
        let hive_id = order.spec.id.clone();
        tokio::select! {
            biased;
            exit = children::exit(ended) => {
                let exit = hive_exit(exit, self.tail(&hive_id, TAIL_LINES).await);
                Err(LaunchError::Exited { hive_id, exit })
            }
            file = self.listening(order) => Ok(file),
            () = tokio::time::sleep(self.settings.listen) => {
                let log_tail = self.tail(&hive_id, TAIL_LINES).await;
                Err(LaunchError::NotListening { hive_id, within: self.settings.listen, log_tail })
            }
        }
    }

    /// Ends the workers that a hive left behind, and tells how many there were.
    async fn reap(&self, hive: &HiveId) -> Result<u32, LaunchError> {
        let binary = self.binary(hive)?;
        let failed =
            |source| LaunchError::Io { hive_id: hive.clone(), action: "run", path: binary.clone(), source };
        let mut command = tokio::process::Command::new(&binary);
        command.arg("reap").arg("--data-dir").arg(self.hive_dir(hive));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(REAP, command.output()).await;
        let output = output.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or("it said nothing").to_owned();
            return Err(failed(io::Error::other(format!("reap ended with {}: {last}", output.status))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0))
    }
}

fn hive_exit(exit: Exit, log_tail: Vec<String>) -> HiveExit {
    HiveExit { code: exit.code, signal: exit.signal, log_tail }
}

async fn tail(path: PathBuf, lines: usize) -> Vec<String> {
    tokio::task::spawn_blocking(move || process::tail(&path, lines)).await.unwrap_or_default()
}

fn io_error(hive: &HiveId, action: &'static str, path: &Path) -> impl FnOnce(ProcessError) -> LaunchError {
    let (hive_id, path) = (hive.clone(), path.to_owned());
    move |error| {
        let source = match error {
            ProcessError::Spawn { source, .. }
            | ProcessError::Log { source, .. }
            | ProcessError::Stdin { source, .. }
            | ProcessError::Identify { source, .. }
            | ProcessError::Signal { source, .. }
            | ProcessError::Wait { source, .. } => source,
        };
        LaunchError::Io { hive_id, action, path, source }
    }
}

#[async_trait]
impl HiveLauncher for LocalLauncher {
    async fn launch(
        &self,
        order: &LaunchOrder,
        observer: Arc<dyn LaunchObserver>,
    ) -> Result<RunningHive, LaunchError> {
        let hive = &order.spec.id;
        let program = self.program(order)?;
        let dir = self.hive_dir(hive);
        durable_file::create_private_directory(&dir).map_err(|source| LaunchError::Io {
            hive_id: hive.clone(),
            action: "create",
            path: dir,
            source,
        })?;
        let secret = SecretLine { token: order.token.clone() }.to_line();
        let child = program.spawn_with_input(secret.as_bytes()).await;
        let child = child.map_err(io_error(hive, "start", &program.path))?;
        let (process, handle) = (child.identity().clone(), child.process().clone());
        let ended = self.children.keep(child);
        planted::step("launch-spawned");
        let listening = match observer.spawned(&order.launch_id, &process).await {
            Ok(()) => {
                planted::step("launch-recorded");
                self.listen_or_end(order, ended).await
            }
            Err(source) => Err(LaunchError::Journal { hive_id: hive.clone(), source }),
        };
        match listening {
            Ok(file) => Ok(RunningHive { process, ..file.into() }),
            Err(error) => {
                if let Err(error) = handle.kill().await {
                    tracing::warn!(hive_id = %hive, %error, "could not end a hive that did not start");
                }
                Err(error)
            }
        }
    }

    async fn discover(&self, spec: &HiveSpec) -> Result<Option<RunningHive>, LaunchError> {
        let Some(file) = self.announced(&spec.id).await? else { return Ok(None) };
        Ok(process::is_alive(&file.process).then(|| file.into()))
    }

    fn exited(&self, spec: &HiveSpec, running: &RunningHive) -> BoxFuture<'static, HiveExit> {
        let log = self.log(&spec.id);
        let ended = self.children.end_of(&running.process);
        let identity = running.process.clone();
        async move {
            let exit = match (ended, Process::open(&identity)) {
                (Some(ended), _) => children::exit(ended).await,
                (None, Ok(Some(process))) => {
                    process.exited_with_log(&log).await;
                    Exit { code: None, signal: None }
                }
                (None, _) => Exit { code: None, signal: None },
            };
            hive_exit(exit, tail(log.path, TAIL_LINES).await)
        }
        .boxed()
    }

    async fn address(&self, spec: &HiveSpec) -> Hostname {
        spec.hostname.on_this_machine()
    }

    async fn kill(&self, spec: &HiveSpec, running: &RunningHive) -> Result<u32, LaunchError> {
        let dir = self.hive_dir(&spec.id);
        let ended = self.children.end_of(&running.process);
        let hive =
            Process::open(&running.process).map_err(io_error(&spec.id, "identify the hive of", &dir))?;
        let mut count = 0;
        if let Some(hive) = hive {
            let is_gone = hive.kill().await.map_err(io_error(&spec.id, "end the hive of", &dir))?;
            if !is_gone {
                let source = io::ErrorKind::TimedOut.into();
                return Err(LaunchError::Io {
                    hive_id: spec.id.clone(),
                    action: "end the hive of",
                    path: dir,
                    source,
                });
            }
            count = 1;
        }
        if let Some(ended) = ended {
            children::exit(ended).await;
        }
        if !dir.exists() {
            return Ok(count);
        }
        Ok(count + self.reap(&spec.id).await?)
    }

    async fn log_tail(&self, spec: &HiveSpec, lines: usize) -> Vec<String> {
        self.tail(&spec.id, lines).await
    }
}

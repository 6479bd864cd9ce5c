//! A program of the cluster, as a process with its log in the scenario's folder.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use fleet::ProcessIdentity;
use process::{Child, Environment, Exit, LogFile, Process, Program, Signal};
use serde::{Deserialize, Serialize};

use crate::programs::Profile;

/// Which build of the programs is judged, and with which planted bug.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kit {
    pub(crate) profile: Profile,
    pub(crate) bug: Option<String>,
}

impl Kit {
    /// One of the workspace's programs.
    pub(crate) fn program(&self, name: &str, log: impl Into<PathBuf>) -> Start {
        self.with_bug(Start::new(self.profile.program(name), log))
    }

    /// The same, in a network namespace of its own. It stays the process that was started.
    pub(crate) fn program_apart(&self, name: &str, log: impl Into<PathBuf>) -> Start {
        let start =
            Start::new("unshare", log).args(["--net".into(), self.profile.program(name).into_os_string()]);
        self.with_bug(start)
    }

    fn with_bug(&self, start: Start) -> Start {
        match &self.bug {
            Some(bug) => start.env("RBEE_PLANTED", bug),
            None => start,
        }
    }
}

/// One start of a program.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) log: PathBuf,
}

impl Start {
    pub(crate) fn new(path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), env: Vec::new(), log: log.into() }
    }

    pub(crate) fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn spawn(&self) -> anyhow::Result<Running> {
        let environment =
            self.env.iter().fold(Environment::inherited(), |e, (name, value)| e.with(name, value));
        let program = Program {
            path: self.path.clone(),
            args: self.args.clone(),
            environment,
            log: LogFile::new(&self.log),
        };
        let child = program.spawn().with_context(|| format!("could not start {}", self.path.display()))?;
        let process = child.process().clone();
        Ok(Running { child: Some(child), process, log: self.log.clone(), exit: None })
    }
}

/// A running program. It has to be ended: dropped, it runs on, and only the end of its cluster finds it.
#[derive(Debug)]
pub(crate) struct Running {
    /// None if somebody else started it.
    child: Option<Child>,
    process: Process,
    log: PathBuf,
    exit: Option<Exit>,
}

impl Running {
    /// One that somebody else started.
    pub(crate) fn found(identity: &ProcessIdentity, log: PathBuf) -> anyhow::Result<Self> {
        let process = Process::open(identity)?.with_context(|| format!("pid {} has ended", identity.pid))?;
        Ok(Self { child: None, process, log, exit: None })
    }

    pub(crate) fn identity(&self) -> &ProcessIdentity {
        self.process.identity()
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.exit.is_none() && self.process.is_alive()
    }

    /// Signals the process itself, not what it started.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(self.process.signal(signal)?)
    }

    /// Waits until it has ended by itself. How is told of own children only.
    pub(crate) async fn ended(&mut self, within: Duration) -> anyhow::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let end = async {
            match &mut self.child {
                Some(child) => child.wait().await,
                None => {
                    self.process.exited().await;
                    Ok(Exit { code: None, signal: None })
                }
            }
        };
        let waited = tokio::time::timeout(within, end).await;
        let exit = waited.with_context(|| format!("{} did not end within {within:?}", self.name()))??;
        self.exit = Some(exit);
        Ok(exit)
    }

    /// Kills it, without a chance to clean up.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<Exit> {
        self.signal(Signal::KILL)?;
        self.ended(Duration::from_secs(5)).await
    }

    /// What it and its children hold of the memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        process::memory_of_group(self.identity().pid)
    }

    /// Its last lines, for a message.
    pub(crate) fn tail(&self) -> String {
        process::tail(&self.log, 12).join("\n")
    }

    fn name(&self) -> String {
        self.log.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

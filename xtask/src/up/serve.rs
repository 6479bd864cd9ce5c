//! The queen as a process of this one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use process::{Child, Environment, LogFile, Program, Signal};

use crate::{programs::Profile, stop::Stop, workspace};

/// How long the queen may take until it is ready.
const READY: Duration = Duration::from_secs(30);

/// How long it may take to stop: its grace, and some seconds.
const STOP: Duration = Duration::from_secs(40);

/// A queen that was started here.
pub(super) struct Serving {
    child: Child,
    url: String,
    token: Option<String>,
    log: PathBuf,
    shown_log: String,
    began: Instant,
    ready_after: Duration,
}

impl Serving {
    pub(super) fn start(listen: SocketAddr, data_dir: &Path, models: &Path) -> anyhow::Result<Self> {
        let file = data_dir.join("queen.log");
        // Only this run's lines are worth showing when something goes wrong.
        let _ = std::fs::remove_file(&file);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let engine = Profile::Engine.folder();
        let path = std::env::join_paths(std::iter::once(engine).chain(std::env::split_paths(&inherited)))?;
        let environment = Environment::inherited()
            .inherit_prefix("QUEEN_RBEE_")
            .inherit_prefix("RBEE_HIVE_")
            .inherit_prefix("HF_")
            .with("RBEE_HIVE_MODELS_DIR", models.canonicalize()?)
            .with("PATH", path);
        let program = Program {
            path: Profile::Release.program("queen-rbee"),
            args: vec!["--listen".into(), listen.to_string().into(), "--data-dir".into(), data_dir.into()],
            environment,
            log: LogFile::new(&file),
        };
        let began = Instant::now();
        let child = program.spawn().context("could not start the queen")?;
        let token = std::env::var("QUEEN_RBEE_TOKEN").ok().filter(|token| !token.is_empty());
        let shown_log = workspace::shown(&file);
        Ok(Self {
            child,
            url: format!("http://{listen}"),
            token,
            log: file,
            shown_log,
            began,
            ready_after: Duration::ZERO,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.identity().pid
    }

    /// From its start until it took requests.
    pub(super) const fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Waits until it takes requests and its hive is there.
    pub(super) async fn until_ready(&mut self) -> anyhow::Result<()> {
        let client = http_client::builder(http_client::Trust::Nobody).build()?;
        let ready = async {
            loop {
                let reply = client.get(format!("{}/readyz", self.url)).send().await;
                if reply.is_ok_and(|reply| reply.status().is_success()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(READY, ready) => {
                ready.map_err(|_| anyhow!("the queen is not ready within {READY:?}:\n{}", self.tail()))?;
            }
            ended = Self::end(&mut self.child, &self.log) => return Err(ended),
        }
        self.ready_after = self.began.elapsed();
        eprintln!("   ready after {} ms; its log is {}", self.ready_after.as_millis(), self.shown_log);
        Ok(())
    }

    /// Ends when the queen does, with its last words.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        Self::end(&mut self.child, &self.log).await
    }

    async fn end(child: &mut Child, log: &Path) -> anyhow::Error {
        match child.wait().await {
            Ok(exit) => {
                let code = exit.code.map_or("a signal".to_owned(), |code| format!("code {code}"));
                anyhow!("the queen ended with {code}:\n{}", process::tail(log, 12).join("\n"))
            }
            Err(error) => error.into(),
        }
    }

    fn tail(&self) -> String {
        process::tail(&self.log, 12).join("\n")
    }

    /// Asks it to stop and waits until it has, with all that it started. Insisting shortens its grace.
    pub(super) async fn stop(mut self, stop: &Stop) -> anyhow::Result<()> {
        if !self.child.process().is_alive() {
            return Ok(());
        }
        self.child.process().signal(Signal::TERM)?;
        let stopped = async {
            tokio::select! {
                ended = self.child.wait() => return ended,
                () = stop.insisted() => {}
            }
            self.child.process().signal(Signal::TERM)?;
            self.child.wait().await
        };
        match tokio::time::timeout(STOP, stopped).await {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(exit)) if exit.code == Some(0) => Ok(()),
            Ok(Ok(_)) => bail!("the queen did not stop as it should:\n{}", self.tail()),
            Err(_) => {
                self.child.stop(Duration::ZERO).await?;
                bail!("the queen did not stop within {STOP:?} and was ended")
            }
        }
    }
}

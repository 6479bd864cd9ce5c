//! The queen under test, as a process.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use fleet::Event;
use process::{Exit, Signal};
use reqwest::Method;
use tokio_util::task::TaskTracker;

use super::{
    api::Server,
    program::{Running, Start},
};

/// How long a queen may take until it is ready, on a machine that does other things as well.
const READY: Duration = Duration::from_secs(20);

/// Events of all queens of a cluster, one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
    faults: Vec<String>,
}

impl Events {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.seen().events.clone()
    }

    /// What was wrong with the streams themselves.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.seen().faults.clone()
    }

    /// Follows a queen until its stream ends.
    async fn follow(self, queen: Server) {
        let request = queen.request(Method::GET, "/v1/events?since=0");
        let Ok(mut response) = request.send().await else { return };
        let mut decoder = sse::Decoder::new(1 << 20);
        let mut last = 0;
        let mut pending = VecDeque::new();
        while let Ok(Some(piece)) = response.chunk().await {
            if let Err(error) = decoder.push(&piece, &mut pending) {
                self.seen().faults.push(error.to_string());
                return;
            }
            for event in pending.drain(..) {
                match serde_json::from_slice::<Event>(&event.data) {
                    Ok(event) if event.seq == last + 1 => {
                        last = event.seq;
                        self.seen().events.push(event);
                    }
                    Ok(event) => self.seen().faults.push(format!("event {} came after {last}", event.seq)),
                    Err(error) => self.seen().faults.push(format!("{:?} is no event: {error}", event.data)),
                }
            }
        }
    }
}

/// One queen, which may be started several times over the same data.
#[derive(Debug)]
pub(crate) struct Queen {
    pub(crate) server: Server,
    pub(crate) data_dir: PathBuf,
    pub(crate) running: Running,
    pub(crate) events: Events,
    /// From its start until it said that it is ready.
    pub(crate) ready_after: Duration,
    /// Whether it was killed at some time, so that it could not tell how its requests ended.
    pub(crate) was_killed: bool,
    start: Start,
    followers: TaskTracker,
}

impl Queen {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(start: Start, server: Server, data_dir: &Path) -> anyhow::Result<Self> {
        let running = start.spawn()?;
        let (data_dir, events) = (data_dir.to_path_buf(), Events::default());
        let (ready_after, followers) = (Duration::ZERO, TaskTracker::new());
        let was_killed = false;
        let mut queen = Self { server, data_dir, running, events, ready_after, was_killed, start, followers };
        queen.until_ready().await?;
        Ok(queen)
    }

    /// Waits until it takes requests.
    pub(crate) async fn until_ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if self.server.get("/readyz").await.is_ok_and(|reply| reply.status.is_success()) {
                break;
            }
            if !self.running.is_alive() {
                bail!("the queen ended at its start:\n{}", self.running.tail());
            }
            ensure!(
                began.elapsed() < READY,
                "the queen is not ready within {READY:?}:\n{}",
                self.running.tail()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.ready_after = began.elapsed();
        self.followers.spawn(self.events.clone().follow(self.server.clone()));
        Ok(())
    }

    /// Starts it again after its end.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.start_again()?;
        self.until_ready().await
    }

    /// The same without waiting for anything.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(!self.running.is_alive(), "the queen still runs");
        self.running = self.start.spawn()?;
        Ok(())
    }

    /// The same with a run that dies at a step by itself, which takes a build with planted bugs.
    pub(crate) fn start_to_die(&mut self, step: &str) -> anyhow::Result<()> {
        self.was_killed = true;
        self.start_with(&[("RBEE_DIES_AT", step)])
    }

    /// The same with a run that hangs at a step until it is killed.
    pub(crate) fn start_to_hang(&mut self, step: &str) -> anyhow::Result<()> {
        self.start_with(&[("RBEE_HANGS_AT", step)])
    }

    /// The same with more in its environment, for this run only.
    pub(crate) fn start_with(&mut self, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        ensure!(!self.running.is_alive(), "the queen still runs");
        let start = self.start.clone();
        self.running =
            variables.iter().fold(start, |start, (name, value)| start.env(name, *value)).spawn()?;
        Ok(())
    }

    /// Kills it, without a chance to clean up.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.was_killed = true;
        if self.running.is_alive() {
            self.running.kill().await?;
        }
        Ok(())
    }

    /// Asks it to stop, as Ctrl-C does, and waits for its end.
    pub(crate) async fn stop(&mut self, within: Duration) -> anyhow::Result<Exit> {
        self.running.signal(Signal::TERM)?;
        self.running.ended(within).await
    }

    /// The most memory that it ever took, in bytes.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        let pid = self.running.identity().pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// Another start over the same data and with other flags, for what a second queen does.
    pub(crate) fn another(&self, log: &str, flags: &[&str]) -> Start {
        let mut start = self.start.clone();
        start.log.set_file_name(log);
        start.args(flags.iter().copied())
    }

    /// Waits until every event stream has been read to its end; the queen has ended.
    pub(crate) async fn events_read(&self) -> anyhow::Result<()> {
        self.followers.close();
        let read = tokio::time::timeout(Duration::from_secs(5), self.followers.wait()).await;
        self.followers.reopen();
        read.context("the event stream outlives the queen")
    }
}

//! Being asked to stop: Ctrl-C, SIGTERM, or the terminal going away.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How patient to be. Cloned into everything that waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Cancelled at the first request: end what runs, in order.
    asked: CancellationToken,
    /// Cancelled at the second: end it by force.
    insisted: CancellationToken,
    tasks: Arc<TaskTracker>,
}

/// Whoever sees this was asked to stop; it is not a failure of what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped on request")
    }
}

impl std::error::Error for Stopped {}

impl Stop {
    /// From now on signals no longer end this program by themselves.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        for kind in kinds {
            let signals = signal(kind).context("could not listen for signals")?;
            stop.tasks.spawn(stop.clone().listen(signals));
        }
        Ok(stop)
    }

    async fn listen(self, mut signals: Signal) {
        while signals.recv().await.is_some() {
            if self.asked.is_cancelled() {
                self.insisted.cancel();
            }
            self.asked.cancel();
        }
    }

    /// Asks.
    pub(crate) fn ask(&self) {
        self.asked.cancel();
    }

    /// Ends once somebody asked.
    pub(crate) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Ends once somebody asked again.
    pub(crate) async fn insisted(&self) {
        self.insisted.cancelled().await;
    }

    /// Whether somebody asked.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// What `work` comes to, unless somebody asks to stop before.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            biased;
            () = self.asked() => Err(Stopped.into()),
            outcome = work => outcome,
        }
    }
}

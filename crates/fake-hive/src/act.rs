//! What a test makes a fake hive do at a moment of its choosing.

use std::{sync::Arc, time::Duration};

use fleet::{LaunchId, WorkerId};
use hive_api::{ShutdownRequest, StopWorkerRequest};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::sleep};

use crate::{net::NetOrder, script::Cut, secret::random_launch, state::Core};

/// One act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// The hive was started again at the same port: another launch, revisions from zero, every connection reset. Its
    /// store stays, its workers do not unless they are kept, as a hive keeps them that adopts what it finds.
    Restart {
        /// The new launch; a random one if absent.
        #[serde(default)]
        launch_id: Option<LaunchId>,
        /// Whether the workers live on under the new launch.
        #[serde(default)]
        keep_workers: bool,
    },
    /// Connections are refused and open ones reset, as if the process were gone.
    Down,
    /// Connections are taken again.
    Up,
    /// Down and up in turns; answers at once.
    Flap {
        /// How long it is up.
        up_ms: u64,
        /// How long it is down.
        down_ms: u64,
        /// How often.
        cycles: u32,
    },
    /// The binary ends with this code, cleaning up nothing. In a library, as [`Act::Down`].
    Exit {
        /// Exit code.
        #[serde(default)]
        code: u8,
    },
    /// Ends as asked: workers first.
    Shutdown,
    /// Resets every open connection.
    CutAll {
        /// How.
        #[serde(default)]
        how: Cut,
    },
    /// A worker's process ends unasked.
    KillWorker {
        /// Which; every one if absent.
        #[serde(default)]
        worker: Option<WorkerId>,
        /// Whether the hive reports it.
        #[serde(default = "yes")]
        reported: bool,
        /// How its connections end.
        #[serde(default)]
        how: Cut,
    },
    /// A worker is stopped in its tracks: connections stay open and nothing comes.
    FreezeWorker {
        /// Which; every one if absent.
        #[serde(default)]
        worker: Option<WorkerId>,
    },
    /// A frozen worker goes on.
    ThawWorker {
        /// Which; every one if absent.
        #[serde(default)]
        worker: Option<WorkerId>,
    },
    /// A worker is stopped behind the queen's back.
    StopWorker {
        /// Which.
        worker: WorkerId,
    },
    /// A model vanishes from the store behind the queen's back, whoever uses it; nobody is told if it is silent.
    DropModel {
        /// Which.
        model_ref: fleet::ModelRef,
        /// Whether the watch says nothing.
        #[serde(default)]
        silent: bool,
    },
    /// The next change skips this many revisions.
    RevGap {
        /// How many.
        by: u64,
    },
    /// Reports free memory and disk: a change for readers to see.
    ReportDevices,
    /// Forgets the ended calls of the journal.
    ClearJournal,
}

const fn yes() -> bool {
    true
}

/// Why an act did nothing.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// No such living worker.
    #[error("the hive has no living worker {0}")]
    NoWorker(WorkerId),
    /// No such model in the store.
    #[error("the store has no model {0}")]
    NoModel(fleet::ModelRef),
    /// The hive has ended.
    #[error("the hive has ended")]
    Ended,
    /// The system gave no randomness.
    #[error("could not make a launch id")]
    Randomness(#[source] std::io::Error),
}

impl Core {
    pub(crate) async fn act(self: &Arc<Self>, act: Act) -> Result<(), ActError> {
        match act {
            Act::Restart { launch_id, keep_workers } => {
                let launch_id = launch_id.map_or_else(random_launch, Ok).map_err(ActError::Randomness)?;
                self.relaunch(launch_id, keep_workers);
                self.begin_launch();
            }
            Act::Down => self.net_order(NetOrder::Down).await?,
            Act::Up => self.net_order(NetOrder::Up).await?,
            Act::Flap { up_ms, down_ms, cycles } => {
                let core = Arc::clone(self);
                self.spawn(async move { core.flap(up_ms, down_ms, cycles).await });
            }
            Act::Exit { code } => {
                self.exit.send_replace(Some(code));
                self.net_order(NetOrder::Down).await?;
            }
            Act::Shutdown => self.begin_shutdown(&ShutdownRequest::default()),
            Act::CutAll { how } => self.wires.cut_all(how),
            Act::KillWorker { worker, reported, how } => {
                self.each_worker(worker, |id| self.kill_worker(id, reported, how))?;
            }
            Act::FreezeWorker { worker } => self.each_worker(worker, |id| self.freeze_worker(id, true))?,
            Act::ThawWorker { worker } => self.each_worker(worker, |id| self.freeze_worker(id, false))?,
            Act::StopWorker { worker } => {
                let request = StopWorkerRequest { grace_ms: Some(0) };
                self.stop_worker_now(&worker, &request).map_err(|_| ActError::NoWorker(worker))?;
            }
            Act::DropModel { model_ref, silent } => self.drop_model(&model_ref, silent)?,
            Act::RevGap { by } => self.state().rev += by,
            Act::ReportDevices => self.report_devices(),
            Act::ClearJournal => self.journal.clear(),
        }
        Ok(())
    }

    fn each_worker(&self, worker: Option<WorkerId>, act: impl Fn(&WorkerId) -> bool) -> Result<(), ActError> {
        if let Some(id) = worker {
            return if act(&id) { Ok(()) } else { Err(ActError::NoWorker(id)) };
        }
        let all: Vec<_> = self.state().workers.keys().cloned().collect();
        for id in all {
            act(&id);
        }
        Ok(())
    }

    fn drop_model(&self, model_ref: &fleet::ModelRef, silent: bool) -> Result<(), ActError> {
        let stored = self.find_stored(model_ref).map_err(|_| ActError::NoModel(model_ref.clone()))?;
        let mut state = self.state();
        state.store.remove(&stored.record.resolved);
        if !silent {
            state.report_model(stored.record, true);
        }
        Ok(())
    }

    pub(crate) async fn net_order(
        &self,
        order: impl FnOnce(oneshot::Sender<()>) -> NetOrder,
    ) -> Result<(), ActError> {
        let (done, is_done) = oneshot::channel();
        self.net.send(order(done)).await.map_err(|_| ActError::Ended)?;
        is_done.await.map_err(|_| ActError::Ended)
    }

    async fn flap(&self, up_ms: u64, down_ms: u64, cycles: u32) {
        for _ in 0..cycles {
            let down = self.net_order(NetOrder::Down).await;
            sleep(Duration::from_millis(down_ms)).await;
            if down.is_err() || self.net_order(NetOrder::Up).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(up_ms)).await;
        }
    }
}

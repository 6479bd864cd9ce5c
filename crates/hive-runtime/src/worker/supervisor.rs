//! The task of one worker.

use std::{path::Path, sync::Arc, time::Duration};

use fleet::{FailureCode, WorkerRecord, WorkerState};
use process::{Environment, Exit, LogFile, Program};
use tokio::{sync::watch, time::Instant};

use super::{
    Journal, JournalEntry, Loopback, MARK, Running, Traffic, failure, figures,
    ready::{until_ready, until_stalled},
};
use crate::{
    board::Board,
    engine::{EngineSpec, Fill},
};

/// How long an engine may take to end once it was asked to and has nothing left to do.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What all supervisors use.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) board: Arc<Board>,
    pub(crate) journal: Journal,
    pub(crate) http: Loopback,
    pub(crate) load_stall: Duration,
    pub(crate) log_cap: u64,
}

/// One worker's task, before it runs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) tools: Tools,
    pub(crate) entry: JournalEntry,
    pub(crate) traffic: Arc<Traffic>,
    /// Until when running requests may finish, once somebody ordered a stop.
    pub(crate) stop: watch::Receiver<Option<Instant>>,
}

/// Why a worker is over.
enum Over {
    Stopped(Exit),
    Failed(FailureCode),
}

/// What ended a state.
enum Ended {
    Exit(Exit),
    Stop,
    Ready,
    Stalled,
}

impl Supervisor {
    /// Starts the engine and stays with it until it is over.
    pub(crate) async fn start(mut self, engine: EngineSpec, model: &Path, projector: Option<&Path>) {
        match self.spawn(&engine, model, projector).await {
            Ok(running) => self.run(running).await,
            Err(message) => self.over(Over::Failed(FailureCode::SpawnFailed), Some(message)).await,
        }
    }

    async fn spawn(
        &mut self,
        engine: &EngineSpec,
        model: &Path,
        projector: Option<&Path>,
    ) -> Result<Running, String> {
        let written = |error: std::io::Error| format!("could not write the journal of workers: {error}");
        self.tools.journal.put(self.entry.clone()).await.map_err(written)?;
        let served_name = self.entry.model_ref.to_string();
        let own_name = self.entry.device.to_string();
        let fill = Fill {
            model,
            projector,
            served_name: &served_name,
            port: self.entry.port,
            context: self.entry.context,
            slots: self.entry.slots,
            device: self.entry.device,
            device_name: engine.device_names.get(&self.entry.device).unwrap_or(&own_name),
        };
        // CUDA's own order is by speed; nvidia-smi's, by which devices are numbered here, is by slot.
        let environment = Environment::inherited().with("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        let environment = environment.with(MARK, &self.entry.mark);
        let environment =
            engine.env.iter().fold(environment, |env, (name, value)| env.with(name, fill.word(value)));
        let program = Program {
            path: engine.program.clone(),
            args: engine.filled(&fill).into_iter().map(Into::into).collect(),
            environment,
            log: self.log(),
        };
        let mut child = program.spawn().map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
        self.entry.process = Some(child.identity().clone());
        if let Err(error) = self.tools.journal.put(self.entry.clone()).await {
            // Unwritten it would be nobody's after this hive.
            let _ = child.stop(Duration::ZERO).await;
            return Err(written(error));
        }
        Ok(Running::Own(Box::new(child)))
    }

    fn log(&self) -> LogFile {
        LogFile { path: self.entry.log.clone(), cap: self.tools.log_cap }
    }

    /// Stays with a process that was adopted.
    pub(crate) async fn adopt(self, process: process::Process) {
        let log = self.log();
        self.run(Running::Adopted(process, log)).await;
    }

    async fn run(mut self, mut running: Running) {
        let oom_kills = failure::oom_kills();
        let pid = running.process().identity().pid;
        self.go_with(WorkerState::Loading { progress: None }, |record| record.pid = Some(pid));
        let over = match self.load(&mut running, pid).await {
            Ended::Ready => self.serve(&mut running, pid).await,
            Ended::Stop => self.stop(&mut running).await,
            Ended::Stalled => {
                running.stop(STOP_GRACE).await;
                Over::Failed(FailureCode::LoadTimeout)
            }
            Ended::Exit(exit) => {
                let tail = process::tail(&self.entry.log, failure::TAIL_LINES);
                let killed = failure::oom_kills().saturating_sub(oom_kills);
                Over::Failed(failure::while_loading(exit, &tail, killed))
            }
        };
        self.over(over, None).await;
    }

    async fn load(&mut self, running: &mut Running, pid: u32) -> Ended {
        tokio::select! {
            biased;
            exit = running.wait() => Ended::Exit(exit),
            _ = stop_ordered(&mut self.stop) => Ended::Stop,
            () = until_ready(&self.tools.http, &self.entry) => Ended::Ready,
            () = until_stalled(&self.entry, pid, self.tools.load_stall) => Ended::Stalled,
        }
    }

    async fn serve(&mut self, running: &mut Running, pid: u32) -> Over {
        // The gate first: whoever reads that the worker is ready may send at once.
        self.traffic.open_gate();
        self.go(WorkerState::Ready);
        let (tools, entry, traffic) = (self.tools.clone(), self.entry.clone(), Arc::clone(&self.traffic));
        let keep_figures = figures::keep(&tools.board, &tools.http, &entry, pid, &traffic);
        tokio::pin!(keep_figures);
        tokio::select! {
            biased;
            _ = running.wait() => return Over::Failed(FailureCode::Crashed),
            _ = stop_ordered(&mut self.stop) => {}
            () = &mut keep_figures => {}
        }
        self.traffic.close_gate();
        self.go(WorkerState::Draining);
        tokio::select! {
            biased;
            _ = running.wait() => return Over::Failed(FailureCode::Crashed),
            () = self.traffic.idle() => {}
            () = deadline_passed(self.stop.clone()) => {}
            () = &mut keep_figures => {}
        }
        self.stop(running).await
    }

    async fn stop(&mut self, running: &mut Running) -> Over {
        self.traffic.close_gate();
        self.go(WorkerState::Stopping);
        Over::Stopped(running.stop(STOP_GRACE).await)
    }

    fn go(&self, next: WorkerState) {
        self.go_with(next, |_| {});
    }

    fn go_with(&self, next: WorkerState, change: impl FnOnce(&mut WorkerRecord)) {
        if let Err(error) = self.tools.board.move_worker(&self.entry.worker_id, next, change) {
            tracing::error!(%error, "a worker's task lost track of its state");
        }
    }

    async fn over(&self, over: Over, message: Option<String>) {
        self.traffic.close_gate();
        let worker_id = &self.entry.worker_id;
        if let Err(error) = self.tools.journal.remove(worker_id.clone()).await {
            tracing::warn!(%worker_id, %error, "could not take a worker out of the journal");
        }
        let state = match over {
            Over::Stopped(exit) => {
                tracing::info!(%worker_id, code = exit.code, "worker stopped");
                WorkerState::Stopped { exit: exit.code }
            }
            Over::Failed(code) => {
                let mut log_tail = process::tail(&self.entry.log, failure::TAIL_LINES);
                log_tail.extend(message);
                tracing::warn!(%worker_id, code = code.as_str(), "worker failed");
                WorkerState::Failed { code, log_tail }
            }
        };
        self.go_with(state, |record| (record.pid, record.slots_busy, record.memory_bytes) = (None, 0, 0));
    }
}

async fn stop_ordered(stop: &mut watch::Receiver<Option<Instant>>) {
    // When nobody can order a stop any more, none will come.
    if stop.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Ends at the deadline of the stop, which a later order can bring forward.
async fn deadline_passed(mut stop: watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = stop.borrow_and_update().unwrap_or_else(Instant::now);
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return,
            changed = stop.changed() => if changed.is_err() { return tokio::time::sleep_until(deadline).await },
        }
    }
}

//! All workers of this hive: starting, adopting, finding and stopping them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet::{DeviceSelector, ModelRef, StoredModel, WorkerId, WorkerRecord, WorkerState};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    engine::EngineSpec,
    worker::{JournalEntry, Supervisor, Tools, Traffic},
};

/// How many logs of workers that are gone are kept.
const LOGS_KEPT: usize = 50;

/// The order to start one worker; everything is decided.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) key: String,
    pub(crate) model_ref: ModelRef,
    pub(crate) model: StoredModel,
    /// The file that the engine opens.
    pub(crate) path: PathBuf,
    pub(crate) projector: Option<PathBuf>,
    pub(crate) engine: EngineSpec,
    pub(crate) device: DeviceSelector,
    pub(crate) context: u32,
    pub(crate) slots: u32,
}

/// Why no worker was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStarted {
    #[error("this hive is stopping")]
    Stopping,
    #[error("no port is free for the worker")]
    NoPort(#[source] std::io::Error),
    #[error("the system gives no random numbers")]
    NoName(#[source] std::io::Error),
}

/// What a request to a worker needs.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) port: u16,
    pub(crate) traffic: Arc<Traffic>,
}

#[derive(Debug)]
struct Handle {
    target: Target,
    stop: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Table {
    handles: BTreeMap<WorkerId, Handle>,
    keys: BTreeMap<String, WorkerId>,
    is_closed: bool,
}

/// The workers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    tools: Tools,
    /// Where the queen reaches this hive, such as `http://127.0.0.1:7835`.
    base_url: String,
    logs: PathBuf,
    table: Arc<Mutex<Table>>,
    tasks: TaskTracker,
}

impl Workers {
    /// Takes over what the journal names and still lives; forgets the rest.
    pub(crate) async fn adopt(tools: Tools, base_url: String, logs: PathBuf) -> std::io::Result<Self> {
        durable_file::create_private_directory(&logs)?;
        let workers = Self { tools, base_url, logs, table: Arc::default(), tasks: TaskTracker::new() };
        for mut entry in workers.tools.journal.entries() {
            let Some(process) = entry.find() else {
                workers.tools.journal.remove(entry.worker_id).await?;
                continue;
            };
            tracing::info!(worker_id = %entry.worker_id, pid = process.identity().pid, "adopting a worker");
            if entry.process.is_none() {
                entry.process = Some(process.identity().clone());
                workers.tools.journal.put(entry.clone()).await?;
            }
            workers.tools.board.add_worker(workers.record(&entry));
            let worker_id = entry.worker_id.clone();
            let supervisor = workers.supervisor(&mut workers.table(), entry);
            let adopted = workers.clone();
            workers.tasks.spawn(async move {
                supervisor.adopt(process).await;
                adopted.table().handles.remove(&worker_id);
            });
        }
        Ok(workers)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Changed by single inserts and removals, so it is whole even if a holder panicked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker that was started with this key, if one was.
    pub(crate) fn of_key(&self, key: &str) -> Option<WorkerRecord> {
        let id = self.table().keys.get(key).cloned()?;
        self.tools.board.worker(&id)
    }

    /// Starts a worker, or finds the one of the same key.
    pub(crate) fn start(&self, order: Order) -> Result<WorkerRecord, NotStarted> {
        let mut table = self.table();
        if table.is_closed {
            return Err(NotStarted::Stopping);
        }
        // Two requests of one key can get this far side by side; the second one finds the first one's here.
        if let Some(id) = table.keys.get(&order.key)
            && let Some(record) = self.tools.board.worker(id)
        {
            return Ok(record);
        }
        let worker_id = new_id()?;
        let entry = JournalEntry {
            mark: format!("{}.{worker_id}", self.tools.board.launch_id()),
            process: None,
            port: free_port(&table).map_err(NotStarted::NoPort)?,
            log: self.logs.join(format!("{worker_id}.log")),
            model_ref: order.model_ref,
            resolved: order.model.resolved,
            digest: order.model.digest,
            engine: order.engine.name.clone(),
            dialect: order.engine.dialect,
            health: order.engine.health.clone(),
            told_the_name: order.engine.is_told_the_name(),
            device: order.device,
            context: order.context,
            slots: order.slots,
            worker_id,
        };
        let record = self.tools.board.add_worker(self.record(&entry));
        table.keys.insert(order.key, entry.worker_id.clone());
        let supervisor = self.supervisor(&mut table, entry);
        let (workers, worker_id) = (self.clone(), record.worker_id.clone());
        self.tasks.spawn(async move {
            supervisor.start(order.engine, &order.path, order.projector.as_deref()).await;
            workers.table().handles.remove(&worker_id);
            workers.prune_logs().await;
        });
        Ok(record)
    }

    /// Logs outlive their workers, to tell why those ended; the oldest ones go.
    async fn prune_logs(&self) {
        let living: BTreeSet<PathBuf> = self.table().handles.keys().map(|worker| self.log(worker)).collect();
        let logs = self.logs.clone();
        let pruning = tokio::task::spawn_blocking(move || prune(&logs, &living));
        if let Ok(Err(error)) = pruning.await {
            tracing::warn!(%error, "could not remove old logs");
        }
    }

    fn supervisor(&self, table: &mut Table, entry: JournalEntry) -> Supervisor {
        let (stop, stopped) = watch::channel(None);
        let traffic = Traffic::new();
        let target = Target { port: entry.port, traffic: Arc::clone(&traffic) };
        table.handles.insert(entry.worker_id.clone(), Handle { target, stop });
        Supervisor { tools: self.tools.clone(), entry, traffic, stop: stopped }
    }

    fn record(&self, entry: &JournalEntry) -> WorkerRecord {
        WorkerRecord {
            worker_id: entry.worker_id.clone(),
            launch_id: self.tools.board.launch_id().clone(),
            rev: 0,
            model_ref: entry.model_ref.clone(),
            resolved: entry.resolved.clone(),
            digest: entry.digest,
            engine: entry.engine.clone(),
            device: entry.device,
            context: entry.context,
            slots: entry.slots,
            slots_busy: 0,
            prompt_tokens_total: 0,
            output_tokens_total: 0,
            memory_bytes: 0,
            pid: entry.process.as_ref().map(|process| process.pid),
            url: format!("{}/v1/workers/{}/proxy", self.base_url, entry.worker_id),
            state: WorkerState::Starting,
        }
    }

    /// What a request to this worker needs; none for a worker that is over or was never there.
    pub(crate) fn target(&self, worker: &WorkerId) -> Option<Target> {
        self.table().handles.get(worker).map(|handle| handle.target.clone())
    }

    /// Where a worker's log is. Logs outlive their workers, so the name is checked, not the table.
    pub(crate) fn log(&self, worker: &WorkerId) -> PathBuf {
        self.logs.join(format!("{worker}.log"))
    }

    /// Orders a worker to stop; running requests may take `grace`. An order that was given before is only ever brought
    /// forward.
    pub(crate) fn stop(&self, worker: &WorkerId, grace: Duration) {
        if let Some(handle) = self.table().handles.get(worker) {
            order_stop(handle, Instant::now() + grace);
        }
    }

    /// Orders all workers to stop and takes no new one. May be called again with less grace.
    pub(crate) fn stop_all(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut table = self.table();
        table.is_closed = true;
        for handle in table.handles.values() {
            order_stop(handle, deadline);
        }
        self.tasks.close();
    }

    /// Ends when no worker is left; only after [`Workers::stop_all`].
    pub(crate) async fn ended(&self) {
        self.tasks.wait().await;
    }
}

/// Removes all but the newest logs of workers that are gone, each with what was cut off it.
fn prune(logs: &Path, living: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    let mut ended = Vec::new();
    for file in std::fs::read_dir(logs)? {
        let file = file?;
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "log") && !living.contains(&path) {
            ended.push((file.metadata()?.modified()?, path));
        }
    }
    ended.sort();
    let surplus = ended.len().saturating_sub(LOGS_KEPT);
    for (_, path) in ended.into_iter().take(surplus) {
        let mut cut_off = path.clone().into_os_string();
        cut_off.push(".1");
        durable_file::remove(&path)?;
        durable_file::remove(Path::new(&cut_off))?;
    }
    Ok(())
}

fn order_stop(handle: &Handle, deadline: Instant) {
    handle.stop.send_if_modified(|stop| {
        let is_sooner = stop.is_none_or(|known| deadline < known);
        if is_sooner {
            *stop = Some(deadline);
        }
        is_sooner
    });
}

/// Random, so that a worker adopted from an earlier launch never has the name of a new one.
fn new_id() -> Result<WorkerId, NotStarted> {
    let number = getrandom::u32().map_err(|error| NotStarted::NoName(std::io::Error::other(error)))?;
    format!("w-{number:08x}").parse().map_err(|error| NotStarted::NoName(std::io::Error::other(error)))
}

/// A port that nobody listens on and no worker was given. Between here and the engine's own bind somebody else may take
/// it; the engine then fails to start, and the probe believes no other engine that answers there.
fn free_port(table: &Table) -> std::io::Result<u16> {
    const ATTEMPTS: usize = 64;
    let given: BTreeSet<u16> = table.handles.values().map(|handle| handle.target.port).collect();
    for _ in 0..ATTEMPTS {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if !given.contains(&port) {
            return Ok(port);
        }
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_logs_and_those_of_living_workers_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = |number: usize| dir.path().join(format!("w-{number}.log"));
        for number in 0..LOGS_KEPT + 10 {
            let file = std::fs::File::create(path(number)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(number as u64)).unwrap();
            std::fs::write(dir.path().join(format!("w-{number}.log.1")), "").unwrap();
        }
        let living = BTreeSet::from([path(0)]);
        prune(dir.path(), &living).unwrap();
        let kept: Vec<usize> = (0..LOGS_KEPT + 10).filter(|&number| path(number).exists()).collect();
        assert_eq!(kept.len(), LOGS_KEPT + 1);
        assert!(kept.contains(&0) && !kept.contains(&9) && kept.contains(&10));
        assert!(!dir.path().join("w-1.log.1").exists());
    }
}

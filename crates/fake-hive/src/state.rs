//! The hive itself: what it has, under one lock, and what it tells its watchers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use fleet::{
    Digest, DownloadId, DownloadRecord, HiveId, Hostname, LaunchId, ModelRef, Resolved, StoredModel, Token,
    WorkerId,
};
use hive_api::{DeviceChange, ErrorDetail, ModelChange, WatchEvent};
use http_serve::Identity;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    journal::Journal,
    net::NetOrder,
    script::{CallName, ModelScript, Script},
    wire::{Wires, lock},
    worker::Worker,
};

/// Ended workers that stay in the lists.
const ENDED_MAX: usize = 64;

/// Lines of the hive's own log that are kept.
const LOG_MAX: usize = 1000;

/// One fake hive.
pub(crate) struct Core {
    pub(crate) hive_id: HiveId,
    pub(crate) token: Token,
    /// Its certificate, if it serves TLS.
    pub(crate) identity: Option<Identity>,
    pub(crate) host: Hostname,
    pub(crate) port: u16,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) script: watch::Sender<Arc<Script>>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) wires: Arc<Wires>,
    pub(crate) tasks: TaskTracker,
    /// Ends everything.
    pub(crate) stop: CancellationToken,
    pub(crate) net: mpsc::Sender<NetOrder>,
    /// The exit code, once it ended.
    pub(crate) exit: watch::Sender<Option<u8>>,
    /// How often each limited fault was used since the script was set.
    pub(crate) used: Mutex<HashMap<FaultKey, u32>>,
    /// Something was brought for a waiting transfer.
    pub(crate) brought: Notify,
    /// Sources that transfers really came from.
    pub(crate) served_by: Mutex<Vec<String>>,
    pub(crate) digests: Mutex<HashMap<(String, u64), Digest>>,
    state: Mutex<State>,
}

/// Which fault of the script.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum FaultKey {
    Call(CallName),
    Worker(WorkerId, usize),
}

/// What changes.
pub(crate) struct State {
    pub(crate) launch_id: LaunchId,
    pub(crate) launched: Instant,
    pub(crate) rev: u64,
    /// Ends the tasks of this launch.
    pub(crate) epoch: CancellationToken,
    pub(crate) draining: bool,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) keys: HashMap<String, WorkerId>,
    pub(crate) store: BTreeMap<Resolved, Stored>,
    /// What names stand for because somebody said so.
    pub(crate) names: HashMap<ModelRef, Resolved>,
    pub(crate) downloads: BTreeMap<DownloadId, DownloadRecord>,
    /// Files that transfers wait for somebody to bring, with what was brought so far.
    pub(crate) incoming: HashMap<Digest, Vec<u8>>,
    pub(crate) grants: HashMap<Digest, Token>,
    pub(crate) log: VecDeque<String>,
    pub(crate) events: broadcast::Sender<WatchEvent>,
    next_id: u64,
}

/// A model in the store.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) model: ModelScript,
    pub(crate) record: StoredModel,
    /// Its bytes are wrong and nobody noticed.
    pub(crate) corrupt: bool,
}

impl State {
    pub(crate) fn new(launch_id: LaunchId, backlog: usize, stop: &CancellationToken) -> Self {
        Self {
            launch_id,
            launched: Instant::now(),
            rev: 0,
            epoch: stop.child_token(),
            draining: false,
            workers: BTreeMap::new(),
            keys: HashMap::new(),
            store: BTreeMap::new(),
            names: HashMap::new(),
            downloads: BTreeMap::new(),
            incoming: HashMap::new(),
            grants: HashMap::new(),
            log: VecDeque::new(),
            events: broadcast::channel(backlog.max(1)).0,
            next_id: 1,
        }
    }

    /// A number for a new worker or download, never used before in this launch.
    pub(crate) fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(crate) fn next_rev(&mut self) -> u64 {
        self.rev += 1;
        self.rev
    }

    fn tell(&self, event: WatchEvent) {
        // Nobody watches: then nobody needs to know.
        let _ = self.events.send(event);
    }

    /// Reports a worker as it stands now.
    pub(crate) fn report_worker(&mut self, id: &WorkerId) {
        let rev = self.next_rev();
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.dirty = false;
        worker.record.rev = rev;
        let record = worker.record.clone();
        self.tell(WatchEvent::Worker(Box::new(record)));
        let mut ended: Vec<_> = self.workers.iter().filter(|(_, w)| w.record.state.is_over()).collect();
        if ended.len() > ENDED_MAX {
            ended.sort_by_key(|(_, w)| w.record.rev);
            let oldest = ended[0].0.clone();
            self.workers.remove(&oldest);
        }
    }

    /// Changes a transfer and reports it.
    pub(crate) fn report_download(&mut self, mut record: DownloadRecord) {
        record.rev = self.next_rev();
        self.downloads.insert(record.download_id.clone(), record.clone());
        self.tell(WatchEvent::Download(Box::new(record)));
    }

    /// Reports that a model came or went.
    pub(crate) fn report_model(&mut self, model: StoredModel, removed: bool) {
        let rev = self.next_rev();
        self.tell(WatchEvent::Model(ModelChange { launch_id: self.launch_id.clone(), rev, removed, model }));
    }

    pub(crate) fn say(&mut self, line: String) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }
}

impl Core {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn script(&self) -> Arc<Script> {
        Arc::clone(&self.script.borrow())
    }

    /// Puts the script's models into the store and reports free memory; called at the start of each launch.
    pub(crate) fn fill_store(&self) {
        let script = self.script();
        for model in script.models.known.iter().filter(|m| m.stored) {
            let record = self.stored_record(model);
            let stored = Stored { model: model.clone(), record: record.clone(), corrupt: false };
            self.state().store.entry(record.resolved.clone()).or_insert(stored);
        }
    }

    /// Sets the script; faults count from here on.
    pub(crate) fn set_script(&self, script: Script) {
        let old = self.script();
        lock(&self.used).clear();
        self.script.send_replace(Arc::new(script));
        self.wires.wake_all();
        let script = self.script();
        for model in script.models.known.iter().filter(|m| m.stored && !old.models.known.contains(m)) {
            let record = self.stored_record(model);
            let stored = Stored { model: model.clone(), record: record.clone(), corrupt: false };
            let mut state = self.state();
            if state.store.insert(record.resolved.clone(), stored).is_none() {
                state.report_model(record, false);
            }
        }
        if script.machine != old.machine {
            self.report_devices();
        }
    }

    /// Whether a fault that is limited to `times` may happen once more.
    pub(crate) fn may_use(&self, key: FaultKey, times: Option<u32>) -> bool {
        let Some(times) = times else { return true };
        let mut used = lock(&self.used);
        let used = used.entry(key).or_default();
        *used += 1;
        *used <= times
    }

    /// Reports free memory and disk.
    pub(crate) fn report_devices(&self) {
        let now = self.machine();
        let mut state = self.state();
        let rev = state.next_rev();
        let change = DeviceChange {
            launch_id: state.launch_id.clone(),
            rev,
            devices: now.devices,
            ram_free: now.ram_free,
            disk_free: now.disk_free,
        };
        state.tell(WatchEvent::Device(change));
    }

    /// Starts a task of the current launch.
    pub(crate) fn in_launch(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let epoch = self.state().epoch.clone();
        self.tasks.spawn(async move {
            epoch.run_until_cancelled(task).await;
        });
    }

    /// Ends the launch and begins another one, as a hive does that was started again at the same port.
    pub(crate) fn relaunch(&self, launch_id: LaunchId, keep_workers: bool) {
        {
            let mut state = self.state();
            let stored = std::mem::take(&mut state.store);
            let workers = std::mem::take(&mut state.workers);
            state.epoch.cancel();
            let backlog = self.script.borrow().watch.backlog;
            *state = State::new(launch_id.clone(), backlog, &self.stop);
            state.store = stored;
            if keep_workers {
                // Ids stay with the adopted processes, so new ones must not meet them.
                state.next_id = 1000;
                state.workers = workers;
                state.rev = state.workers.len() as u64;
                for (worker, rev) in state.workers.values_mut().zip(1..) {
                    worker.record.launch_id = launch_id.clone();
                    worker.record.rev = rev;
                }
            } else {
                workers.values().for_each(|w| w.die(crate::script::Cut::Rst));
            }
            state.say(format!("launch {launch_id} begins"));
        }
        self.wires.cut_all(crate::script::Cut::Rst);
    }
}

/// Everything that a new core is made of.
pub(crate) struct Parts {
    pub(crate) hive_id: HiveId,
    pub(crate) launch_id: LaunchId,
    pub(crate) token: Token,
    pub(crate) identity: Option<Identity>,
    pub(crate) host: Hostname,
    pub(crate) port: u16,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) script: Script,
    pub(crate) net: mpsc::Sender<NetOrder>,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { hive_id, launch_id, token, identity, host, port, data_dir, script, net } = parts;
        let stop = CancellationToken::new();
        let state = State::new(launch_id, script.watch.backlog, &stop);
        let script = watch::Sender::new(Arc::new(script));
        Arc::new(Self {
            hive_id,
            token,
            identity,
            host,
            port,
            data_dir,
            exit: watch::Sender::new(None),
            wires: Arc::new(Wires::new(script.subscribe())),
            script,
            journal: Arc::new(Journal::new()),
            tasks: TaskTracker::new(),
            stop,
            net,
            used: Mutex::default(),
            brought: Notify::new(),
            served_by: Mutex::default(),
            digests: Mutex::default(),
            state: Mutex::new(state),
        })
    }
}

/// An error of the contract.
pub(crate) fn refused(code: hive_api::ErrorCode, message: impl Into<String>) -> ErrorDetail {
    ErrorDetail::new(code, message)
}

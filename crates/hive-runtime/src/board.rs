//! Everything that a hive reports, in one place: each change has a number, and every watcher sees every change.
//!
//! ```text
//!   workers, store, probe ──change──▶ Board (one lock: rev += 1, record, send) ──▶ watcher, watcher, …
//! ```
//! A watcher gets its snapshot and its place in the queue under the same lock as the changes, so nothing falls between
//! the two. It is a bounded queue; whoever lets it fill up is cut and has to begin again with a snapshot.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet::{
    Capabilities, Device, DownloadId, DownloadRecord, HiveId, LaunchId, Resolved, StoredModel, WorkerId,
    WorkerRecord, WorkerState,
};
use futures_util::{StreamExt, stream};
use hive_api::{Beat, DeviceChange, ModelChange, Snapshot, WatchEvent, server::Watch};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

/// How many events a watcher may be behind.
const BEHIND_MAX: usize = 1000;

/// How often a watcher hears something.
const BEAT: Duration = Duration::from_secs(1);

/// How many workers and downloads that are over stay listed.
const OVER_KEPT: usize = 100;

/// A change that the order of states forbids.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("worker {worker} cannot go from {} to {}", from.name().as_str(), to.name().as_str())]
pub(crate) struct IllegalTransition {
    worker: WorkerId,
    from: WorkerState,
    to: WorkerState,
}

/// Free memory and disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) devices: Vec<Device>,
    pub(crate) ram: u64,
    pub(crate) disk: u64,
}

#[derive(Debug)]
pub(crate) struct Board {
    hive_id: HiveId,
    launch_id: LaunchId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rev: u64,
    capabilities: Capabilities,
    workers: BTreeMap<WorkerId, WorkerRecord>,
    models: BTreeMap<Resolved, StoredModel>,
    downloads: BTreeMap<DownloadId, DownloadRecord>,
    /// Ids of what is over, oldest first.
    over: Vec<WorkerId>,
    downloads_over: Vec<DownloadId>,
    watchers: Vec<mpsc::Sender<WatchEvent>>,
    closed: bool,
}

impl State {
    fn publish(&mut self, event: &WatchEvent) {
        self.watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
    }

    fn next_rev(&mut self) -> u64 {
        self.rev += 1;
        self.rev
    }

    fn put_worker(&mut self, mut record: WorkerRecord) -> WorkerRecord {
        record.rev = self.next_rev();
        if record.state.is_over() {
            self.over.push(record.worker_id.clone());
            if self.over.len() > OVER_KEPT {
                let oldest = self.over.remove(0);
                self.workers.remove(&oldest);
            }
        }
        self.workers.insert(record.worker_id.clone(), record.clone());
        self.publish(&WatchEvent::Worker(Box::new(record.clone())));
        record
    }
}

impl Board {
    pub(crate) fn new(
        hive_id: HiveId,
        launch_id: LaunchId,
        capabilities: Capabilities,
        models: Vec<StoredModel>,
    ) -> Self {
        let state = State {
            rev: 1,
            capabilities,
            workers: BTreeMap::new(),
            models: models.into_iter().map(|model| (model.resolved.clone(), model)).collect(),
            downloads: BTreeMap::new(),
            over: Vec::new(),
            downloads_over: Vec::new(),
            watchers: Vec::new(),
            closed: false,
        };
        Self { hive_id, launch_id, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) const fn launch_id(&self) -> &LaunchId {
        &self.launch_id
    }

    pub(crate) fn rev(&self) -> u64 {
        self.state().rev
    }

    pub(crate) fn capabilities(&self) -> (u64, Capabilities) {
        let state = self.state();
        (state.rev, state.capabilities.clone())
    }

    pub(crate) fn workers(&self) -> (u64, Vec<WorkerRecord>) {
        let state = self.state();
        (state.rev, state.workers.values().cloned().collect())
    }

    pub(crate) fn worker(&self, id: &WorkerId) -> Option<WorkerRecord> {
        self.state().workers.get(id).cloned()
    }

    pub(crate) fn models(&self) -> (u64, Vec<StoredModel>) {
        let state = self.state();
        (state.rev, state.models.values().cloned().collect())
    }

    pub(crate) fn download(&self, id: &DownloadId) -> Option<DownloadRecord> {
        self.state().downloads.get(id).cloned()
    }

    /// A worker that was not there before.
    pub(crate) fn add_worker(&self, mut record: WorkerRecord) -> WorkerRecord {
        let mut state = self.state();
        record.digest = state.models.get(&record.resolved).and_then(|model| model.digest).or(record.digest);
        state.put_worker(record)
    }

    /// Moves a worker to another state, with what else changes at that moment.
    pub(crate) fn move_worker(
        &self,
        id: &WorkerId,
        next: WorkerState,
        change: impl FnOnce(&mut WorkerRecord),
    ) -> Result<Option<WorkerRecord>, IllegalTransition> {
        let mut state = self.state();
        let Some(mut record) = state.workers.get(id).cloned() else { return Ok(None) };
        if !record.state.may_become(&next) {
            return Err(IllegalTransition { worker: id.clone(), from: record.state, to: next });
        }
        record.state = next;
        change(&mut record);
        Ok(Some(state.put_worker(record)))
    }

    /// Changes a worker's figures; says nothing if they stay as they are.
    pub(crate) fn update_worker(&self, id: &WorkerId, change: impl FnOnce(&mut WorkerRecord)) {
        let mut state = self.state();
        let Some(old) = state.workers.get(id) else { return };
        if old.state.is_over() {
            return;
        }
        let mut record = old.clone();
        change(&mut record);
        if record != *old {
            state.put_worker(record);
        }
    }

    pub(crate) fn put_model(&self, model: StoredModel) {
        let mut state = self.state();
        if state.models.get(&model.resolved) == Some(&model) {
            return;
        }
        state.models.insert(model.resolved.clone(), model.clone());
        // A worker may be faster than the digest of its file.
        let nameless = |worker: &&WorkerRecord| {
            worker.resolved == model.resolved && worker.digest != model.digest && !worker.state.is_over()
        };
        let workers: Vec<WorkerRecord> = state.workers.values().filter(nameless).cloned().collect();
        for worker in workers {
            state.put_worker(WorkerRecord { digest: model.digest, ..worker });
        }
        self.publish_model(&mut state, model, false);
    }

    pub(crate) fn remove_model(&self, model: StoredModel) {
        let mut state = self.state();
        if state.models.remove(&model.resolved).is_some() {
            self.publish_model(&mut state, model, true);
        }
    }

    fn publish_model(&self, state: &mut State, model: StoredModel, removed: bool) {
        let rev = state.next_rev();
        let launch_id = self.launch_id.clone();
        state.publish(&WatchEvent::Model(ModelChange { launch_id, rev, removed, model }));
    }

    pub(crate) fn put_download(&self, mut record: DownloadRecord) {
        let mut state = self.state();
        record.rev = state.next_rev();
        if record.state.is_final() {
            state.downloads_over.push(record.download_id.clone());
            if state.downloads_over.len() > OVER_KEPT {
                let oldest = state.downloads_over.remove(0);
                state.downloads.remove(&oldest);
            }
        }
        state.downloads.insert(record.download_id.clone(), record.clone());
        state.publish(&WatchEvent::Download(Box::new(record)));
    }

    /// What is free now; says nothing if nothing changed.
    pub(crate) fn put_free(&self, free: Free) {
        let mut state = self.state();
        let known = &mut state.capabilities;
        let same =
            known.devices == free.devices && known.ram_free == free.ram && known.disk_free == free.disk;
        if same {
            return;
        }
        known.devices.clone_from(&free.devices);
        (known.ram_free, known.disk_free) = (free.ram, free.disk);
        let rev = state.next_rev();
        let launch_id = self.launch_id.clone();
        let Free { devices, ram, disk } = free;
        state.publish(&WatchEvent::Device(DeviceChange {
            launch_id,
            rev,
            devices,
            ram_free: ram,
            disk_free: disk,
        }));
    }

    /// Ends all watches, after what they have not read yet.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.watchers.clear();
    }

    /// A snapshot, every change after it, and a beat each second. `held` lives as long as the watch does.
    pub(crate) fn watch<H: Send + 'static>(self: &Arc<Self>, held: H) -> Watch {
        let (sender, changes) = mpsc::channel(BEHIND_MAX);
        let snapshot = {
            let mut state = self.state();
            if !state.closed {
                state.watchers.push(sender);
            }
            Snapshot {
                hive_id: self.hive_id.clone(),
                launch_id: self.launch_id.clone(),
                rev: state.rev,
                capabilities: state.capabilities.clone(),
                workers: state.workers.values().cloned().collect(),
                models: state.models.values().cloned().collect(),
                downloads: state.downloads.values().filter(|d| !d.state.is_final()).cloned().collect(),
            }
        };
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watcher =
            Watcher { launch_id: self.launch_id.clone(), rev: snapshot.rev, changes, beat, _held: held };
        let first = stream::iter([WatchEvent::Snapshot(Box::new(snapshot))]);
        first.chain(stream::unfold(watcher, Watcher::next)).boxed()
    }
}

struct Watcher<H> {
    launch_id: LaunchId,
    /// Of the last event that this watcher was given: a beat must not run ahead of what is still queued.
    rev: u64,
    changes: mpsc::Receiver<WatchEvent>,
    beat: Interval,
    _held: H,
}

impl<H> Watcher<H> {
    async fn next(mut self) -> Option<(WatchEvent, Self)> {
        let event = tokio::select! {
            biased;
            change = self.changes.recv() => change?,
            _ = self.beat.tick() => {
                WatchEvent::Beat(Beat { launch_id: self.launch_id.clone(), rev: self.rev })
            }
        };
        self.rev = event.rev();
        Some((event, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Arc<Board> {
        let capabilities = Capabilities {
            devices: vec![],
            ram_total: 0,
            ram_free: 0,
            disk_free: 0,
            store_id: "s".parse().unwrap(),
            engines: vec![],
            notices: vec![],
        };
        Arc::new(Board::new("box".parse().unwrap(), "l-1".parse().unwrap(), capabilities, vec![]))
    }

    fn model(number: u64) -> StoredModel {
        StoredModel {
            resolved: format!("file:/m/{number}.gguf").parse().unwrap(),
            digest: None,
            bytes: number,
            files: vec![],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_change_is_one_revision_and_a_beat_repeats_the_last() {
        let board = board();
        board.put_model(model(1));
        let mut watch = board.watch(());
        let snapshot = watch.next().await.unwrap();
        assert_eq!((snapshot.name(), snapshot.rev()), ("snapshot", 2));
        for number in 2..10 {
            board.put_model(model(number));
            board.put_model(model(number));
        }
        for rev in 3..11 {
            assert_eq!(watch.next().await.unwrap().rev(), rev);
        }
        let beat = watch.next().await.unwrap();
        assert_eq!((beat.name(), beat.rev()), ("beat", 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_never_runs_ahead_of_queued_changes() {
        let board = board();
        let mut watch = board.watch(());
        watch.next().await.unwrap();
        tokio::time::advance(BEAT * 3).await;
        board.put_model(model(1));
        board.put_model(model(2));
        let mut last = 1;
        for _ in 0..3 {
            let event = watch.next().await.unwrap();
            assert!(event.rev() <= last + 1, "{} jumped from {last} to {}", event.name(), event.rev());
            last = event.rev();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_is_too_far_behind_is_cut_and_no_other() {
        let board = board();
        let mut slow = board.watch(());
        let mut quick = board.watch(());
        quick.next().await.unwrap();
        for number in 0..=1000 {
            board.put_model(model(number));
            assert_eq!(quick.next().await.unwrap().name(), "model");
        }
        assert_eq!(slow.next().await.unwrap().name(), "snapshot");
        let mut seen = 0;
        while slow.next().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, BEHIND_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_every_watch() {
        let board = board();
        let mut watch = board.watch(());
        board.close();
        assert_eq!(watch.next().await.unwrap().name(), "snapshot");
        assert!(watch.next().await.is_none());
        assert_eq!(board.watch(()).count().await, 1);
    }
}

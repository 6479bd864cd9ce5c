//! The current view, its one writer per hive, and the change feed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use fleet::{
    Capabilities, Device, DownloadRecord, HiveEndpoint, HiveId, HivePhase, LaunchId, StoredModel, WorkerId,
    WorkerRecord,
};
use tokio::sync::{Notify, futures::Notified, watch};
use tokio_util::sync::CancellationToken;

use crate::{FleetView, HiveView, WorkerView, lease::Load};

/// What a hive reports, in the words of its watch stream.
#[derive(Debug, Clone)]
pub enum Report {
    /// Everything; replaces what was known.
    Snapshot {
        /// The machine.
        capabilities: Box<Capabilities>,
        /// All workers.
        workers: Vec<WorkerRecord>,
        /// All complete models.
        models: Vec<StoredModel>,
        /// All transfers.
        downloads: Vec<DownloadRecord>,
    },
    /// A worker is new or changed.
    Worker(Box<WorkerRecord>),
    /// A model came.
    Model(StoredModel),
    /// A model left.
    ModelRemoved(StoredModel),
    /// A transfer is new or changed.
    Download(Box<DownloadRecord>),
    /// Free memory or disk changed.
    Devices {
        /// All devices.
        devices: Vec<Device>,
        /// Free main memory, in bytes.
        ram_free: u64,
        /// Free disk, in bytes.
        disk_free: u64,
    },
    /// Nothing changed.
    Beat,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is in the view.
    Yes,
    /// It was not newer than what is known, and changed nothing.
    Stale,
    /// Something before it was missed: only a snapshot can follow.
    Gap,
    /// It is of a launch that the hive is not in, or names another launch inside.
    Foreign,
}

/// The workers and hives that the queen knows.
#[derive(Debug)]
pub struct WorkerRegistry {
    view: ArcSwap<FleetView>,
    writing: Mutex<()>,
    changes: watch::Sender<u64>,
    released: Arc<Notify>,
}

impl Default for WorkerRegistry {
    fn default() -> Self {
        Self {
            view: ArcSwap::default(),
            writing: Mutex::new(()),
            changes: watch::Sender::new(0),
            released: Arc::default(),
        }
    }
}

impl WorkerRegistry {
    /// The fleet as it stands. Never waits.
    #[must_use]
    pub fn view(&self) -> Arc<FleetView> {
        self.view.load_full()
    }

    /// Wakes whenever the view was replaced. Subscribe before looking, so that no change is missed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Ends when a slot becomes free. Ask before looking, so that none is missed.
    pub fn released(&self) -> Notified<'_> {
        self.released.notified()
    }

    /// The writer of one hive, which from now on is in the view.
    #[must_use]
    pub fn writer(self: &Arc<Self>, id: HiveId) -> HiveWriter {
        let writer = HiveWriter { registry: Arc::clone(self), id };
        writer.update(|_| ());
        writer
    }

    /// What is known of a hive that has not reported yet: what an earlier queen saw of its machine, and whether demand starts
    /// and stops it.
    pub fn introduce(&self, id: &HiveId, capabilities: Option<Capabilities>, on_demand: bool) {
        self.write(|view| {
            let hive = view.hives.entry(id.clone()).or_insert_with(|| Arc::new(HiveView::new(id.clone())));
            let hive = Arc::make_mut(hive);
            hive.on_demand = on_demand;
            if hive.capabilities.is_none() {
                hive.capabilities = capabilities;
            }
        });
    }

    /// Whether demand starts and stops a hive, from now on.
    pub fn on_demand(&self, id: &HiveId, on_demand: bool) {
        self.write(|view| {
            if let Some(hive) = view.hives.get_mut(id) {
                Arc::make_mut(hive).on_demand = on_demand;
            }
        });
    }

    /// Takes a hive out of the view.
    pub fn forget(&self, id: &HiveId) {
        self.write(|view| {
            view.hives.remove(id);
        });
    }

    /// Takes a worker out of the view that its own hive denies to have. The hive's next report of it puts it back.
    pub fn disown(&self, worker: &WorkerView) {
        self.write(|view| {
            let Some(hive) = view.hives.get_mut(&worker.hive_id) else { return };
            let same = hive.workers.get(&worker.record.worker_id).is_some_and(|w| w.record == worker.record);
            if same {
                Arc::make_mut(hive).workers.remove(&worker.record.worker_id);
            }
        });
    }

    fn write<T>(&self, change: impl FnOnce(&mut FleetView) -> T) -> T {
        let guard = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = FleetView::clone(&self.view.load());
        let answer = change(&mut view);
        view.index();
        self.view.store(Arc::new(view));
        drop(guard);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
        answer
    }
}

/// Writes what is known of one hive. There is one of it per hive, held by the task that manages the hive.
#[derive(Debug)]
pub struct HiveWriter {
    registry: Arc<WorkerRegistry>,
    id: HiveId,
}

impl HiveWriter {
    /// The hive.
    #[must_use]
    pub const fn id(&self) -> &HiveId {
        &self.id
    }

    fn update<T>(&self, change: impl FnOnce(&mut HiveView) -> T) -> T {
        self.registry.write(|view| {
            let hive =
                view.hives.entry(self.id.clone()).or_insert_with(|| Arc::new(HiveView::new(self.id.clone())));
            change(Arc::make_mut(hive))
        })
    }

    /// Where the hive stands now. A hive that does not run has no workers and no endpoint.
    pub fn phase(&self, phase: HivePhase, reason: Option<String>) {
        self.update(|hive| {
            hive.phase = phase;
            hive.reason = reason;
            match phase {
                HivePhase::Unreachable | HivePhase::Offline | HivePhase::Error => hive.lost.cancel(),
                HivePhase::Online if hive.lost.is_cancelled() => hive.lost = CancellationToken::new(),
                _ => {}
            }
            if matches!(phase, HivePhase::Offline | HivePhase::Error) {
                hive.endpoint = None;
                hive.rev = None;
                hive.workers.clear();
                hive.downloads.clear();
            }
        });
    }

    /// Where the hive's owner says that it stands.
    pub fn region(&self, region: Option<&str>) {
        self.update(|hive| hive.region = region.map(Into::into));
    }

    /// How long it takes to the hive and back.
    pub fn round_trip(&self, round_trip: Duration) {
        self.update(|hive| hive.round_trip = round_trip);
    }

    /// The hive is in this launch now; whatever was known of another one's workers is void.
    pub fn launched(&self, endpoint: HiveEndpoint) {
        self.update(|hive| {
            if hive.launch_id() != Some(&endpoint.launch_id) {
                hive.rev = None;
                hive.workers.clear();
                hive.downloads.clear();
                hive.lost.cancel();
                hive.lost = CancellationToken::new();
            }
            hive.endpoint = Some(endpoint);
        });
    }

    /// Takes one report of the launch.
    #[must_use]
    pub fn report(&self, launch: &LaunchId, rev: u64, report: Report) -> Applied {
        // Judged before anything is copied: most reports are beats that change nothing.
        let judged =
            self.registry.view().hive(&self.id).map_or(Applied::Foreign, |h| judge(h, launch, rev, &report));
        if judged != Applied::Yes || matches!(report, Report::Beat) {
            return judged;
        }
        self.update(|hive| {
            apply(hive, &self.registry.released, report);
            hive.rev = Some(rev);
        });
        Applied::Yes
    }
}

fn judge(hive: &HiveView, launch: &LaunchId, rev: u64, report: &Report) -> Applied {
    let names_another = |l: &LaunchId| l != launch;
    let foreign = match report {
        Report::Worker(worker) => names_another(&worker.launch_id),
        Report::Download(download) => names_another(&download.launch_id),
        Report::Snapshot { workers, downloads, .. } => {
            workers.iter().any(|w| names_another(&w.launch_id))
                || downloads.iter().any(|d| names_another(&d.launch_id))
        }
        _ => false,
    };
    if foreign || hive.launch_id() != Some(launch) {
        return Applied::Foreign;
    }
    match (report, hive.rev) {
        (Report::Snapshot { .. }, None) => Applied::Yes,
        (_, None) => Applied::Gap,
        // A snapshot of the same revision says the same; one that is older would take back what is known.
        (Report::Snapshot { .. }, Some(known)) if rev >= known => Applied::Yes,
        (Report::Beat, Some(known)) if rev == known => Applied::Yes,
        (Report::Beat, Some(known)) if rev > known => Applied::Gap,
        (_, Some(known)) if rev <= known => Applied::Stale,
        (_, Some(known)) if rev > known + 1 => Applied::Gap,
        _ => Applied::Yes,
    }
}

fn apply(hive: &mut HiveView, released: &Arc<Notify>, report: Report) {
    match report {
        Report::Snapshot { capabilities, workers, models, downloads } => {
            hive.capabilities = Some(*capabilities);
            let known = std::mem::take(&mut hive.workers);
            for record in workers {
                put_worker(&hive.id, &known, &mut hive.workers, released, record);
            }
            hive.models = models.into_iter().map(|m| (m.resolved.clone(), m)).collect();
            hive.downloads = downloads.into_iter().map(|d| (d.download_id.clone(), d)).collect();
        }
        Report::Worker(record) => {
            let known = hive.workers.clone();
            put_worker(&hive.id, &known, &mut hive.workers, released, *record);
        }
        Report::Model(model) => {
            hive.models.insert(model.resolved.clone(), model);
        }
        Report::ModelRemoved(model) => {
            hive.models.remove(&model.resolved);
        }
        Report::Download(download) => {
            if download.state.is_final() {
                hive.downloads.remove(&download.download_id);
            } else {
                hive.downloads.insert(download.download_id.clone(), *download);
            }
        }
        Report::Devices { devices, ram_free, disk_free } => {
            if let Some(capabilities) = &mut hive.capabilities {
                capabilities.devices = devices;
                capabilities.ram_free = ram_free;
                capabilities.disk_free = disk_free;
            }
        }
        Report::Beat => {}
    }
}

fn put_worker(
    hive_id: &HiveId,
    known: &BTreeMap<WorkerId, Arc<WorkerView>>,
    workers: &mut BTreeMap<WorkerId, Arc<WorkerView>>,
    released: &Arc<Notify>,
    record: WorkerRecord,
) {
    let load =
        known.get(&record.worker_id).map_or_else(|| Load::new(Arc::clone(released)), |w| Arc::clone(&w.load));
    let id = record.worker_id.clone();
    workers.insert(id, Arc::new(WorkerView { hive_id: hive_id.clone(), record, load }));
}

#[cfg(test)]
mod tests;

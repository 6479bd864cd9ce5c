//! Watch events to reports, and reports to the journal.

use fleet::{EventKind, HiveId, LaunchId};
use hive_api::WatchEvent;
use registry_ram::{FleetView, Report};

/// The event in the registry's words.
pub(crate) fn report(event: WatchEvent) -> Report {
    match event {
        WatchEvent::Snapshot(s) => Report::Snapshot {
            capabilities: Box::new(s.capabilities),
            workers: s.workers,
            models: s.models,
            downloads: s.downloads,
        },
        WatchEvent::Worker(worker) => Report::Worker(worker),
        WatchEvent::Model(change) if change.removed => Report::ModelRemoved(change.model),
        WatchEvent::Model(change) => Report::Model(change.model),
        WatchEvent::Download(download) => Report::Download(download),
        WatchEvent::Device(d) => {
            Report::Devices { devices: d.devices, ram_free: d.ram_free, disk_free: d.disk_free }
        }
        WatchEvent::Beat(_) => Report::Beat,
    }
}

/// What a hive's workers and transfers did between two views, for the journal.
pub(crate) fn changes(
    hive_id: &HiveId,
    launch: &LaunchId,
    before: &FleetView,
    after: &FleetView,
) -> Vec<EventKind> {
    let Some(now) = after.hive(hive_id) else { return Vec::new() };
    let was = before.hive(hive_id);
    let mut events = Vec::new();
    for worker in now.workers.values() {
        let known = was.and_then(|h| h.workers.get(&worker.record.worker_id));
        let same_state = known.is_some_and(|k| k.record.state.name() == worker.record.state.name());
        if !same_state {
            events.push(EventKind::Worker {
                hive_id: hive_id.clone(),
                launch_id: launch.clone(),
                worker_id: worker.record.worker_id.clone(),
                model_ref: worker.record.model_ref.clone(),
                state: worker.record.state.clone(),
            });
        }
    }
    events
}

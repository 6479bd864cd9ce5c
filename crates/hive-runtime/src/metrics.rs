//! What a hive counts, as Prometheus text (version 0.0.4 of the exposition format).

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use crate::board::Board;

pub(crate) fn text(board: &Board, uptime: Duration) -> String {
    let (rev, workers) = board.workers();
    let (_, models) = board.models();
    let (_, machine) = board.capabilities();
    let mut by_state: BTreeMap<&'static str, u64> = BTreeMap::new();
    for worker in &workers {
        *by_state.entry(worker.state.name().as_str()).or_default() += 1;
    }
    let living = || workers.iter().filter(|worker| !worker.state.is_over());
    let mut page = Page::default();
    page.family("rbee_hive_uptime_seconds", "gauge", "Seconds since this launch began.");
    page.value("rbee_hive_uptime_seconds", "", uptime.as_secs());
    page.family("rbee_hive_changes_total", "counter", "Changes reported on the watch.");
    page.value("rbee_hive_changes_total", "", rev);
    page.family("rbee_hive_workers", "gauge", "Workers by state, recently ended ones too.");
    for (state, count) in by_state {
        page.value("rbee_hive_workers", &format!("state=\"{state}\""), count);
    }
    page.family("rbee_hive_slots", "gauge", "Slots of living workers.");
    page.value("rbee_hive_slots", "", living().map(|worker| u64::from(worker.slots)).sum());
    page.family("rbee_hive_slots_busy", "gauge", "Slots that answer a request.");
    page.value("rbee_hive_slots_busy", "", living().map(|worker| u64::from(worker.slots_busy)).sum());
    page.family("rbee_hive_models", "gauge", "Complete models in the store.");
    page.value("rbee_hive_models", "", models.len() as u64);
    page.family("rbee_hive_memory_free_bytes", "gauge", "Free memory by device.");
    for device in &machine.devices {
        let label = format!("device=\"{}\"", device.selector());
        page.value("rbee_hive_memory_free_bytes", &label, device.memory_free);
    }
    page.family("rbee_hive_disk_free_bytes", "gauge", "Free disk of the model store.");
    page.value("rbee_hive_disk_free_bytes", "", machine.disk_free);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: u64) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

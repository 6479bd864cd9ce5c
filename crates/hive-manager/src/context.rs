//! What every hive's task needs, and how it writes down what it saw.

use std::{sync::Arc, time::SystemTime};

use fleet::{EventKind, HiveLauncher, HiveMode, HivePhase, HiveRegistry, LaunchId, LaunchJournal};
use hive_api::client::Connections;
use journal::Journal;
use registry_ram::{HiveWriter, WorkerRegistry};
use tokio::sync::Semaphore;

use crate::{QueenKey, Settings, doubt::Doubt};

/// Who starts which hives.
pub(crate) struct Launchers {
    pub(crate) local: Arc<dyn HiveLauncher>,
    pub(crate) network: Option<Arc<dyn HiveLauncher>>,
}

impl Launchers {
    pub(crate) fn of(&self, mode: HiveMode) -> Option<Arc<dyn HiveLauncher>> {
        match mode {
            HiveMode::Local => Some(Arc::clone(&self.local)),
            HiveMode::Network => self.network.clone(),
        }
    }
}

/// What every hive's task needs.
pub(crate) struct Context {
    pub(crate) store: Arc<dyn HiveRegistry>,
    pub(crate) launches: Arc<dyn LaunchJournal>,
    pub(crate) launchers: Launchers,
    pub(crate) registry: Arc<WorkerRegistry>,
    pub(crate) journal: Journal,
    pub(crate) connections: Connections,
    pub(crate) key: QueenKey,
    pub(crate) settings: Settings,
    /// Held while row and task are changed together, so that the two never contradict each other.
    pub(crate) changing: Semaphore,
    pub(crate) doubt: Doubt,
}

impl Context {
    pub(crate) fn new_launch_id(&self) -> LaunchId {
        let mut bytes = [0; 10];
        // Without random bytes the launch would not be unguessable, but it must still be unique: the clock makes it so.
        if getrandom::fill(&mut bytes).is_err() {
            let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
            bytes.copy_from_slice(&nanos.to_be_bytes()[6..]);
        }
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        format!("l-{hex}").parse().unwrap_or_else(|_| unreachable!("hexadecimal digits are an id"))
    }

    /// Writes a phase into the view and the journal.
    pub(crate) fn set_phase(&self, writer: &HiveWriter, phase: HivePhase, reason: Option<String>) {
        let view = self.registry.view();
        let known = view.hive(writer.id());
        if known.is_some_and(|h| h.phase == phase && h.reason == reason) {
            return;
        }
        let launch_id = known.and_then(|h| h.launch_id().cloned());
        match (&reason, phase) {
            (Some(reason), HivePhase::Unreachable | HivePhase::Error) if !self.doubt.excuses(writer.id()) => {
                tracing::warn!(hive_id = %writer.id(), phase = phase.as_str(), %reason, "hive changed");
            }
            _ => tracing::info!(hive_id = %writer.id(), phase = phase.as_str(), reason, "hive changed"),
        }
        writer.phase(phase, reason.clone());
        self.journal.record(EventKind::HivePhase { hive_id: writer.id().clone(), launch_id, phase, reason });
    }
}

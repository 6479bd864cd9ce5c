//! What the machine reports: the script's figures less what its workers and models hold.

use fleet::{Capabilities, DeviceKind, StoreId};
use hive_api::CapabilitiesReply;

use crate::state::Core;

impl Core {
    /// The machine as it stands.
    pub(crate) fn machine(&self) -> Capabilities {
        let script = self.script();
        let machine = &script.machine;
        let state = self.state();
        let mut devices = machine.devices.clone();
        let mut ram_free = machine.ram_free;
        for worker in state.workers.values().filter(|w| !w.record.state.is_over()) {
            let held = worker.record.memory_bytes;
            if worker.record.device.kind == DeviceKind::Cpu {
                ram_free = ram_free.saturating_sub(held);
            }
            for device in devices.iter_mut().filter(|d| d.selector() == worker.record.device) {
                device.memory_free = device.memory_free.saturating_sub(held);
            }
        }
        let models: u64 = state.store.values().map(|s| s.record.bytes).sum();
        Capabilities {
            devices,
            ram_total: machine.ram_total,
            ram_free,
            disk_free: machine.disk_free.saturating_sub(models),
            store_id: machine.store_id.clone().unwrap_or_else(|| self.own_store()),
            engines: machine.engines.clone(),
            notices: machine.notices.clone(),
        }
    }

    fn own_store(&self) -> StoreId {
        let name: String = format!("store-{}", self.hive_id).chars().take(64).collect();
        name.parse().unwrap_or_else(|_| unreachable!("the characters of a hive id, behind a letter"))
    }

    pub(crate) fn capabilities_reply(&self) -> CapabilitiesReply {
        let capabilities = self.machine();
        let state = self.state();
        CapabilitiesReply { launch_id: state.launch_id.clone(), rev: state.rev, capabilities }
    }
}

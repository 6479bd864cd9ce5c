//! The machine that a fake hive pretends to manage.

use fleet::{Device, DeviceKind, Engine, Notice, StoreId};
use serde::{Deserialize, Serialize};

const GIB: u64 = 1 << 30;

/// Figures of the machine. Memory of running workers is subtracted from what is given as free here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineScript {
    /// Devices, preferred first.
    pub devices: Vec<Device>,
    /// Main memory, in bytes.
    pub ram_total: u64,
    /// Free main memory without workers, in bytes.
    pub ram_free: u64,
    /// Free disk without the models of the script, in bytes.
    pub disk_free: u64,
    /// The store's identity; one of its own if absent.
    pub store_id: Option<StoreId>,
    /// Engines, preferred first.
    pub engines: Vec<Engine>,
    /// Remarks.
    pub notices: Vec<Notice>,
    /// Slots of a worker whose spawn request names none.
    pub default_slots: u32,
    /// Context of a worker whose spawn request names none, in tokens.
    pub default_context: u32,
}

impl Default for MachineScript {
    fn default() -> Self {
        let device = |kind, name: &str, total| Device {
            kind,
            index: 0,
            name: name.to_owned(),
            memory_total: total,
            memory_free: total,
        };
        Self {
            devices: vec![
                device(DeviceKind::Cuda, "Fake GPU", 24 * GIB),
                device(DeviceKind::Cpu, "Fake CPU", 64 * GIB),
            ],
            ram_total: 64 * GIB,
            ram_free: 64 * GIB,
            disk_free: 512 * GIB,
            store_id: None,
            engines: vec![Engine {
                name: "fake".to_owned(),
                version: Some("1".to_owned()),
                devices: vec![DeviceKind::Cuda, DeviceKind::Cpu],
                running_usage: Some("stream_options.continuous_usage_stats".to_owned()),
                chat_prefill: Some("continue_final_message".to_owned()),
            }],
            notices: Vec::new(),
            default_slots: 2,
            default_context: 8192,
        }
    }
}

//! The machine on the board: its devices and engines at the start, what is free of it from then on.

use std::{path::PathBuf, time::Duration};

use device_probe::{Machine, Memory};
use fleet::{Capabilities, Device, DeviceKind, Notice, StoreId};

use crate::{
    board::{Board, Free},
    engine::EngineSpec,
};

/// How often free memory is looked at where that costs nothing, and where a tool has to be asked.
const QUICK: Duration = Duration::from_secs(1);
const WITH_GPU: Duration = Duration::from_secs(5);

/// Differences below this are no news, in bytes.
const STEP: u64 = 64 * 1024 * 1024;

/// What this machine reports of itself.
pub(crate) fn capabilities(
    machine: Machine,
    engines: &[EngineSpec],
    store_id: StoreId,
    models: &std::path::Path,
) -> Capabilities {
    let mut notices = machine.notices;
    let (engines, missing): (Vec<&EngineSpec>, Vec<&EngineSpec>) =
        engines.iter().partition(|engine| engine.is_installed);
    notices.extend(missing.into_iter().map(|engine| {
        let (name, program) = (&engine.name, engine.program.display());
        let message = format!("engine {name:?} of hive.toml is not used: {program} is not on this machine");
        Notice { code: "engine_missing".to_owned(), message }
    }));
    notices.extend(unused_gpu(&machine.devices, &engines));
    if engines.is_empty() {
        let message = "no inference engine was found: put llama-server into PATH, write an [[engine]] into hive.toml, or \
                       put llm-worker-rbee beside rbee-hive";
        notices.push(Notice { code: "no_engine".to_owned(), message: message.to_owned() });
    }
    for notice in &notices {
        tracing::warn!(code = notice.code, "{}", notice.message);
    }
    Capabilities {
        devices: rounded(machine.devices),
        ram_total: machine.memory.total,
        ram_free: round(machine.memory.free),
        disk_free: round(device_probe::disk_free(models).unwrap_or(0)),
        store_id,
        engines: engines.into_iter().map(EngineSpec::announced).collect(),
        notices,
    }
}

/// A GPU that no engine can drive is the most expensive thing to overlook.
fn unused_gpu(devices: &[Device], engines: &[&EngineSpec]) -> Option<Notice> {
    let gpus = devices.iter().filter(|device| device.kind != DeviceKind::Cpu);
    let unused: Vec<String> = gpus
        .filter(|device| !engines.iter().any(|engine| engine.devices.contains(&device.kind)))
        .map(|device| format!("{} ({})", device.name, device.selector()))
        .collect();
    (!unused.is_empty()).then(|| Notice {
        code: "gpu_unused".to_owned(),
        message: format!(
            "no engine of this machine can use {}; put a llama-server built for it into PATH (llama.cpp's Vulkan build \
             drives NVIDIA and AMD cards), or write an [[engine]] into hive.toml",
            unused.join(", ")
        ),
    })
}

fn round(bytes: u64) -> u64 {
    bytes / STEP * STEP
}

fn rounded(mut devices: Vec<Device>) -> Vec<Device> {
    for device in &mut devices {
        device.memory_free = round(device.memory_free);
    }
    devices
}

/// The known devices with what is free of them now. One that only an engine knows of keeps what was last known.
fn refreshed(mut known: Vec<Device>, now: &[Device]) -> Vec<Device> {
    for device in &mut known {
        if let Some(found) = now.iter().find(|found| found.selector() == device.selector()) {
            device.memory_free = found.memory_free;
        }
    }
    known
}

/// Keeps what is free on the board. Never ends.
pub(crate) async fn keep_free(board: &Board, models: PathBuf) {
    let (_, capabilities) = board.capabilities();
    let has_gpu = capabilities.devices.iter().any(|device| device.kind != DeviceKind::Cpu);
    loop {
        tokio::time::sleep(if has_gpu { WITH_GPU } else { QUICK }).await;
        let (_, known) = board.capabilities();
        let (devices, memory) = if has_gpu {
            let machine = device_probe::probe().await;
            (refreshed(known.devices, &machine.devices), machine.memory)
        } else {
            // Without a GPU no tool has to be run every second.
            let memory = Memory::read().await;
            let cpu = |device| Device { memory_free: memory.free, ..device };
            (known.devices.into_iter().map(cpu).collect(), memory)
        };
        board.put_free(Free {
            devices: rounded(devices),
            ram: round(memory.free),
            disk: round(device_probe::disk_free(&models).unwrap_or(0)),
        });
    }
}

//! What a `llama-server` of this machine can drive: its builds differ, and only it knows.

use std::collections::BTreeMap;

use device_probe::{Answer, ask};
use fleet::{Device, DeviceKind, DeviceSelector};

use super::EngineSpec;

const MIB: u64 = 1024 * 1024;

/// A device as `llama-server --list-devices` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    /// Such as `CUDA0`.
    id: String,
    kind: DeviceKind,
    /// The vendor's name.
    name: String,
    total: u64,
    free: u64,
}

/// Asks the program for its version and devices. Devices that no driver's tool of this machine showed are added to
/// `devices`.
pub(super) async fn complete(engine: &mut EngineSpec, devices: &mut Vec<Device>) {
    if let Answer::Output(text) = ask(&engine.program, &["--version"]).await {
        engine.version =
            text.lines().find_map(|line| line.strip_prefix("version:")).map(|v| v.trim().to_owned());
    }
    // Older builds know nothing of projectors and would not start.
    if let Answer::Output(help) = ask(&engine.program, &["--help"]).await
        && help.contains("--mmproj")
    {
        engine.projector_args = ["--mmproj", "{projector}"].map(str::to_owned).into();
    }
    match ask(&engine.program, &["--list-devices"]).await {
        Answer::Output(text) => take_up(engine, &parse(&text), devices),
        Answer::Missing | Answer::Failed(_) => {
            tracing::warn!(program = %engine.program.display(), "llama-server lists no devices; it will use the CPU");
        }
    }
}

/// Matches what the engine lists with the devices of the machine: by name, several of one name in their order. So a
/// Vulkan build drives the card that NVIDIA's tool calls `cuda:0`.
fn take_up(engine: &mut EngineSpec, listed: &[Listed], devices: &mut Vec<Device>) {
    let mut names: BTreeMap<DeviceSelector, String> = BTreeMap::new();
    for device in listed {
        let known = devices.iter().find(|known| {
            let is_same = known.kind == device.kind || known.name == device.name;
            known.kind != DeviceKind::Cpu && is_same && !names.contains_key(&known.selector())
        });
        let selector = match known {
            Some(known) => known.selector(),
            None => add(device, devices),
        };
        names.insert(selector, device.id.clone());
    }
    for selector in names.keys() {
        if !engine.devices.contains(&selector.kind) {
            // Before the processor, which is last.
            engine.devices.insert(engine.devices.len().saturating_sub(1), selector.kind);
        }
    }
    names.insert(DeviceSelector { kind: DeviceKind::Cpu, index: 0 }, "none".to_owned());
    engine.device_names = names;
    engine.args.extend(["--device".to_owned(), "{device_name}".to_owned()]);
}

fn add(listed: &Listed, devices: &mut Vec<Device>) -> DeviceSelector {
    let count = devices.iter().filter(|device| device.kind == listed.kind).count();
    let device = Device {
        kind: listed.kind,
        index: u32::try_from(count).unwrap_or(u32::MAX),
        name: listed.name.clone(),
        memory_total: listed.total,
        memory_free: listed.free,
    };
    let selector = device.selector();
    let before_cpu =
        devices.iter().position(|device| device.kind == DeviceKind::Cpu).unwrap_or(devices.len());
    devices.insert(before_cpu, device);
    selector
}

/// Lines such as `  Vulkan0: AMD Radeon RX 7900 XTX (24560 MiB, 24000 MiB free)`.
fn parse(text: &str) -> Vec<Listed> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Listed> {
    let (id, rest) = line.trim().split_once(": ")?;
    let kinds = [
        ("CUDA", DeviceKind::Cuda),
        ("ROCm", DeviceKind::Rocm),
        ("HIP", DeviceKind::Rocm),
        ("Vulkan", DeviceKind::Vulkan),
        ("Metal", DeviceKind::Metal),
        ("MTL", DeviceKind::Metal),
    ];
    let (_, kind) = kinds.into_iter().find(|(prefix, _)| {
        id.strip_prefix(prefix).is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
    })?;
    let (name, memory) = rest.rsplit_once(" (")?;
    let (total, free) = memory.strip_suffix(" free)")?.split_once(", ")?;
    let mib = |text: &str| Some(text.strip_suffix(" MiB")?.trim().parse::<u64>().ok()?.saturating_mul(MIB));
    Some(Listed {
        id: id.to_owned(),
        kind,
        name: name.trim().to_owned(),
        total: mib(total)?,
        free: mib(free)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::find::llama_server;

    fn device(selector: &str, name: &str) -> Device {
        let DeviceSelector { kind, index } = selector.parse().unwrap();
        Device { kind, index, name: name.into(), memory_total: 1, memory_free: 1 }
    }

    fn names(engine: &EngineSpec) -> Vec<String> {
        engine.device_names.iter().map(|(selector, name)| format!("{selector}={name}")).collect()
    }

    #[test]
    fn the_list_of_devices_is_read() {
        let text = "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6\n\
                    Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 (24135 MiB, 23886 MiB free)\n  \
                    Vulkan1: AMD Radeon (RADV NAVI31) (100 MiB, 50 MiB free)\n";
        let listed = parse(text);
        assert_eq!(listed.len(), 2);
        assert_eq!((listed[0].id.as_str(), listed[0].free), ("CUDA0", 23886 * MIB));
        assert_eq!(
            (listed[1].kind, listed[1].name.as_str()),
            (DeviceKind::Vulkan, "AMD Radeon (RADV NAVI31)")
        );
        assert_eq!(parse("Available devices:\n"), []);
    }

    #[test]
    fn a_vulkan_build_drives_the_card_that_another_tool_showed() {
        let mut engine = llama_server("llama-server".into());
        let mut devices =
            vec![device("cuda:0", "NVIDIA X"), device("cuda:1", "NVIDIA X"), device("cpu:0", "CPU")];
        let text = "Vulkan0: NVIDIA X (1 MiB, 1 MiB free)\nVulkan1: NVIDIA X (1 MiB, 1 MiB free)\n\
                    Vulkan2: Intel Y (1 MiB, 1 MiB free)";
        take_up(&mut engine, &parse(text), &mut devices);
        assert_eq!(names(&engine), ["cuda:0=Vulkan0", "cuda:1=Vulkan1", "vulkan:0=Vulkan2", "cpu:0=none"]);
        assert_eq!(engine.devices, [DeviceKind::Cuda, DeviceKind::Vulkan, DeviceKind::Cpu]);
        assert_eq!(
            devices.iter().map(|d| d.selector().to_string()).collect::<Vec<_>>(),
            ["cuda:0", "cuda:1", "vulkan:0", "cpu:0"]
        );
    }
}

//! Which engine and device a worker gets.

use fleet::{Device, DeviceKind, DeviceSelector};

use super::EngineSpec;

/// Why no engine serves a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoEngine {
    #[error(
        "this machine has no inference engine: put llama-server into PATH, write an [[engine]] into hive.toml, or put \
         llm-worker-rbee beside rbee-hive"
    )]
    None,
    #[error("this machine has no engine {wanted:?}; it has {}", .have.join(", "))]
    Unknown { wanted: String, have: Vec<String> },
    #[error(
        "engine {engine:?} is configured to run {}, which is not on this machine; install it, or correct the command in \
         hive.toml",
        program.display()
    )]
    NotInstalled { engine: String, program: std::path::PathBuf },
    #[error("this machine has no device {wanted}; it has {}", .have.join(", "))]
    NoDevice { wanted: DeviceSelector, have: Vec<String> },
    #[error("no engine of this machine can use {device}; there is {}", .have.join(", "))]
    CannotUse { device: DeviceSelector, have: Vec<String> },
}

/// Takes the first engine that fits: the one named, else by preference. Without a device named, its preferred kind, and
/// among several of that kind the one with most free memory.
pub(crate) fn choose<'a>(
    engines: &'a [EngineSpec],
    devices: &[Device],
    engine: Option<&str>,
    device: Option<DeviceSelector>,
) -> Result<(&'a EngineSpec, DeviceSelector), NoEngine> {
    let names = || engines.iter().map(|engine| engine.name.clone()).collect::<Vec<_>>();
    if engine.is_none() && !engines.iter().any(|engine| engine.is_installed) {
        return Err(NoEngine::None);
    }
    if let Some(wanted) = device
        && !devices.iter().any(|device| device.selector() == wanted)
    {
        let have = devices.iter().map(|device| device.selector().to_string()).collect();
        return Err(NoEngine::NoDevice { wanted, have });
    }
    let candidates: Vec<&EngineSpec> = match engine {
        Some(wanted) => {
            let found = engines.iter().find(|engine| engine.name == wanted);
            let found =
                found.ok_or_else(|| NoEngine::Unknown { wanted: wanted.to_owned(), have: names() })?;
            if !found.is_installed {
                let (engine, program) = (found.name.clone(), found.program.clone());
                return Err(NoEngine::NotInstalled { engine, program });
            }
            vec![found]
        }
        None => engines.iter().filter(|engine| engine.is_installed).collect(),
    };
    let fitting = candidates.into_iter().find_map(|engine| Some((engine, fit(engine, devices, device)?)));
    let cpu = DeviceSelector { kind: DeviceKind::Cpu, index: 0 };
    fitting.ok_or_else(|| NoEngine::CannotUse { device: device.unwrap_or(cpu), have: names() })
}

fn fit(engine: &EngineSpec, devices: &[Device], wanted: Option<DeviceSelector>) -> Option<DeviceSelector> {
    if let Some(wanted) = wanted {
        return engine.devices.contains(&wanted.kind).then_some(wanted);
    }
    engine.devices.iter().find_map(|&kind| {
        let of_kind = devices.iter().filter(|device| device.kind == kind);
        of_kind.max_by_key(|device| device.memory_free).map(Device::selector)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::Dialect;

    fn engine(name: &str, devices: &[DeviceKind]) -> EngineSpec {
        EngineSpec {
            name: name.into(),
            version: None,
            program: name.into(),
            is_installed: true,
            args: vec![],
            health: "/health".into(),
            devices: devices.to_vec(),
            running_usage: None,
            chat_prefill: None,
            env: BTreeMap::new(),
            device_names: BTreeMap::new(),
            dialect: Dialect::Plain,
            projector_args: Vec::new(),
        }
    }

    fn device(text: &str, memory_free: u64) -> Device {
        let DeviceSelector { kind, index } = text.parse().unwrap();
        Device { kind, index, name: text.into(), memory_total: 100, memory_free }
    }

    #[test]
    fn the_first_engine_that_can_use_a_device_of_the_machine_is_taken() {
        let engines = [
            engine("vllm", &[DeviceKind::Cuda]),
            engine("llama-server", &[DeviceKind::Vulkan, DeviceKind::Cpu]),
            engine("llm-worker-rbee", &[DeviceKind::Cpu]),
        ];
        let gpus = [device("cuda:0", 10), device("cuda:1", 20), device("cpu:0", 1)];
        let no_gpu = [device("cpu:0", 1)];
        let chosen = |devices: &[Device], engine, wanted: Option<&str>| {
            choose(&engines, devices, engine, wanted.map(|w| w.parse().unwrap()))
                .map(|(engine, device)| format!("{} {device}", engine.name))
        };
        assert_eq!(chosen(&gpus, None, None).unwrap(), "vllm cuda:1");
        assert_eq!(chosen(&gpus, None, Some("cuda:0")).unwrap(), "vllm cuda:0");
        assert_eq!(chosen(&gpus, None, Some("cpu")).unwrap(), "llama-server cpu:0");
        assert_eq!(chosen(&no_gpu, None, None).unwrap(), "llama-server cpu:0");
        assert_eq!(chosen(&no_gpu, Some("llm-worker-rbee"), None).unwrap(), "llm-worker-rbee cpu:0");
        assert!(matches!(chosen(&no_gpu, Some("vllm"), None), Err(NoEngine::CannotUse { .. })));
        assert!(matches!(chosen(&no_gpu, Some("ollama"), None), Err(NoEngine::Unknown { .. })));
        assert!(matches!(chosen(&no_gpu, None, Some("cuda:0")), Err(NoEngine::NoDevice { .. })));
        assert_eq!(choose(&[], &no_gpu, None, None), Err(NoEngine::None));
    }

    #[test]
    fn an_engine_that_is_not_installed_is_passed_over_unless_it_is_asked_for() {
        let missing = EngineSpec { is_installed: false, ..engine("vllm", &[DeviceKind::Cpu]) };
        let engines = [missing, engine("llama-server", &[DeviceKind::Cpu])];
        let devices = [device("cpu:0", 1)];
        assert_eq!(choose(&engines, &devices, None, None).unwrap().0.name, "llama-server");
        let asked = choose(&engines, &devices, Some("vllm"), None);
        assert!(matches!(asked, Err(NoEngine::NotInstalled { .. })));
        assert_eq!(choose(&engines[..1], &devices, None, None), Err(NoEngine::None));
    }
}

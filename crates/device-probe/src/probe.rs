//! Everything at once.

use std::path::Path;

use fleet::{Device, DeviceKind, Notice};

use crate::{Memory, amd, nvidia};

/// A machine as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its devices, the processor last.
    pub devices: Vec<Device>,
    /// Its main memory.
    pub memory: Memory,
    /// What its owner should know.
    pub notices: Vec<Notice>,
}

/// Looks at this machine. Takes at most about 5 s, and a few milliseconds where there is no GPU.
pub async fn probe() -> Machine {
    let memory = Memory::read().await;
    let (mut devices, notice) = nvidia::devices("nvidia-smi".as_ref(), memory).await;
    devices.extend(amd::devices(Path::new("/sys/class/drm")));
    let processor = processor().await;
    devices.extend(metal(&processor, memory));
    devices.push(Device {
        kind: DeviceKind::Cpu,
        index: 0,
        name: processor,
        memory_total: memory.total,
        memory_free: memory.free,
    });
    Machine { devices, memory, notices: notice.into_iter().collect() }
}

#[cfg(target_os = "linux")]
#[expect(clippy::unused_async, reason = "other systems have to ask a program")]
async fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    // ARM boards name no model.
    let name =
        field("model name").or_else(|| field("Model")).unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    with_cores(&name)
}

#[cfg(target_os = "macos")]
async fn processor() -> String {
    use crate::tool::{Answer, ask};
    match ask("/usr/sbin/sysctl".as_ref(), &["-n", "machdep.cpu.brand_string"]).await {
        Answer::Output(text) => with_cores(text.trim()),
        _ => with_cores(std::env::consts::ARCH),
    }
}

fn with_cores(name: &str) -> String {
    std::thread::available_parallelism()
        .map_or_else(|_| name.to_owned(), |cores| format!("{name} ({cores} threads)"))
}

/// Apple's own processors carry a GPU that shares main memory; the system lets it use three quarters of it.
fn metal(processor: &str, memory: Memory) -> Option<Device> {
    let is_apple = cfg!(target_os = "macos") && processor.starts_with("Apple");
    let limit = memory.total / 4 * 3;
    is_apple.then(|| Device {
        kind: DeviceKind::Metal,
        index: 0,
        name: processor.to_owned(),
        memory_total: limit,
        memory_free: memory.free.min(limit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_processor_is_always_there_and_last() {
        let machine = probe().await;
        let last = machine.devices.last().expect("a device");
        assert_eq!((last.kind, last.index), (DeviceKind::Cpu, 0));
        assert!(last.memory_total > 0 && last.memory_free <= last.memory_total, "{last:?}");
        assert!(!last.name.is_empty());
    }
}

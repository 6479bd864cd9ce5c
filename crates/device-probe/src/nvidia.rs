//! NVIDIA cards, through the `nvidia-smi` that their driver brings.

use std::path::Path;

use fleet::{Device, DeviceKind, Notice};

use crate::{
    Memory,
    tool::{Answer, ask},
};

const MIB: u64 = 1024 * 1024;

pub(crate) async fn devices(program: &Path, memory: Memory) -> (Vec<Device>, Option<Notice>) {
    let query = ["--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits"];
    match ask(program, &query).await {
        Answer::Missing => (Vec::new(), None),
        Answer::Output(text) => (parse(&text, memory), None),
        Answer::Failed(text) if text.contains("No devices were found") => (Vec::new(), None),
        Answer::Failed(text) => {
            let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            let message = format!(
                "nvidia-smi is installed and failed, so no NVIDIA card is used: {}",
                first.chars().take(300).collect::<String>()
            );
            (Vec::new(), Some(Notice { code: "nvidia_driver".into(), message }))
        }
    }
}

/// One line per card: `index, name, total MiB, free MiB`. A card that shares main memory with the processor (Grace, Orin)
/// reports its own as `[N/A]`.
fn parse(text: &str, memory: Memory) -> Vec<Device> {
    text.lines().filter_map(|line| parse_line(line, memory)).collect()
}

fn parse_line(line: &str, memory: Memory) -> Option<Device> {
    let (index, rest) = line.split_once(',')?;
    // The name is the only field that could hold a comma.
    let mut from_end = rest.rsplitn(3, ',');
    let free = from_end.next()?.trim();
    let total = from_end.next()?.trim();
    let name = from_end.next()?.trim();
    let bytes = |text: &str, shared: u64| match text.parse::<u64>() {
        Ok(mib) => Some(mib.saturating_mul(MIB)),
        Err(_) if text.starts_with('[') => Some(shared),
        Err(_) => None,
    };
    Some(Device {
        kind: DeviceKind::Cuda,
        index: index.trim().parse().ok()?,
        name: name.to_owned(),
        memory_total: bytes(total, memory.total)?,
        memory_free: bytes(free, memory.free)?,
    })
}

/// Device memory that one process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemoryOfProcess {
    /// The process.
    pub pid: u32,
    /// What it holds on all cards together, in bytes.
    pub bytes: u64,
}

/// Device memory by process, as far as the driver tells; nothing where there is no driver.
pub async fn gpu_memory_of_processes() -> Vec<GpuMemoryOfProcess> {
    let query = ["--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"];
    match ask("nvidia-smi".as_ref(), &query).await {
        Answer::Output(text) => parse_processes(&text),
        Answer::Missing | Answer::Failed(_) => Vec::new(),
    }
}

fn parse_processes(text: &str) -> Vec<GpuMemoryOfProcess> {
    let mut found: Vec<GpuMemoryOfProcess> = Vec::new();
    for line in text.lines() {
        let Some((pid, mib)) = line.split_once(',') else { continue };
        let (Ok(pid), Ok(mib)) = (pid.trim().parse(), mib.trim().parse::<u64>()) else { continue };
        let bytes = mib.saturating_mul(MIB);
        match found.iter_mut().find(|process| process.pid == pid) {
            Some(process) => process.bytes = process.bytes.saturating_add(bytes),
            None => found.push(GpuMemoryOfProcess { pid, bytes }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: Memory = Memory { total: 128 << 30, free: 100 << 30 };

    #[test]
    fn every_card_is_listed() {
        let text = "0, NVIDIA GeForce RTX 3090, 24576, 24253\n1, NVIDIA GeForce RTX 3090, 24576, 11\n";
        let devices = parse(text, MEMORY);
        assert_eq!(devices.len(), 2);
        assert_eq!((devices[1].index, devices[1].name.as_str()), (1, "NVIDIA GeForce RTX 3090"));
        assert_eq!((devices[1].memory_total, devices[1].memory_free), (24576 * MIB, 11 * MIB));
    }

    #[test]
    fn a_card_without_memory_of_its_own_has_the_machines() {
        for text in ["0, NVIDIA GB10, [N/A], [N/A]", "0, Orin (nvgpu), [Not Supported], [Not Supported]"] {
            let devices = parse(text, MEMORY);
            assert_eq!(
                (devices[0].memory_total, devices[0].memory_free),
                (MEMORY.total, MEMORY.free),
                "{text}"
            );
        }
    }

    #[test]
    fn text_that_is_no_list_gives_no_card() {
        for text in [
            "",
            "\n\n",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest \
             NVIDIA driver is installed and running.",
            "Failed to initialize NVML: Driver/library version mismatch",
            "0, NVIDIA, twelve, 3",
            "x, NVIDIA, 12, 3",
            "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error, 1, 2, 3",
        ] {
            assert_eq!(parse(text, MEMORY), [], "{text:?}");
        }
    }

    #[test]
    fn memory_of_a_process_is_summed_over_the_cards() {
        let text = "10, 100\n11, [N/A]\n10, 20\n, 3\nnothing";
        assert_eq!(parse_processes(text), [GpuMemoryOfProcess { pid: 10, bytes: 120 * MIB }]);
    }

    #[tokio::test]
    async fn a_broken_driver_costs_its_cards_and_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("nvidia-smi");
        std::fs::write(
            &program,
            "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n",
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (devices, notice) = super::devices(&program, MEMORY).await;
        assert_eq!(devices, []);
        assert!(notice.expect("a notice").message.contains("version mismatch"));
        let (devices, notice) = super::devices(&directory.path().join("missing"), MEMORY).await;
        assert_eq!((devices, notice), (vec![], None));
    }

    proptest! {
        #[test]
        fn no_output_makes_the_parsers_panic(text in ".{0,200}") {
            let _ = parse(&text, MEMORY);
            let _ = parse_processes(&text);
        }
    }
}

//! Main memory.

/// Main memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Installed.
    pub total: u64,
    /// What a new process could use now.
    pub free: u64,
}

impl Memory {
    /// Main memory as the kernel tells it; zero where it does not.
    #[cfg(target_os = "linux")]
    #[expect(clippy::unused_async, reason = "other systems have to ask a program")]
    pub async fn read() -> Self {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let machine = parse_meminfo(&text);
        cgroup_limit().map_or(machine, |limit| machine.within(limit))
    }

    /// Main memory as the kernel tells it; zero where it does not.
    #[cfg(target_os = "macos")]
    pub async fn read() -> Self {
        use crate::tool::{Answer, ask};
        let total = match ask("/usr/sbin/sysctl".as_ref(), &["-n", "hw.memsize"]).await {
            Answer::Output(text) => text.trim().parse().unwrap_or(0),
            _ => 0,
        };
        let free = match ask("/usr/bin/vm_stat".as_ref(), &[]).await {
            Answer::Output(text) => parse_vm_stat(&text),
            _ => 0,
        };
        Self { total, free }
    }

    /// The same seen from within a limit: of a container, the limit is its whole memory.
    #[cfg(any(target_os = "linux", test))]
    fn within(self, limit: Self) -> Self {
        Self { total: self.total.min(limit.total), free: self.free.min(limit.free) }
    }
}

/// `MemTotal` and `MemAvailable` of proc_meminfo(5).
#[cfg(any(target_os = "linux", test))]
fn parse_meminfo(text: &str) -> Memory {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib.saturating_mul(1024))
    };
    Memory { total: field("MemTotal").unwrap_or(0), free: field("MemAvailable").unwrap_or(0) }
}

/// The limit of this process's control group, where there is one (version 2 of the interface).
#[cfg(target_os = "linux")]
fn cgroup_limit() -> Option<Memory> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let file = |name: &str| {
        let path = std::path::Path::new("/sys/fs/cgroup").join(group).join(name);
        std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    let total = file("memory.max")?;
    Some(Memory { total, free: total.saturating_sub(file("memory.current")?) })
}

/// Pages that are free or can be had without swapping, of vm_stat(1).
#[cfg(any(target_os = "macos", test))]
fn parse_vm_stat(text: &str) -> u64 {
    let page: u64 = text
        .lines()
        .next()
        .and_then(|line| line.split("page size of ").nth(1)?.split(' ').next()?.parse().ok())
        .unwrap_or(4096);
    let pages = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|v| v.trim().trim_end_matches('.').parse::<u64>().ok()).unwrap_or(0)
    };
    let free = ["Pages free", "Pages inactive", "Pages speculative", "Pages purgeable"].map(pages);
    free.into_iter().fold(0_u64, u64::saturating_add).saturating_mul(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_what_counts_as_free() {
        let text = "MemTotal:       24683468 kB\nMemFree:          100 kB\nMemAvailable:   22683468 kB\n";
        assert_eq!(parse_meminfo(text), Memory { total: 24_683_468 * 1024, free: 22_683_468 * 1024 });
        assert_eq!(parse_meminfo("garbage"), Memory::default());
    }

    #[test]
    fn a_containers_limit_bounds_what_it_sees() {
        let machine = Memory { total: 100, free: 80 };
        assert_eq!(machine.within(Memory { total: 10, free: 4 }), Memory { total: 10, free: 4 });
        assert_eq!(machine.within(Memory { total: 1000, free: 400 }), machine);
    }

    #[test]
    fn reclaimable_pages_of_a_mac_are_free() {
        let text = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:      10.\nPages \
                    active:   99.\nPages inactive:   5.\nPages speculative:  1.\n";
        assert_eq!(parse_vm_stat(text), 16 * 16384);
        assert_eq!(parse_vm_stat(""), 0);
    }
}

//! Kinds of machine.

use std::{fmt, str::FromStr};

/// The operating system of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Os {
    /// Linux, WSL2 included.
    Linux,
    /// macOS.
    Macos,
}

/// The processor of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// Intel's and AMD's 64 bits.
    X86_64,
    /// ARM's 64 bits.
    Aarch64,
}

/// A kind of machine that one build of the hive runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Its operating system.
    pub os: Os,
    /// Its processor.
    pub arch: Arch,
}

impl Target {
    /// This machine's kind.
    #[must_use]
    pub const fn own() -> Self {
        Self {
            os: if cfg!(target_os = "macos") { Os::Macos } else { Os::Linux },
            arch: if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 },
        }
    }

    /// What `uname -s` and `uname -m` mean.
    #[must_use]
    pub fn of(system: &str, machine: &str) -> Option<Self> {
        let os = match system {
            "Linux" => Os::Linux,
            "Darwin" => Os::Macos,
            _ => return None,
        };
        let arch = match machine {
            "x86_64" | "amd64" => Arch::X86_64,
            "aarch64" | "arm64" => Arch::Aarch64,
            _ => return None,
        };
        Some(Self { os, arch })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let os = match self.os {
            Os::Linux => "linux",
            Os::Macos => "macos",
        };
        let arch = match self.arch {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        };
        write!(f, "{os}-{arch}")
    }
}

/// Why a string names no kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of machine; there are linux-x86_64, linux-aarch64, macos-x86_64 and macos-aarch64")]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let all = [Os::Linux, Os::Macos]
            .into_iter()
            .flat_map(|os| [Arch::X86_64, Arch::Aarch64].map(|arch| Self { os, arch }));
        let mut named = all.filter(|target| target.to_string() == text);
        named.next().ok_or_else(|| TargetError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_machine_read_back() {
        for (system, machine, name) in [
            ("Linux", "x86_64", "linux-x86_64"),
            ("Linux", "aarch64", "linux-aarch64"),
            ("Darwin", "arm64", "macos-aarch64"),
        ] {
            let target = Target::of(system, machine).expect(name);
            assert_eq!((target.to_string().as_str(), name.parse()), (name, Ok(target)));
        }
        assert_eq!(Target::of("FreeBSD", "amd64"), None);
        assert_eq!(Target::of("Linux", "riscv64"), None);
    }
}

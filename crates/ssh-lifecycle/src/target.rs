//! Kinds of machine, and which of them a program is for.

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
    pub(crate) fn of(system: &str, machine: &str) -> Option<Self> {
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

/// What the first bytes of a program say it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Built {
    /// This kind of machine.
    For(Target),
    /// Any of these, or any at all: scripts, and macOS programs for several processors.
    ForMany,
    /// Nothing that is known.
    Unknown,
}

impl Built {
    /// Reads the header of an ELF or a Mach-O file.
    pub(crate) fn of(head: &[u8]) -> Self {
        let arch = |machine: u32, x86_64: u32, aarch64: u32| match machine {
            _ if machine == x86_64 => Some(Arch::X86_64),
            _ if machine == aarch64 => Some(Arch::Aarch64),
            _ => None,
        };
        let found = match head {
            [b'#', b'!', ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => return Self::ForMany,
            // EI_CLASS 2 is 64 bits; e_machine 62 is x86-64, 183 is AArch64.
            [0x7f, b'E', b'L', b'F', 2, rest @ ..] => rest.get(13..15).and_then(|two| {
                Some((Os::Linux, arch(u32::from(two[0]) | u32::from(two[1]) << 8, 62, 183)?))
            }),
            [0xcf, 0xfa, 0xed, 0xfe, a, b, c, d, ..] => {
                arch(u32::from_le_bytes([*a, *b, *c, *d]), 0x0100_0007, 0x0100_000c)
                    .map(|arch| (Os::Macos, arch))
            }
            _ => None,
        };
        found.map_or(Self::Unknown, |(os, arch)| Self::For(Target { os, arch }))
    }

    /// Whether a machine of this kind may run it.
    pub(crate) fn runs_on(self, target: Target) -> bool {
        match self {
            Self::For(built) => built == target,
            Self::ForMany => true,
            Self::Unknown => false,
        }
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

    #[test]
    fn a_program_tells_what_it_was_built_for() {
        let own = std::fs::read(std::env::current_exe().expect("this program")).expect("its bytes");
        assert_eq!(Built::of(&own), Built::For(Target::own()));
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 183, 0];
        let built = Built::of(&elf);
        assert!(built.runs_on("linux-aarch64".parse().expect("a kind")), "{built:?}");
        assert!(!built.runs_on("linux-x86_64".parse().expect("a kind")));
        elf[18] = 243;
        for head in [&elf[..], &elf[..10], b"", b"PK", b"text"] {
            assert_eq!(Built::of(head), Built::Unknown);
        }
        let mac = [0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 1];
        assert_eq!(Built::of(&mac), Built::For("macos-aarch64".parse().expect("a kind")));
        assert!(Built::of(b"#!/bin/sh").runs_on(Target::own()));
    }
}

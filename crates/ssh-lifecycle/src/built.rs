//! Which kind of machine a program is for.

use fleet::{Arch, Os, Target};

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

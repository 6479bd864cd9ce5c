//! What a disk refuses.

use std::fmt;

/// What the disk of a machine has against a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// No room.
    Full,
    /// No room for this account.
    Quota,
    /// It is mounted read-only.
    ReadOnly,
    /// It is mounted `noexec`.
    NoExec,
    /// The account may not write there.
    Denied,
}

impl Disk {
    /// What the words of a failed command mean, as every libc has them in the C locale.
    pub(crate) fn of(said: &str) -> Option<Self> {
        let meanings = [
            ("No space left on device", Self::Full),
            ("Disk quota exceeded", Self::Quota),
            ("Read-only file system", Self::ReadOnly),
            ("Permission denied", Self::Denied),
            ("Operation not permitted", Self::Denied),
        ];
        meanings.into_iter().find_map(|(words, disk)| said.contains(words).then_some(disk))
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the disk is full",
            Self::Quota => "the account's disk quota is used up",
            Self::ReadOnly => "the file system is mounted read-only",
            Self::NoExec => "the file system is mounted noexec, so nothing there can be run",
            Self::Denied => "the account may not write there",
        })
    }
}

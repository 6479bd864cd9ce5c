//! Bounds of a connection.

use std::time::Duration;

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From accept, or from the end of the last answer, to a complete request head. Bounds idle connections too, so it
    /// is also how long a client's pooled connection stays usable.
    pub head: Duration,
    /// How long a client may take none of what is written to it.
    pub write: Duration,
    /// Longest request head, in bytes.
    pub head_bytes: usize,
    /// Most connections at once; further ones wait in the kernel's backlog.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            write: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            connections: 16_384,
        }
    }
}

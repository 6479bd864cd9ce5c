//! Times that the manager decides by.

use std::time::Duration;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Silence of a watch stream after which the hive is probed.
    pub suspect: Duration,
    /// Bound of one probe; two that fail make a hive unreachable.
    pub probe: Duration,
    /// Longest pause between two attempts to reach or restart a hive.
    pub retry_max: Duration,
    /// Crashes within [`Self::crash_window`] after which a hive is not restarted any more.
    pub crash_limit: usize,
    /// See [`Self::crash_limit`].
    pub crash_window: Duration,
    /// How long a hive's workers may finish what they have when it is stopped.
    pub grace: Duration,
    /// How much longer than its grace a hive gets before it is ended by force.
    pub force_after: Duration,
    /// Least time between two writes of a hive's row, whatever becomes of the hive.
    pub write_every: Duration,
    /// How often `last_seen` of a hive that answers is written.
    pub flush: Duration,
    /// How often the way to a hive and back is measured.
    pub measure: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            suspect: Duration::from_secs(3),
            probe: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            crash_limit: 5,
            crash_window: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            force_after: Duration::from_secs(1),
            write_every: Duration::from_secs(10),
            flush: Duration::from_secs(60),
            measure: Duration::from_secs(30),
        }
    }
}

//! Keeps each registered hive as its owner wants it, and writes what it observes into `registry-ram`.
//!
//! One task per hive compares what is wanted ([`fleet::Desired`]) with what is, and closes the difference: find the
//! hive's process or start one, follow its watch stream, judge its silence, stop it. The tasks share nothing, so a
//! machine that hangs costs its own task only. What a hive's process *is*, the launchers know; which worker gets a
//! request, `scheduler` and `router` do.
//!
//! The key decision: the watch stream is the only source of what is known of a hive, and a hive is alive as long as it
//! brings something. Silence for [`Settings::suspect`] is followed by two probes on fresh connections, and only if both
//! find nobody the hive is unreachable. Three things may be at fault instead of the hive, and are looked at first: the queen
//! was away herself (`moment`), the queen is cut off (`doubt`), or the hive comes and goes (`damping`).
//!
//! Invariants:
//! - a launch is committed to the journal before the launcher is asked, so a queen that was killed can be succeeded;
//! - before anything is started, a process that already runs for this hive is looked for and adopted;
//! - a hive that was attached is never started, signalled or ended;
//! - a hive's row is written at most once in [`Settings::write_every`], whatever the hive does;
//! - only monotonic time decides.

mod actor;
mod context;
mod damping;
mod doubt;
mod error;
mod events;
mod key;
mod logs;
mod manager;
mod moment;
mod process;
mod rows;
mod settings;
mod watch;

pub use error::ManagerError;
pub use key::{KeyError, QueenKey};
pub use manager::{HiveManager, OnStop, Parts};
pub use settings::Settings;

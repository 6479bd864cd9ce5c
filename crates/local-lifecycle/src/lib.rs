//! The [`fleet::HiveLauncher`] of the queen's own machine: the hive is a process of ours that outlives us.
//!
//! [`LocalLauncher`] starts `rbee-hive` in a session of its own with its secret on standard input, waits until it answers
//! for its own launch, and from then on only looks: whoever finds `hive.json` with a living process of that identity has
//! found the hive, the next queen as well as this one. It decides nothing: whether and when a hive is started or ended is
//! the caller's.
//!
//! The key decision: a hive has listened when `/v1/health` answers with its id and its launch. A port that accepts proves
//! nothing, for something else may sit there.
//!
//! Invariants:
//! - the observer hears of a process before anything waits for it, and one that it cannot record is ended;
//! - only a process whose pid, start time and boot match is ended;
//! - every method ends within its bound: `launch` after [`Settings::listen`] plus 5 s, `kill` after 30 s, the others at
//!   once, and `exited` within 100 ms of the end.

mod binary;
mod children;
mod launcher;
mod settings;

pub use launcher::LocalLauncher;
pub use settings::Settings;

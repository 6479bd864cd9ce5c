//! What a hive does: keeps the workers and model files of one machine, and lets its queen use them.
//!
//! [`run()`] is a hive from lock to exit; [`reap()`] ends what a hive that is gone left behind. In between stands the
//! contract of `hive-api`, implemented over a few parts: the *board* holds everything that is reported and numbers every
//! change; the *workers* are one task each, around one engine process; the *proxy* relays requests to engines that listen
//! on loopback; the *store* (`model-store`) has the files. A hive decides nothing about the fleet: what to load, when and
//! where is the queen's, and so is every retry.
//!
//! The key decision: a worker does not depend on its hive's life. It runs in a session of its own, writes to a file, and
//! stands in a journal with pid, start time and boot, so the next hive of the directory takes it over as it is. Only a
//! stop that was ordered ends it.
//!
//! Invariants:
//! - at most one hive holds a data directory, locked before anything else is done;
//! - `rev` grows by exactly one with each change a watcher sees, and nothing changes between snapshot and first event;
//! - nothing is killed whose identity is not the journalled one;
//! - a request is counted against its worker until the last byte went out or the queen left, on every path;
//! - an ordered stop ends every worker by its deadline, by force if need be.

mod board;
mod contact;
mod context;
mod engine;
mod errors;
mod hf_cache;
mod inspection;
mod launch;
mod machine;
mod metrics;
mod port_owner;
mod proxy;
mod reap;
mod run;
mod runtime;
mod settings;
mod stopping;
mod worker;
mod workers;

pub use launch::{DataDir, Launch, LaunchedBy, StartError, default_data_dir};
pub use reap::reap;
pub use run::run;
pub use settings::{EngineSetting, Reach, Settings, SettingsError};

/// Name of the hive's own log in its data directory, to which a launcher sends its output.
pub const LOG_FILE: &str = "hive.log";

//! The fake hive against its own claims: a default script keeps the contract, and each fault happens as it is named.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod calls;
mod healthy;
mod launches;
mod models;
mod program;
mod rig;
mod wire;
mod workers;

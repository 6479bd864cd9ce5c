//! The manager over scripted hives, with launchers that start them in this process.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod attached;
mod changes;
mod machine;
mod managed;
mod network;
mod on_demand;
mod pausing;
mod rig;
mod standing;

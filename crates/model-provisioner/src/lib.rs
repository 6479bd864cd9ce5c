//! Makes a model available on a hive, and keeps the central catalog of which hive has which model.
//!
//! The hive fetches and verifies; this crate decides that it should, so that nobody asks twice, and follows it.
//!
//! Invariants:
//! - what a reference stands for is found out once, at the first hive that is asked, and pinned: revision, files and digests. Every
//!   other hive fetches these, so that no two have different files under one name;
//! - at most one flight per (store, model) at a time, whoever asks and however often; it runs in a task of its own, so
//!   that whoever began it may leave;
//! - what a hive of the fleet has comes from there, directly or carried by the queen, and the hub is asked for a model by one
//!   store at a time: those who ask after it find it in the fleet;
//! - a flight ends: with the model, with the hive's reason, or because nothing moved for [`Settings::stall`];
//! - the catalog is written when a flight begins and when it ends, and a catalog that cannot be written stops no flight.

mod error;
mod flight;
mod pins;
mod provisioner;
mod relay;
mod removal;
mod sources;
mod transfer;

pub use error::ProvisionError;
pub use flight::{Flight, Progress};
pub use provisioner::{ModelProvisioner, Parts, Settings};
pub use removal::Removed;

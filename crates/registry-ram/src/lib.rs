//! What is observed of hives and workers right now.
//!
//! The [`WorkerRegistry`] holds one immutable [`FleetView`] at a time. A reader takes the current one without waiting
//! and may keep it; the one writer, `hive-manager`, replaces it through a [`HiveWriter`]. Only leases change
//! between two views: they are counters that all views of a worker share.
//!
//! It is not a store: nothing here outlives the process, and nothing is decided here.
//!
//! Invariants:
//! - a report of another launch, or one that is not newer than what is known, changes nothing; one that skips a revision
//!   is refused as a gap, and the writer must bring a snapshot;
//! - a worker is offered for a model only while it is ready and its hive online;
//! - a [`Lease`] is released exactly once, when it is dropped, and never more leases exist than the worker has slots.

mod lease;
mod registry;
mod view;

pub use lease::Lease;
pub use registry::{Applied, HiveWriter, Report, WorkerRegistry};
pub use view::{FleetView, HiveView, WorkerView};

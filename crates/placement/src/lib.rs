//! Cold starts: from "no worker serves this model" to a ready one.
//!
//! A flight chooses a hive, has the model brought there, has a worker started and waits until the hive reports it ready.
//! Requests that need the model attach to the flight and may leave it; it runs in a task of its own. Which hive is
//! `scheduler`'s decision, the transfer is `model-provisioner`'s, and that the worker is ready is read from
//! `registry-ram`, where the hive's watch stream puts it.
//!
//! Invariants:
//! - at most one flight per model at a time, and one for each region that somebody has to be served from, which waits for one
//!   that may go anywhere;
//! - before anything is started, a worker that is already coming is waited for, and a queen that has just begun first
//!   gives its hives [`Settings::settle`] to say what they run;
//! - whether a model fits is told from its header before a byte of it is fetched; who must go for it is idle, and is given
//!   no request any more when it is told to stop;
//! - files that an engine cannot read are dropped and fetched anew once, on each hive;
//! - what a worker was seen to hold at its peak counts where the estimate is less;
//! - a worker rather starts in the queen's own region, and nowhere but in the region that a request insists on;
//! - a further worker is started where a queue is expected to outlast its start, or has lasted as long;
//! - a hive that is there on demand is started where no other can, and stopped once nothing ran on it for
//!   [`Settings::hive_idle`];
//! - with nobody waiting, a transfer finishes, but no worker is started;
//! - a flight ends: ready, or with a cause that every waiter gets, and that later ones get too for
//!   [`Settings::remember`], so that a model that cannot start is not tried by each request anew.

mod choose;
mod demand;
mod error;
mod flight;
mod flights;
mod observed;
mod placement;
mod spawn;
mod stored;
mod upkeep;

pub use demand::Switch;
pub use error::PlacementError;
pub use flight::{Stage, Waiter};
pub use placement::{Parts, Placement, Settings};
pub use upkeep::{ModelSettings, Models, Waits};

//! Decisions: which worker takes a request, which hive takes a new worker, how many workers a model has.
//!
//! Nothing here has a clock, waits or does I/O: the time comes in as a value, what happened is told, and a decision comes
//! out with its reasons in seconds and bytes. So each rule can be tested by itself, and the same code that brings requests
//! to workers can be run against simulated machines. Who acts on a decision is `router` and `placement`.
//!
//! The one measure is expected time: what a request would wait for a slot, for its prompt to be read where no worker
//! remembers it, for the answer to be written, and for the way there and back, in seconds, at the rates that were measured of
//! each worker. A [`Dispatch`] holds what is needed for that of one model: what is under way where, what was measured,
//! which worker has seen which prompt, and who waits.
//!
//! Invariants: a choice is always one of the candidates; the same candidates in another order give the same choice; no
//! worker is given more than it has slots; a refusal names a reason for each candidate.

mod breaker;
mod dispatch;
mod evict;
mod hash;
mod hive;
mod lengths;
mod prefix;
mod rates;
mod upkeep;

pub use dispatch::{
    Assigned, Considered, Decision, Dispatch, Expected, Finished, Offer, Outcome, Priority, Request, Ticket,
    WorkerKey,
};
pub use evict::{Resident, evict};
pub use hash::{Folding, FoldingHasher};
pub use hive::{HiveCandidate, HiveChoice, Obstacle, Refusal, Regions, choose_hive, start_expected};
pub use lengths::Lengths;
pub use prefix::{Mark, PrefixChain, PrefixIndex};
pub use rates::{Rates, Speed};
pub use upkeep::{ModelPolicy, ModelSeen, Replica, StartReason, StopReason, Upkeep, UpkeepStep, UpkeepTimes};

//! Decisions: which worker takes a request, which hive takes a new worker.
//!
//! Pure functions from a snapshot to a choice. No clock, no I/O, no state, so that every rule can be tested by itself and
//! the same decision can be taken again over a recorded snapshot. Who acts on a choice is `router` and `placement`.
//!
//! Invariants: a choice is always one of the candidates; the same candidates in another order give the same choice; a
//! refusal names a reason for each candidate.

mod hive;
mod worker;

pub use hive::{HiveCandidate, Obstacle, Refusal, choose_hive};
pub use worker::{WorkerCandidate, choose_worker};

//! What `docs/hive-api.md` asks of a hive, as checks against any hive that answers somewhere.
//!
//! [`run`] needs an address and the hive's token, and for what concerns models and workers a model that the hive has or can
//! get. It uses the hive as a queen would, leaves it running, and stops the worker that it started. [`end`] is apart, since
//! it ends the hive.
//!
//! The key decision: a check speaks plain HTTP wherever the wire is what it checks, and the typed client only where that
//! is beside the point, so a fault that client and router share would still show.
//!
//! Invariants: every check ends by [`Target::patience`]; a check that could not be made says so and is no success.

mod checks;
mod probe;
mod verdict;

pub use checks::{end, run};
pub use probe::{Target, TargetError};
pub use verdict::{CheckResult, Outcome};

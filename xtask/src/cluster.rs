//! `cargo xtask test-cluster`: a fleet on one machine that judges the queen.
//!
//! The real queen, and hives as processes of their own: fake ones that fail on order and journal what they were asked, or
//! real ones. A scenario speaks to them over HTTP only and says what should come of it; whatever it does, the checker
//! afterwards compares what clients saw with the queen's events, the fakes' journals, the files and the processes that are
//! left. A scenario is an `async fn` in `scenarios/` and a line in `scenarios.rs`.
//!
//! Invariant: when a scenario has ended, however it ended, none of its processes runs.

mod answer;
mod api;
mod check;
mod fleet;
mod hive;
mod junit;
mod options;
mod program;
mod queen;
mod report;
mod run;
mod scenario;
mod scenarios;
mod secrets;

pub(crate) use hive::FakeHive;
pub(crate) use options::Options;
pub(crate) use run::run;

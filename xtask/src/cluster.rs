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
mod clocks;
mod conformance;
mod fleet;
mod hive;
mod isolation;
mod junit;
pub(crate) mod kills;
mod network;
mod options;
mod other_machine;
mod program;
mod queen;
mod report;
mod run;
mod scenario;
mod scenarios;
mod secrets;
mod trace;

pub(crate) use fleet::{Cluster, Plan};
pub(crate) use hive::FakeHive;
pub(crate) use isolation::{inside, is_possible as can_isolate};
pub(crate) use options::{Options, fits};
pub(crate) use program::Kit;
pub(crate) use run::{Summary, build_fakes, run};

use crate::stop::Stop;

/// Ends a fleet that something else used, and says what was wrong with it.
pub(crate) async fn end(cluster: &mut Cluster) -> Vec<String> {
    check::end(cluster).await.violations
}

/// Ends whatever of a fleet below this folder still runs, however it came to be left, and tells what could not be ended.
pub(crate) async fn sweep(folder: &std::path::Path) -> Vec<String> {
    check::sweep(folder).await
}

/// The command: fails if anything did.
pub(crate) async fn main(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    if let (Some(hive), Some(token_file)) = (&options.hive, &options.token_file) {
        return conformance::check(hive, token_file, options.model.as_deref(), stop).await;
    }
    let summary = run(options, stop).await?;
    let all = summary.passed + summary.failed;
    anyhow::ensure!(summary.failed == 0, "{} of {all} scenarios failed", summary.failed);
    Ok(())
}

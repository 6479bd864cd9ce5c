//! `cargo xtask planted`: bugs that are there on purpose, and the scenario that catches each.
//!
//! One build has them all (see the crate `planted`), and a variable picks one. Without any the same scenarios have to pass,
//! so that what fails with a bug fails because of it.

use anyhow::ensure;
use clap::Args;

use crate::{
    cluster::{self, Kit, Options},
    programs::Profile,
    stop::Stop,
    test::Counts,
};

/// Every bug, with the scenarios that should catch it.
const BUGS: &[(&str, &str)] = &[
    ("ack-before-commit", "storage/killed_while_registering"),
    ("unbounded-queue", "load/ten_times_too_much"),
    ("deaf-to-progress", "load/slow_is_not_dead"),
    ("retry-after-first-byte", "workers/is_continued"),
    ("forgets-earlier-tokens", "workers/chat_is_continued"),
    ("leader-cancel-kills-flight", "cold/leader_leaves"),
    ("leaked-slot", "warm/two_at_once"),
    ("no-launch-check", "hives/another_launch"),
    ("orphan-on-ctrl-c", "launched/stopped"),
    ("silent-truncation", "workers/ends_without_terminator"),
    ("prompt-in-log", "warm/infer"),
    ("follows-redirects", "strangers/redirects"),
    ("asks-a-proxy", "warm/infer"),
    ("keeps-generating", "clients/leaves"),
    ("ends-attached-hives", "warm/infer"),
    ("trusts-silence", "machines/cut_off"),
    ("pins-once", "machines/rebooted"),
    ("hasty", "machines/busy"),
    ("looks-too-early", "steps/of_a_lost_reply"),
    ("trusts-the-row", "steps/of_a_network_stop"),
];

/// Scenarios in which the queen dies at a step, which this build can do as well.
const STEPS: &str = "steps/*";

/// Which of them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Only these scenarios without any bug, and then only the bugs that they should catch, with `*` for any text
    #[arg(long, value_name = "GLOB")]
    only: Option<String>,
    /// Run the scenarios without any bug so often
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Scenarios at a time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Keep the folders of scenarios that passed
    #[arg(long)]
    keep: bool,
}

impl Which {
    /// All of them, as the tests of the workspace do.
    pub(crate) const fn all() -> Self {
        Self { only: None, repeat: 1, jobs: 3, keep: false }
    }
}

/// The command.
pub(crate) async fn main(which: &Which, stop: &Stop) -> anyhow::Result<()> {
    let counts = run(which, stop).await?;
    ensure!(counts.failed == 0, "{} planted bugs were not caught", counts.failed);
    Ok(())
}

/// Runs all of them, and prints what caught what.
pub(crate) async fn run(which: &Which, stop: &Stop) -> anyhow::Result<Counts> {
    let only = which.only.as_deref();
    let is_meant = |scenarios: &str| only.is_none_or(|only| cluster::fits(only, scenarios));
    let bugs: Vec<_> = BUGS.iter().filter(|(_, scenarios)| is_meant(scenarios)).collect();
    let all: Vec<_> = BUGS.iter().map(|(_, scenarios)| *scenarios).chain([STEPS]).collect();
    println!("   without a bug");
    let healthy = options(None, only.unwrap_or(&all.join(",")));
    let healthy = cluster::run(
        &Options {
            quiet: only.is_none(),
            repeat: which.repeat,
            jobs: which.jobs,
            keep: which.keep,
            ..healthy
        },
        stop,
    )
    .await?;
    if let Some(failure) = healthy.first_failure {
        anyhow::bail!("without any bug {} fails: {}", failure.scenario, failure.reason);
    }
    let mut counts = Counts::default();
    let mut lines = Vec::new();
    for (bug, scenarios) in &bugs {
        println!("   with {bug}");
        let summary = cluster::run(&options(Some(bug), scenarios), stop).await?;
        let verdict = match &summary.first_failure {
            Some(failure) => {
                counts.passed += 1;
                let reason = failure.reason.lines().next().unwrap_or_default();
                format!("{}: {}", failure.scenario, reason.chars().take(80).collect::<String>())
            }
            None => {
                counts.failed += 1;
                "NOT CAUGHT".to_owned()
            }
        };
        lines.push(format!("  {bug:<28} {verdict}"));
    }
    println!("\n{}", lines.join("\n"));
    println!("\n  {} of {} planted bugs caught", counts.passed, bugs.len());
    Ok(counts)
}

fn options(bug: Option<&str>, scenarios: &str) -> Options {
    let kit = Kit { profile: Profile::Planted, bug: bug.map(str::to_owned) };
    Options { scenario: scenarios.to_owned(), kit, quiet: true, ..Options::short() }
}

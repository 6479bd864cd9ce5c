//! `cargo xtask test`: every test there is, and the counts of all of them in one line at the end.
//!
//! What cannot run on a machine is named, one line each. With `--ci` that is a failure, so that a gap cannot hide, except
//! for what no package can bring ([`needs::BEYOND`]).

mod cargo;
mod client;
mod counts;
mod examples;
mod needs;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::{FutureExt as _, future::LocalBoxFuture};

pub(crate) use counts::Counts;

use crate::{
    ci, cluster,
    command::Command,
    planted, ports,
    programs::{self, Profile},
    step::Steps,
    stop::{Stop, Stopped},
    strays, workspace,
};

/// Which tests.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Fail where something cannot run
    #[arg(long)]
    pub(crate) ci: bool,
    /// Install what is missing through the system's package manager
    #[arg(long)]
    pub(crate) install: bool,
    /// The long forms too: every scenario twenty times, a thousand kills
    #[arg(long)]
    pub(crate) full: bool,
    /// Only the parts whose name fits, with `*` for any text, such as `scenarios` or `examples`
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Option<String>,
}

/// Runs them all.
pub(crate) async fn run(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    let mut steps = Steps::default();
    let counts = self::steps(options, &mut steps, stop).await?;
    ci::finish(&steps, counts)
}

/// One part: its name, and what it comes to.
type Part<'a> = (&'static str, LocalBoxFuture<'a, anyhow::Result<Counts>>);

/// The same as steps of something larger.
pub(crate) async fn steps(options: &Options, steps: &mut Steps, stop: &Stop) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let missing = steps.step("what this machine has", needs::meet(options, stop)).await?.unwrap_or_default();
    let everything = planted::Which::all();
    let parts: Vec<Part<'_>> = vec![
        ("tests of the crates", cargo::everyday(options.full, &missing, stop).boxed_local()),
        ("examples", examples::run(stop).boxed_local()),
        ("tests of the built-in worker", cargo::engine(stop).boxed_local()),
        ("scenarios", scenarios(options, stop).boxed_local()),
        (KILLS, kills(options, stop).boxed_local()),
        ("scenarios, interrupted", scenarios_interrupted(stop).boxed_local()),
        ("planted bugs", planted::run(&everything, stop).boxed_local()),
        ("cargo xtask up --once", up(stop).boxed_local()),
        ("cargo xtask up, interrupted", up_interrupted(stop).boxed_local()),
        (needs::OPENAI, client::run(stop).boxed_local()),
    ];
    for (name, part) in parts {
        if options.only.as_ref().is_some_and(|only| !cluster::fits(only, name)) {
            continue;
        }
        if missing.contains(&name) {
            counts.skipped += 1;
            continue;
        }
        counts += steps.step(name, part).await?.unwrap_or(Counts::FAILED);
    }
    counts.skipped += needs::BEYOND.iter().filter(|need| !(need.is_met)()).count();
    Ok(counts)
}

/// The name under which killing the queen at system calls is missing.
pub(crate) const KILLS: &str = "the queen killed while hives are registered";

async fn kills(options: &Options, stop: &Stop) -> anyhow::Result<Counts> {
    programs::build(Profile::Dev, &["queen-rbee"], stop).await?;
    let short = cluster::kills::Counted { random: 60, every: 4 };
    let long = cluster::kills::Counted { random: 1000, every: 1 };
    cluster::kills::run(if options.full { long } else { short }, stop).await
}

/// Scenarios that have a long form.
const LONG: &str = "machines/busy,load/*";

async fn scenarios(options: &Options, stop: &Stop) -> anyhow::Result<Counts> {
    let repeat = if options.full { 20 } else { 1 };
    let chosen = cluster::Options { real_hives: 1, repeat, ..cluster::Options::short() };
    let mut counts = Counts::from(cluster::run(&chosen, stop).await?);
    if options.full {
        let long =
            cluster::Options { scenario: LONG.to_owned(), long: true, jobs: 1, ..cluster::Options::short() };
        counts += Counts::from(cluster::run(&long, stop).await?);
    }
    Ok(counts)
}

/// Scenarios that are ended by a signal at one moment or another, as Ctrl-C sends one: nothing may be left of them.
async fn scenarios_interrupted(stop: &Stop) -> anyhow::Result<Counts> {
    cluster::build_fakes(Profile::Dev, stop).await?;
    let us = std::env::current_exe().context("where this program lies")?;
    for moment in [50, 700, 1500, 2500, 4000].map(Duration::from_millis) {
        let ours = Stop::default();
        let command = Command::new(&us).args(["test-cluster"]).within(Duration::from_secs(600));
        let scenarios = command.lines(&ours, Some(|_: &str| ()));
        let interrupt = async {
            tokio::time::sleep(moment).await;
            ours.ask();
        };
        let (ended, ()) = stop.unless(async { Ok(tokio::join!(scenarios, interrupt)) }).await?;
        let stopped = ended.as_ref().is_err_and(anyhow::Error::is::<Stopped>);
        ensure!(stopped, "after {moment:?} it was not interrupted: {ended:?}");
        let left = strays::below(&workspace::target().join("test-cluster"));
        ensure!(left.is_empty(), "after {moment:?} it left processes behind: {left:?}");
    }
    Ok(Counts::passed(1))
}

/// The command that a newcomer types, as it is typed: it must end by itself, with the recital, and leave nothing.
async fn up(stop: &Stop) -> anyhow::Result<Counts> {
    let data_dir = workspace::target().join("test-up");
    let _ = std::fs::remove_dir_all(&data_dir);
    std::fs::create_dir_all(&data_dir)?;
    let listen = format!("127.0.0.1:{}", ports::free()?);
    let us = std::env::current_exe().context("where this program lies")?;
    let command = Command::new(us).args(["up", "--once", "--listen", &listen, "--data-dir"]).arg(&data_dir);
    let output = command.within(Duration::from_secs(3000)).output(stop).await?;
    let left = strays::below(&data_dir);
    strays::end(left.clone()).await;
    ensure!(left.is_empty(), "it left processes behind: {left:?}");
    let answer = output.lines().next().unwrap_or_default();
    tiny_model::check_continuation("", answer)?;
    ensure!(answer.len() > 200, "the answer is short: {answer:?}");
    for due in ["curl", "base_url", "api_key"] {
        ensure!(output.contains(due), "it does not tell of {due}: {output}");
    }
    let _ = std::fs::remove_dir_all(&data_dir);
    Ok(Counts::passed(1))
}

/// The same command while it serves, ended by a signal as Ctrl-C sends one: nothing may be left of it.
async fn up_interrupted(stop: &Stop) -> anyhow::Result<Counts> {
    let data_dir = workspace::target().join("test-up");
    std::fs::create_dir_all(&data_dir)?;
    let listen = format!("127.0.0.1:{}", ports::free()?);
    let us = std::env::current_exe().context("where this program lies")?;
    let command =
        Command::new(us).args(["up", "--max-tokens", "8", "--listen", &listen, "--data-dir"]).arg(&data_dir);
    let ours = Stop::default();
    let mut served = false;
    let on_line = |line: &str| {
        if line.contains("base_url") {
            served = true;
            ours.ask();
        }
    };
    let ended = stop.unless(command.within(Duration::from_secs(600)).lines(&ours, Some(on_line))).await;
    let left = strays::below(&data_dir);
    strays::end(left.clone()).await;
    ensure!(served, "it did not come to serve: {ended:?}");
    ensure!(left.is_empty(), "it left processes behind: {left:?}");
    let _ = std::fs::remove_dir_all(&data_dir);
    Ok(Counts::passed(1))
}

//! `cargo xtask bench`: what the queen costs, printed beside what it should. Nothing is asserted: a figure is of one machine
//! and one moment.
//!
//! Everything is measured from outside, on release builds, with the built-in worker and the reciting model: what is
//! compared goes through the same worker, turn by turn, so that a slow moment of the machine hits both alike.

mod data_plane;
mod figures;
mod probe;

use std::{process::Stdio, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::{
    command::Command,
    ports,
    programs::{self, Profile},
    stop::Stop,
    up::{self, Queen},
};
use figures::Figures;
use probe::{Probe, Route};

/// What, and how often.
#[derive(Debug, Clone, Copy, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Warm requests by each way
    #[arg(long, value_name = "N", default_value_t = 500)]
    requests: usize,
    /// Queens started, cold starts made
    #[arg(long, value_name = "N", default_value_t = 10)]
    starts: usize,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, Subcommand)]
enum Part {
    /// The scheduler against other policies and a bound, on simulated machines under recorded load
    Fleet,
    /// How long the choice of a worker takes
    Choose,
    /// The way through the queen beside a minimal proxy, nginx and haproxy
    DataPlane {
        /// How often each is measured
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: usize,
    },
}

impl Part {
    /// Measures and prints, in a release build.
    async fn run(self, stop: &Stop) -> anyhow::Result<()> {
        let part = match self {
            Self::Fleet => "fleet",
            Self::Choose => "choose",
            Self::DataPlane { rounds } => return data_plane::run(rounds, stop).await,
        };
        programs::build(Profile::Release, &["fleet-sim"], stop).await?;
        Command::new(Profile::Release.program("fleet-sim")).arg(part).run(stop).await
    }
}

/// Requests by each way before those that are measured.
const UNMEASURED: usize = 50;

/// Measures and prints.
pub(crate) async fn run(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    if let Some(part) = options.part {
        return part.run(stop).await;
    }
    up::build(stop).await?;
    let mut readies = Figures::default();
    let mut cold = Figures::default();
    let mut own = Figures::default();
    let (mut queen_memory, mut hive_memory) = (Figures::default(), Figures::default());
    for _ in 0..options.starts {
        stop.unless(engine_alone(&mut own)).await?;
        up::with_queen("bench", stop, async |queen: &Queen| {
            readies.add(queen.ready_after);
            let probe = Probe::of(queen)?;
            probe.until_idle().await?;
            queen_memory.add_kib(probe.memory_of("queen-rbee")?);
            hive_memory.add_kib(probe.memory_of("rbee-hive")?);
            cold.add(probe.first_token(Route::Queen).await?);
            Ok(())
        })
        .await?;
    }
    let (mut through, mut direct) = (Figures::default(), Figures::default());
    up::with_queen("bench", stop, async |queen: &Queen| {
        let probe = Probe::of(queen)?;
        probe.first_token(Route::Queen).await?;
        let worker = probe.worker_url()?;
        for turn in 0..UNMEASURED + options.requests {
            let one = probe.first_token(Route::Queen).await?;
            let other = probe.first_token(Route::Worker(&worker)).await?;
            if turn >= UNMEASURED {
                through.add(one);
                direct.add(other);
            }
        }
        Ok(())
    })
    .await?;
    println!();
    println!("  {:<44} {:>9} {:>9} {:>9}", "", "p50", "p99", "should be");
    let added = |of: fn(&Figures) -> f64| of(&through) - of(&direct);
    row("first token, warm, of the worker itself", direct.p50(), direct.p99(), "");
    row("first token, warm, through queen and hive", through.p50(), through.p99(), "");
    row("  the difference", added(Figures::p50), added(Figures::p99), "≤ 2 ms");
    row("the queen is ready after", readies.p50(), readies.p99(), "≤ 150 ms");
    row("first token of the engine alone, started cold", own.p50(), own.p99(), "");
    row("first token through the queen, cold", cold.p50(), cold.p99(), "");
    row("  the difference", cold.p50() - own.p50(), cold.p99() - own.p99(), "≤ 100 ms");
    println!(
        "  {:<44} {:>6.1} MiB {:>19}",
        "the queen's memory when idle",
        queen_memory.p50() / 1024.0,
        "≤ 20 MiB"
    );
    println!("  {:<44} {:>6.1} MiB", "the hive's memory when idle", hive_memory.p50() / 1024.0);
    Ok(())
}

fn row(name: &str, p50: f64, p99: f64, target: &str) {
    println!("  {name:<44} {p50:>6.2} ms {p99:>6.2} ms {target:>9}");
}

/// The engine as a hive starts it, without one: from its start to its first token.
async fn engine_alone(own: &mut Figures) -> anyhow::Result<()> {
    let folder = crate::workspace::target().join("bench-engine");
    std::fs::create_dir_all(&folder)?;
    let model = folder.join("tiny.gguf");
    tiny_model::write(&model)?;
    let port = ports::free()?.to_string();
    let began = std::time::Instant::now();
    let mut child = tokio::process::Command::new(Profile::Engine.program("llm-worker-rbee"))
        .args(["--served-name", "m", "--port", &port, "--context", "8192", "--slots", "1", "--model"])
        .arg(&model)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("could not start the engine")?;
    let probe = Probe::bare("m")?;
    let url = format!("http://127.0.0.1:{port}");
    let first = tokio::time::timeout(Duration::from_secs(60), probe.first_token_once_up(&url)).await;
    first.context("the engine does not answer")??;
    own.add(began.elapsed());
    child.kill().await?;
    Ok(())
}

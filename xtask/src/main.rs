//! Automation of this workspace: `cargo xtask COMMAND`.
//!
//! Everything that people and CI do with the workspace is a command here, so that both do the same. It knows the programs
//! of the workspace by their command lines and their HTTP interfaces only; it links none of their crates but the
//! vocabulary, the wire types and the reciting model.
//!
//! Invariant: whatever a command starts has ended when the command ends, also when it was interrupted.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command line tool")]

mod command;
mod ports;
mod programs;
mod step;
mod stop;
mod strays;
mod workspace;

mod bench;
mod ci;
mod cluster;
mod dist;
mod planted;
mod test;
mod tidy;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use stop::{Stop, Stopped};

/// What a shell shows for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Builds, runs, tests and measures queen-rbee.")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Write the reciting model, a GGUF file of one megabyte
    TinyModel {
        /// Where to
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Build everything, start a queen with a local hive, ask a model something, and serve until Ctrl-C
    Up(up::Options),
    /// Measure what the queen costs, and print it beside what it should
    Bench(bench::Options),
    /// Run every test there is
    Test(test::Options),
    /// Run everything that must hold before a change is taken
    Ci,
    /// Judge the real queen on a fleet of fake hives, by scenarios over HTTP
    TestCluster(cluster::Options),
    /// Show for each planted bug which scenario catches it
    Planted(planted::Which),
    /// Scenarios, in the namespaces that this process was started in
    #[command(hide = true)]
    Inside {
        /// What to run; the outcome is left there
        file: PathBuf,
    },
    /// Build the programs as people install them, with the hive that queens bring to other machines
    Dist(dist::Options),
    /// Check the rules of the house that neither the compiler nor clippy knows
    Tidy,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome =
        runtime.context("could not start the runtime").and_then(|runtime| runtime.block_on(run(cli.task)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Stopped>() => {
            eprintln!("{error}");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(task: Task) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    match task {
        Task::TinyModel { out } => {
            tiny_model::write(&out).with_context(|| format!("could not write {}", out.display()))
        }
        Task::Up(options) => up::run(&options, &stop).await,
        Task::Bench(options) => bench::run(&options, &stop).await,
        Task::Test(options) => test::run(&options, &stop).await,
        Task::Ci => ci::run(&stop).await,
        Task::TestCluster(options) => cluster::main(&options, &stop).await,
        Task::Planted(which) => planted::main(&which, &stop).await,
        Task::Inside { file } => cluster::inside(&file, &stop).await,
        Task::Dist(options) => dist::run(&options, &stop).await,
        Task::Tidy => tidy::run(),
    }
}

//! What a router is measured with: a worker that costs next to nothing, a proxy that does the least that a router must, and
//! a load generator. `cargo xtask bench data-plane` starts them, each on a core of its own choosing, and compares.
//!
//! The key decision: worker and load speak bytes, not HTTP. They know what comes, so they look for the end of a head and
//! count, and leave the core that they share to what is measured. Nothing here is fit to meet strangers.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command line tool")]

mod load;
mod proxy;
mod wire;
mod worker;

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;

/// One part of a measurement.
#[derive(Debug, Parser)]
enum Part {
    /// Answers like a worker, and like a hive that has many of them
    Worker(worker::Options),
    /// Reads `model` and forwards, nothing else
    Proxy {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// Where requests go
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Asks, and prints what it saw as one line of JSON
    Load(load::Options),
}

fn main() -> ExitCode {
    match run(Part::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("data-plane-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(part: Part) -> anyhow::Result<()> {
    // One thread each: the core is given from outside.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match part {
            Part::Worker(options) => worker::run(options).await,
            Part::Proxy { listen, upstream } => proxy::run(listen, upstream).await,
            Part::Load(options) => {
                println!("{}", serde_json::to_string(&load::run(&options).await?)?);
                Ok(())
            }
        }
    })
}

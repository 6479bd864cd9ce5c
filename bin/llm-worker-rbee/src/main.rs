//! The built-in worker: one GGUF file served over OpenAI's HTTP API, by mistral.rs on the CPU or a GPU.
//!
//! This binary composes. The HTTP surface is `worker-http`, the accept loop `http-serve`; what is its own is the adapter
//! between `worker-http`'s port and the library ([`engine`], [`picker`], [`vocabulary`], [`sampling`]), and life and death
//! of the process:
//!
//! ```text
//! bind ─► loading (health 503) ─► serving (health 200) ─► signal: streams end with an error event ─► exit 0
//!             └─ failed: one line on stderr, exit 1
//! ```
//!
//! It listens before it loads, so that whoever started it can tell loading from dead.

mod args;
mod engine;
mod load;
mod picker;
mod sampling;
mod vocabulary;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use http_serve::{Limits, Server, Shutdown};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;
use worker_http::{Settings, Worker, router};

use crate::args::Args;

/// How many requests may wait for a slot. Whoever distributes requests knows the slots, so this is for accidents.
const WAITING: usize = 512;
/// How long streams get to write their last event. Together with what is left of the process this stays below a second.
const GRACE: Duration = Duration::from_millis(500);
/// Streams and the engine have threads of their own; connections need few.
const CONNECTION_THREADS: usize = 2;
const LOGGED: &str = "warn,llm_worker_rbee=info,mistralrs_core::pipeline::gguf=error";

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(message) => {
            // Help and version are messages too, which go to stdout and are no failure.
            let failed = message.use_stderr();
            return match message.print() {
                Ok(()) if !failed => ExitCode::SUCCESS,
                _ => ExitCode::from(64),
            };
        }
    };
    log_to_stderr();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
            // Nowhere else to say it: if stderr is closed, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "llm-worker-rbee: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder
        .worker_threads(CONNECTION_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(args));
    // A model that is still loading cannot be interrupted; the end of the process ends it.
    runtime.shutdown_background();
    result
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = http_serve::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr().context("cannot tell the port")?;
    let settings = Settings { served_name: args.served_name.clone(), slots: args.slots, waiting: WAITING };
    let worker = Arc::new(Worker::new(settings));
    let shutdown = Shutdown::default();
    let server = Server::new(listener, router(Arc::clone(&worker)), Limits::default())
        .with_shutdown(shutdown.clone(), GRACE);
    let tasks = TaskTracker::new();
    let serving = tasks.spawn(server.run());
    // In a task of its own because the library blocks its caller while it warms up, and a signal must be heard meanwhile.
    let mut loading = tasks.spawn(load::load(args));
    tracing::info!(%address, "listening");

    let mut ready = false;
    loop {
        tokio::select! {
            loaded = &mut loading, if !ready => {
                let engine = loaded.context("loading panicked")??;
                tracing::info!("ready");
                worker.ready(Arc::new(engine));
                ready = true;
            }
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
        }
    }
    worker.stop();
    shutdown.drain();
    let cut = serving.await.context("the accept loop panicked")?;
    if cut > 0 {
        tracing::warn!(cut, "connections that did not end by themselves were cut");
    }
    Ok(())
}

/// Warnings of all, and what this binary itself has to say; `RUST_LOG` changes that. One module is kept to errors: it warns
/// about a mix of CPU and GPU whenever the CPU is all there is.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    // The standard hook writes several lines; this keeps a panic in the log's form and on one.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panicked")));
}

//! `queen-rbee`: the orchestrator daemon. It composes the crates of the workspace and holds nothing of its own.

mod args;
mod compose;
mod failure;
mod hives;
mod log;
mod port;
mod service;
mod stop;

use std::{io::Write, process::ExitCode};

use args::{Args, Invocation};
use compose::Queen;
use failure::Failure;
use queen_api::HivesOnStop;
use stop::Signals;
use system_service::Notice;

fn main() -> ExitCode {
    let outcome = match Invocation::read() {
        Invocation::Run(args) => start(&args),
        Invocation::Install(install) => service::install(&install).map(|told| say(&told)),
        Invocation::Answer(text) => {
            // A closed standard output is nobody's loss.
            let _ = writeln!(std::io::stdout(), "{text}");
            return ExitCode::SUCCESS;
        }
        Invocation::Wrong(text) => {
            say(&text);
            return failure::USAGE.into();
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("queen-rbee: {failure}"));
            failure.exit_code()
        }
    }
}

fn start(args: &Args) -> Result<(), Failure> {
    let config = queen_config::load(&args.flags)?;
    if args.check_config {
        say("the configuration is good");
        return Ok(());
    }
    let _log = telemetry::init(&compose::log_settings(&config))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let on_signal = if args.keep_hives { HivesOnStop::Keep } else { HivesOnStop::Stop };
    runtime.block_on(run(&config, on_signal))
}

async fn run(config: &queen_config::Config, on_signal: HivesOnStop) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let listener = port::listen(config.listen).await?;
    let queen = Queen::open(config).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let served = queen.serve(listener);
    if let Some(log) = log::own(&config.data_dir) {
        tokio::runtime::Handle::current().spawn(async move { log.keep_below_cap().await });
    }
    say(&format!(
        "queen-rbee {} ready on http://{address} (data in {})",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display()
    ));
    tell(Notice::Ready);
    let order = stop::wanted(&mut signals, queen.stop_orders, on_signal).await;
    tell(Notice::Stopping);
    stop::cascade(order, &mut signals, queen.running, served, config.timeouts.stop_grace).await;
    Ok(())
}

/// Tells the service manager, if one wants to know. It does without when it cannot be told.
fn tell(notice: Notice) {
    if let Err(error) = system_service::notify(notice) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// One line for whoever started the program. A closed standard error is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

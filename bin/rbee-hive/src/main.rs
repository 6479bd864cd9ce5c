//! `rbee-hive`: reads the command line, sets up the log, runs a hive or reaps what one left behind.

use std::{
    error::Error,
    io::{IsTerminal, Write},
    process::ExitCode,
};

use fleet::{HiveCommand, Invocation};
use hive_runtime::StartError;
use tracing_subscriber::EnvFilter;

/// Exit code of sysexits.h for a wrong command line.
const USAGE: u8 = 64;

/// Exit code of sysexits.h for a machine that gives no threads.
const OS_ERROR: u8 = 71;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match Invocation::parse(&args) {
        Ok(Invocation::Help) => print(HiveCommand::USAGE),
        Ok(Invocation::Version) => print(concat!("rbee-hive ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Invocation::Run(command)) => with_runtime(hive_runtime::run(command)),
        Ok(Invocation::Reap { data_dir }) => with_runtime(async {
            let dir = data_dir.map_or_else(hive_runtime::default_data_dir, Ok)?;
            let ended = hive_runtime::reap(&dir).await?;
            print(&format!("{ended}\n"));
            Ok(())
        }),
        Err(error) => fail(&error, USAGE),
    }
}

fn with_runtime(work: impl Future<Output = Result<(), StartError>>) -> ExitCode {
    log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, OS_ERROR),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// To standard error, which a launcher sends to a file. `RBEE_HIVE_LOG` filters, as in `hive_runtime=debug`.
fn log() {
    let filter = EnvFilter::try_from_env("RBEE_HIVE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// A closed output is nobody's loss.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(error: &dyn Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "rbee-hive: {}", causes::with_causes(error));
    ExitCode::from(code)
}

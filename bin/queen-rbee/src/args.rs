//! The command line.

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use queen_config::Flags;

use crate::failure::USAGE;

/// Orchestrates inference over your machines: one URL, any OpenAI client.
#[derive(Debug, clap::Parser)]
#[command(name = "queen-rbee", version)]
struct Raw {
    /// Configuration file (default: queen-rbee/queen.toml in the user's configuration directory, if it is there).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on (default 127.0.0.1:7833).
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Directory of the database, keys and logs (default ~/.local/share/queen-rbee).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What is logged, such as `info` or `info,router=debug`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Check the configuration, print every fault, and end.
    #[arg(long)]
    check_config: bool,
}

/// What the program was called for.
pub(crate) enum Invocation {
    Run(Args),
    Print { text: String, code: ExitCode },
}

/// A call to run.
pub(crate) struct Args {
    pub(crate) flags: Flags,
    pub(crate) check_config: bool,
}

impl Args {
    pub(crate) fn read() -> Invocation {
        let parsed = Raw::command().try_get_matches().and_then(|matches| Raw::from_arg_matches(&matches));
        match parsed {
            Ok(raw) => Invocation::Run(raw.into()),
            Err(error) => {
                let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                let code = if asked { ExitCode::SUCCESS } else { USAGE.into() };
                Invocation::Print { text: error.render().to_string().trim_end().to_owned(), code }
            }
        }
    }
}

impl From<Raw> for Args {
    fn from(raw: Raw) -> Self {
        let Raw { config, listen, data_dir, log, check_config } = raw;
        Self { flags: Flags { config, listen, data_dir, log_filter: log, ..Flags::default() }, check_config }
    }
}

//! The command line.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use queen_config::Flags;

/// Orchestrates inference over your machines: one URL, any OpenAI client.
#[derive(Debug, clap::Parser)]
#[command(name = "queen-rbee", version, disable_help_subcommand = true)]
struct Raw {
    #[command(flatten)]
    given: Given,
    /// Check the configuration, print every fault, and end.
    #[arg(long)]
    check_config: bool,
    /// On a signal leave hives and workers running for the next queen, which takes them over. `rbee down` and
    /// `POST /v1/shutdown` say for themselves what becomes of them.
    #[arg(long)]
    keep_hives: bool,
    #[command(subcommand)]
    command: Option<RawCommand>,
}

/// What the queen is told, also as a service.
#[derive(Debug, clap::Args)]
struct Given {
    /// Configuration file (default: queen-rbee/queen.toml in the user's configuration directory, if it is there).
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Address and port to listen on (default 127.0.0.1:7833).
    #[arg(long, value_name = "ADDR", global = true)]
    listen: Option<String>,
    /// Directory of the database, keys and logs (default ~/.local/share/queen-rbee).
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// What is logged, such as `info` or `info,router=debug`.
    #[arg(long, value_name = "FILTER", global = true)]
    log: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum RawCommand {
    /// Write the file by which systemd, or launchd on macOS, starts the queen with these options.
    #[command(args_conflicts_with_subcommands = true)]
    InstallService {
        /// For the machine instead of this user: /etc/systemd/system, /Library/LaunchDaemons.
        #[arg(long)]
        system: bool,
        /// The account that it runs as, with --system (default: whoever called sudo, else the current user).
        #[arg(long, value_name = "NAME", requires = "system")]
        account: Option<String>,
        /// Replace a file that differs.
        #[arg(long)]
        force: bool,
        /// Print the file instead of writing it.
        #[arg(long)]
        print: bool,
    },
}

/// What the program was called for.
pub(crate) enum Invocation {
    Run(Args),
    Install(Install),
    /// To print what was asked for: help, or the version.
    Answer(String),
    /// In a way that there is none; this says what is wrong with it.
    Wrong(String),
}

/// A call to run.
pub(crate) struct Args {
    pub(crate) flags: Flags,
    pub(crate) check_config: bool,
    pub(crate) keep_hives: bool,
}

/// A call to become a service.
pub(crate) struct Install {
    pub(crate) flags: Flags,
    pub(crate) system: bool,
    pub(crate) account: Option<String>,
    pub(crate) force: bool,
    pub(crate) print: bool,
}

impl Invocation {
    pub(crate) fn read() -> Self {
        Self::parse(std::env::args_os())
    }

    fn parse(args: impl IntoIterator<Item = OsString>) -> Self {
        let parsed = Raw::command().try_get_matches_from(args).and_then(|m| Raw::from_arg_matches(&m));
        match parsed {
            Ok(raw) => raw.into(),
            Err(error) => {
                let text = error.render().to_string().trim_end().to_owned();
                match error.kind() {
                    ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self::Answer(text),
                    _ => Self::Wrong(text),
                }
            }
        }
    }
}

impl From<Raw> for Invocation {
    fn from(raw: Raw) -> Self {
        let Raw { given: Given { config, listen, data_dir, log }, check_config, keep_hives, command } = raw;
        let flags = Flags { config, listen, data_dir, log_filter: log, ..Flags::default() };
        match command {
            None => Self::Run(Args { flags, check_config, keep_hives }),
            Some(RawCommand::InstallService { system, account, force, print }) => {
                Self::Install(Install { flags, system, account, force, print })
            }
        }
    }
}

/// The command line of a queen that is a service and has these flags, with paths that hold wherever it is started.
pub(crate) fn as_a_service(flags: &Flags) -> Vec<OsString> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or(path.clone()).into_os_string();
    let given = [
        ("--config", flags.config.as_ref().map(absolute)),
        ("--listen", flags.listen.as_ref().map(OsString::from)),
        ("--data-dir", flags.data_dir.as_ref().map(absolute)),
        ("--log", flags.log_filter.as_ref().map(OsString::from)),
    ];
    let given = given.into_iter().filter_map(|(flag, value)| Some([OsStr::new(flag).to_owned(), value?]));
    std::iter::once("--keep-hives".into()).chain(given.flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Invocation {
        Invocation::parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn a_service_is_started_with_the_options_that_it_was_installed_with() {
        let Invocation::Install(install) =
            parse("queen-rbee install-service --listen 127.0.0.1:9000 --data-dir /srv/queen --force")
        else {
            panic!("it is no installation");
        };
        assert!(install.force && !install.system);
        let line = as_a_service(&install.flags);
        assert_eq!(line, ["--keep-hives", "--listen", "127.0.0.1:9000", "--data-dir", "/srv/queen"]);
        let line = line.iter().map(|word| word.to_string_lossy());
        let Invocation::Run(args) =
            parse(&line.fold("queen-rbee".to_owned(), |line, word| format!("{line} {word}")))
        else {
            panic!("it is not taken");
        };
        assert_eq!(args.flags, install.flags);
        assert!(args.keep_hives);
    }

    #[test]
    fn an_account_is_for_the_machines_service_only() {
        assert!(matches!(parse("queen-rbee install-service --account me"), Invocation::Wrong(_)));
        assert!(matches!(parse("queen-rbee install-service --system --account me"), Invocation::Install(_)));
    }
}

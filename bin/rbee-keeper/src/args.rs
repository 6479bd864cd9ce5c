//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use fleet::{Desired, HiveId, HiveMode, RequestId, StartPolicy, TlsFingerprint, WorkerId};
use ssh_lifecycle::Destination;

use crate::{
    enrol::{Attach, Wishes},
    place,
    run::Question,
};

/// What the program was called for.
pub(crate) enum Invocation {
    Run(Box<Args>),
    /// Help, or what is wrong with the call.
    Print {
        text: String,
        failure: bool,
    },
}

/// A call.
pub(crate) struct Args {
    pub(crate) place: place::Wishes,
    pub(crate) json: bool,
    pub(crate) command: Command,
}

/// What to do.
pub(crate) enum Command {
    Up,
    Down,
    Status,
    Hive(HiveCommand),
    Run(Question),
    Workers,
    Models,
    Why(RequestId),
    Pull { model: String, hive: Option<HiveId> },
    RemoveModel { model: String, hive: Option<HiveId> },
}

/// What to do with hives.
pub(crate) enum HiveCommand {
    Add(Box<Wishes>),
    List,
    Logs { id: HiveId, worker: Option<WorkerId>, lines: usize },
    Desire { id: HiveId, desired: Desired, wait: bool },
    Remove { id: HiveId, purge: bool },
}

/// Makes your machines one inference service: one URL, any OpenAI client.
#[derive(Debug, Parser)]
#[command(name = "rbee", version, arg_required_else_help = true, subcommand_required = true)]
struct Raw {
    /// Address of the queen (default: RBEE_QUEEN, else that of this user's queen on this machine)
    #[arg(long, value_name = "URL", global = true, display_order = 900)]
    queen: Option<String>,
    /// File with the queen's token (default: QUEEN_RBEE_TOKEN, else what the queen's configuration names)
    #[arg(long, value_name = "FILE", global = true, display_order = 901)]
    token_file: Option<PathBuf>,
    /// The queen's configuration file (default: that of this user)
    #[arg(long, value_name = "FILE", global = true, display_order = 902)]
    config: Option<PathBuf>,
    /// The queen's data directory (default: that of this user)
    #[arg(long, value_name = "DIR", global = true, display_order = 903)]
    data_dir: Option<PathBuf>,
    /// JSON instead of text on standard output
    #[arg(long, global = true, display_order = 904)]
    json: bool,
    #[command(subcommand)]
    command: RawCommand,
}

#[derive(Debug, Subcommand)]
enum RawCommand {
    /// Start a queen on this machine, unless one runs
    Up,
    /// Stop the queen, its hives and their workers
    Down,
    /// Show the queen, hives, workers and models
    Status,
    /// Add, look at, start, stop and remove hives
    #[command(subcommand, arg_required_else_help = true)]
    Hive(RawHive),
    /// Ask a model; the answer goes to standard output as it comes
    Run(RawRun),
    /// Show the workers
    Ps,
    /// Show the models, and where they are
    Models,
    /// Show why a request went where it went
    Why {
        /// The request's name, as in the answer's `x-request-id`
        id: RequestId,
    },
    /// Bring a model to a hive
    Pull(RawModel),
    /// Remove a model's files
    Rm(RawModel),
}

#[derive(Debug, Subcommand)]
enum RawHive {
    /// Make a machine part of the fleet
    Add(Box<RawAdd>),
    /// Show the hives
    List,
    /// Show the last lines of a hive's log
    Logs {
        /// The hive
        id: HiveId,
        /// How many lines
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        lines: usize,
        /// The log of this worker of the hive instead
        #[arg(long, value_name = "ID")]
        worker: Option<WorkerId>,
    },
    /// Have a hive run and take work
    Start(RawOne),
    /// Have a hive stop; its workers finish what they have first
    Stop(RawOne),
    /// Give a hive no more work; it finishes what it has
    Drain(RawOne),
    /// Have the machine to yourself now: stop its workers at once and start none until `resume`
    Pause(RawOne),
    /// Give a paused hive work again
    Resume(RawOne),
    /// Stop a hive and forget it
    Rm {
        /// The hive
        id: HiveId,
        /// Remove everything of it from its machine too, models included
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Debug, ClapArgs)]
struct RawModel {
    /// A model reference or an alias
    model: String,
    /// This hive (default: for `pull` where a worker would go, for `rm` all)
    #[arg(long, value_name = "ID")]
    hive: Option<HiveId>,
}

#[derive(Debug, ClapArgs)]
struct RawOne {
    /// The hive
    id: HiveId,
    /// Do not wait until it is so
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, ClapArgs)]
struct RawAdd {
    /// The machine, as `ssh` takes it: user@host, or host; the port of its SSH server may follow
    #[arg(value_name = "[USER@]HOST[:PORT]")]
    machine: Destination,
    /// Name of the hive (default: the host's; `local` for this machine)
    #[arg(long)]
    id: Option<HiveId>,
    /// Port that the hive listens on (default 7835)
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Port of the SSH server (default: ~/.ssh/config, else 22)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ssh_port: Option<u16>,
    /// Private key file, on the queen's machine (default: ~/.ssh/config, the agent, the usual files)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How the queen reaches it (default: told from the host; network where a login is named)
    #[arg(long, value_name = "local|network", value_parser = mode)]
    mode: Option<HiveMode>,
    /// Where the machine stands, as you call it
    #[arg(long)]
    region: Option<String>,
    /// A word for choosing hives; may be given several times
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Start the hive only when a request needs it, and stop it again once it was idle
    #[arg(long, conflicts_with = "attach")]
    on_demand: bool,
    /// Use a hive that runs there already, and never start or stop it
    #[arg(long, requires = "hive_token_file", conflicts_with_all = ["ssh_port", "key"])]
    attach: bool,
    /// File with that hive's token: the file `token` of its data directory
    #[arg(long, value_name = "FILE", requires = "attach")]
    hive_token_file: Option<PathBuf>,
    /// Fingerprint of that hive's certificate, as it says it when it starts; without it plain HTTP is spoken
    #[arg(long, value_name = "SHA256", requires = "attach")]
    tls_fingerprint: Option<TlsFingerprint>,
    /// Do not wait until the hive is online
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, ClapArgs)]
struct RawRun {
    /// A model reference or an alias
    model: String,
    /// The text to go on from, as it is; standard input without it, or with `-`
    prompt: Option<String>,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: u32,
    /// 0 is greedy (default: the engine's)
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Sample among the likeliest tokens that make up this part, 0 to 1
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Sample among this many likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// For an answer that can be had again
    #[arg(long)]
    seed: Option<u64>,
    /// Say nothing but the answer
    #[arg(short, long)]
    quiet: bool,
}

fn mode(text: &str) -> Result<HiveMode, String> {
    let modes = [HiveMode::Local, HiveMode::Network];
    modes.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| "write local or network".to_owned())
}

pub(crate) fn read() -> Invocation {
    parse(std::env::args_os())
}

fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Invocation {
    let parsed = Raw::command().try_get_matches_from(args).and_then(|m| Raw::from_arg_matches(&m));
    match parsed {
        Ok(raw) => Invocation::Run(Box::new(raw.into())),
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            Invocation::Print { text: error.render().to_string(), failure: !asked }
        }
    }
}

impl From<Raw> for Args {
    fn from(raw: Raw) -> Self {
        let Raw { queen, token_file, config, data_dir, json, command } = raw;
        let command = match command {
            RawCommand::Up => Command::Up,
            RawCommand::Down => Command::Down,
            RawCommand::Status => Command::Status,
            RawCommand::Hive(hive) => Command::Hive(hive.into()),
            RawCommand::Run(run) => Command::Run(run.into()),
            RawCommand::Ps => Command::Workers,
            RawCommand::Models => Command::Models,
            RawCommand::Why { id } => Command::Why(id),
            RawCommand::Pull(RawModel { model, hive }) => Command::Pull { model, hive },
            RawCommand::Rm(RawModel { model, hive }) => Command::RemoveModel { model, hive },
        };
        Self { place: place::Wishes { queen, token_file, config, data_dir }, json, command }
    }
}

impl From<RawHive> for HiveCommand {
    fn from(raw: RawHive) -> Self {
        let desire = |one: RawOne, desired| Self::Desire { id: one.id, desired, wait: !one.no_wait };
        match raw {
            RawHive::Add(add) => Self::Add(Box::new((*add).into())),
            RawHive::List => Self::List,
            RawHive::Logs { id, lines, worker } => Self::Logs { id, worker, lines },
            RawHive::Start(one) => desire(one, Desired::Running),
            RawHive::Stop(one) => desire(one, Desired::Stopped),
            RawHive::Drain(one) => desire(one, Desired::Drained),
            RawHive::Pause(one) => desire(one, Desired::Paused),
            RawHive::Resume(one) => desire(one, Desired::Running),
            RawHive::Rm { id, purge } => Self::Remove { id, purge },
        }
    }
}

impl From<RawAdd> for Wishes {
    fn from(raw: RawAdd) -> Self {
        let mut machine = raw.machine;
        machine.port = raw.ssh_port.or(machine.port);
        machine.key_path = raw.key;
        let attach = raw.hive_token_file.map(|token_file| Attach { token_file, pin: raw.tls_fingerprint });
        let (id, port, region, labels) = (raw.id, raw.port, raw.region, raw.labels);
        // Behind a port of this machine's may lie another one: whoever says how to log in means that.
        let logs_in = machine.user.is_some() || machine.port.is_some() || machine.key_path.is_some();
        let mode = raw.mode.or((logs_in && attach.is_none()).then_some(HiveMode::Network));
        let start = if raw.on_demand { StartPolicy::OnDemand } else { StartPolicy::Always };
        Self { machine, id, port, mode, region, labels, start, attach, wait: !raw.no_wait }
    }
}

impl From<RawRun> for Question {
    fn from(raw: RawRun) -> Self {
        let RawRun { model, prompt, max_tokens, temperature, top_p, top_k, seed, quiet } = raw;
        Self { model, prompt, max_tokens, temperature, top_p, top_k, seed, quiet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        match parse(line.split(' ').map(Into::into)) {
            Invocation::Print { text, .. } => text,
            Invocation::Run(_) => panic!("{line} was taken"),
        }
    }

    #[test]
    fn help_says_what_there_is() {
        insta::assert_snapshot!("help", shown("rbee --help"));
        insta::assert_snapshot!("help_hive_add", shown("rbee hive add --help"));
        insta::assert_snapshot!("help_run", shown("rbee run --help"));
    }

    #[test]
    fn whoever_says_how_to_log_in_means_another_machine() {
        let mode = |line: &str| match parse(line.split(' ').map(Into::into)) {
            Invocation::Run(args) => match args.command {
                Command::Hive(HiveCommand::Add(wishes)) => wishes.mode,
                _ => panic!("{line} is another command"),
            },
            Invocation::Print { text, .. } => panic!("{text}"),
        };
        assert_eq!(mode("rbee hive add localhost"), None);
        assert_eq!(mode("rbee hive add me@localhost"), Some(HiveMode::Network));
        assert_eq!(mode("rbee hive add 127.0.0.1:2222"), Some(HiveMode::Network));
        assert_eq!(mode("rbee hive add me@localhost --mode local"), Some(HiveMode::Local));
    }

    #[test]
    fn a_wrong_call_is_told_what_is_wrong() {
        let calls = [
            "rbee hive add",
            "rbee hive add a;b",
            "rbee hive add box --port 0",
            "rbee hive add box --mode remote",
            "rbee hive add box --attach",
            "rbee hive add box --attach --hive-token-file t --key k",
            "rbee hive logs a/b",
            "rbee statu",
        ];
        let told: Vec<_> = calls.iter().map(|call| format!("$ {call}\n{}", shown(call))).collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}

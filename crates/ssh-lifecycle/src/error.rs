//! Why a machine could not be used, with what to do about it.

mod disk;
mod words;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use engine_store::EngineError;
use fleet::{HiveExit, HiveId, Hostname, LaunchError, LaunchStage};

pub use self::disk::Disk;
use self::words::{ending, file, help, list, offered, only, quoted, seconds};
use crate::{BundleError, DestinationError, HostKey, KeyFault, Place, RemoteUser};

/// Why something could not be done on another machine. Every text names the host and ends with what helps, where somebody can help.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// What was registered names no machine.
    #[error("the connection data of {host} cannot be used")]
    Destination {
        /// The host.
        host: Hostname,
        /// Which part.
        #[source]
        source: DestinationError,
    },
    /// ssh's configuration cannot be used.
    #[error("ssh's configuration for {host} cannot be used: {reason}")]
    Config {
        /// The host.
        host: Hostname,
        /// Why, in ssh's words or ours.
        reason: String,
    },
    /// ssh's configuration asks for a way that cannot be gone.
    #[error(
        "ssh's configuration sets `{option} {value}` for {host}, which is not supported: register an address that this machine reaches directly, or take it out for this host"
    )]
    Unsupported {
        /// The host.
        host: Hostname,
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// The name has no address.
    #[error("{host} has no address ({reason}): check its name, or register its IP address")]
    Resolve {
        /// The host.
        host: Hostname,
        /// The resolver's reason.
        reason: String,
    },
    /// Nothing accepts connections there.
    #[error("nothing answers at {} ({reason}): is the machine on, and its SSH server running?", host.with_port(*port))]
    Connect {
        /// The host.
        host: Hostname,
        /// The SSH port.
        port: u16,
        /// Why, for the last address that was tried.
        reason: String,
    },
    /// Something accepts connections there and is no SSH server that we agree with.
    #[error("no SSH session with {}: {reason}", host.with_port(*port))]
    Handshake {
        /// The host.
        host: Hostname,
        /// The SSH port.
        port: u16,
        /// libssh2's reason.
        reason: String,
    },
    /// Nobody accepted its host key yet.
    #[error(
        "the host key of {} is not known{}; it shows {} ({}). If that is right, accept it with\n  {accept}",
        host.with_port(*port), only(.other_kinds), key.fingerprint(), key.kind()
    )]
    HostKeyUnknown {
        /// The host.
        host: Hostname,
        /// The SSH port.
        port: u16,
        /// What it showed.
        key: HostKey,
        /// Kinds of key that it is known by.
        other_kinds: Vec<String>,
        /// The command that accepts it.
        accept: String,
    },
    /// It is known by another key.
    #[error(
        "the host key of {} has changed: it shows {} ({}), and another one stands in {at}. Either the machine was set up anew, or \
         somebody sits in between. Nothing was sent. If you know that it was set up anew, remove the old key there",
        host.with_port(*port), key.fingerprint(), key.kind()
    )]
    HostKeyChanged {
        /// The host.
        host: Hostname,
        /// The SSH port.
        port: u16,
        /// What it showed.
        key: HostKey,
        /// Where the other one stands.
        at: Place,
    },
    /// Its key was revoked.
    #[error("the host key of {} ({}) was revoked in {at}. Nothing was sent", host.with_port(*port), key.fingerprint())]
    HostKeyRevoked {
        /// The host.
        host: Hostname,
        /// The SSH port.
        port: u16,
        /// What it showed.
        key: HostKey,
        /// Where.
        at: Place,
    },
    /// The key file cannot be used.
    #[error("the key {} for {host} cannot be used: {fault}", file(.path))]
    Key {
        /// The host.
        host: Hostname,
        /// The file.
        path: PathBuf,
        /// Why.
        fault: KeyFault,
    },
    /// There is no key to try.
    #[error("there is no key to log in to {host} with: {}. Make one with `ssh-keygen -t ed25519`, bring it there with `ssh-copy-id {user}@{host}`, and name it as ssh_key", list(.looked, "no key file is configured"))]
    NoKey {
        /// The host.
        host: Hostname,
        /// The account.
        user: RemoteUser,
        /// What was looked at, with why it was none.
        looked: Vec<String>,
    },
    /// The server refused every key.
    #[error("{user}@{host} refused {}{}. Bring a key there with `ssh-copy-id -i KEY.pub {user}@{host}`", list(.tried, "the login"), offered(.offers))]
    Refused {
        /// The host.
        host: Hostname,
        /// The account.
        user: RemoteUser,
        /// What was tried.
        tried: Vec<String>,
        /// Ways to log in that the server offers.
        offers: String,
    },
    /// It stopped answering.
    #[error("{host} stopped answering: could not {doing} within {}", seconds(.within))]
    Stalled {
        /// The host.
        host: Hostname,
        /// What was being done.
        doing: &'static str,
        /// For how long nothing happened.
        within: Duration,
    },
    /// The connection ended.
    #[error("the connection to {host} was lost: could not {doing} ({reason})")]
    Lost {
        /// The host.
        host: Hostname,
        /// What was being done.
        doing: &'static str,
        /// Why.
        reason: String,
    },
    /// The login shell did not run what it was told to.
    #[error("{user}@{host} runs no commands: could not {doing}; the login shell {}. Commands over SSH need an account with a usual shell, whose start-up files end, and read nothing that is meant for commands", quoted(.said))]
    Shell {
        /// The host.
        host: Hostname,
        /// The account.
        user: RemoteUser,
        /// What was being done.
        doing: &'static str,
        /// What it said instead.
        said: String,
    },
    /// The login shell is there and does not come to what it was told to run.
    #[error("the login shell of {user}@{host} hangs: could not {doing}, for within {} it did not begin to. It runs a start-up file first (.bashrc, .zshrc, .profile or the like): one that waits for input or for another machine does this. Have it end at once where there is no terminal, with `[ -t 0 ] || return` as its first line", seconds(.within))]
    ShellHangs {
        /// The host.
        host: Hostname,
        /// The account.
        user: RemoteUser,
        /// What was to be done.
        doing: &'static str,
        /// For how long it was waited for.
        within: Duration,
    },
    /// A command failed there.
    #[error("could not {doing} on {host}: it ended with status {status} and {}", quoted(.said))]
    Failed {
        /// The host.
        host: Hostname,
        /// What was being done.
        doing: &'static str,
        /// Its exit status.
        status: i32,
        /// What it said last.
        said: String,
    },
    /// A command answered what it cannot have.
    #[error("could not {doing} on {host}: the answer has no sensible `{field}`")]
    Answer {
        /// The host.
        host: Hostname,
        /// What was being done.
        doing: &'static str,
        /// The part that is missing or wrong.
        field: &'static str,
    },
    /// A parameter that no command can carry.
    #[error("could not {doing} on {host}: a parameter holds a zero byte")]
    Parameter {
        /// The host.
        host: Hostname,
        /// What was being done.
        doing: &'static str,
    },
    /// The machine is of a kind that no hive runs on.
    #[error(
        "{host} is {system} on {arch}; hives run on Linux and macOS, on x86_64 and aarch64 (on Windows, in WSL2)"
    )]
    Machine {
        /// The host.
        host: Hostname,
        /// Its operating system, as `uname` says.
        system: String,
        /// Its architecture, as `uname` says.
        arch: String,
    },
    /// There is no hive for that kind of machine.
    #[error("nothing to bring to {host}")]
    Bundle {
        /// The host.
        host: Hostname,
        /// Why.
        #[source]
        source: BundleError,
    },
    /// An engine that should come along could not be had.
    #[error("the engine for {host} is not at hand")]
    Engine {
        /// The host.
        host: Hostname,
        /// Why.
        #[source]
        source: Arc<EngineError>,
    },
    /// The disk there refuses.
    #[error("{dir} on {host} cannot hold the hive: {disk}. Make room there, or choose another directory")]
    Disk {
        /// The host.
        host: Hostname,
        /// The directory.
        dir: String,
        /// Why.
        disk: Disk,
    },
    /// There is not enough room, which was found before anything was sent.
    #[error(
        "{dir} on {host} has {free} MB free, and the hive needs {need} MB. Make room there, or choose another directory"
    )]
    Room {
        /// The host.
        host: Hostname,
        /// The directory.
        dir: String,
        /// Free, in megabytes.
        free: u64,
        /// Needed, in megabytes.
        need: u64,
    },
    /// What arrived is not what was sent.
    #[error(
        "{file} arrived damaged on {host}: {bytes} bytes with SHA-256 {sha256}, which is not what was sent"
    )]
    Damaged {
        /// The host.
        host: Hostname,
        /// The file.
        file: String,
        /// Bytes that arrived.
        bytes: String,
        /// Their digest.
        sha256: String,
    },
    /// The program does not run there.
    #[error("the hive does not run on {host} ({system}): `rbee-hive --version` {}. Give a build for that machine", quoted(.said))]
    Smoke {
        /// The host.
        host: Hostname,
        /// What machine it is.
        system: String,
        /// What it said.
        said: String,
    },
    /// Another hive runs there.
    #[error(
        "on {host}, {dir} is in use by hive {by} (launch {launch}), so {wanted} was not started. The other one was left alone: stop it, or choose another directory"
    )]
    Occupied {
        /// The host.
        host: Hostname,
        /// The directory.
        dir: String,
        /// The hive that runs there.
        by: HiveId,
        /// Its launch.
        launch: String,
        /// The hive that was to be started.
        wanted: HiveId,
    },
    /// A hive runs there and was to be removed.
    #[error("hive {by} still runs on {host}: stop it first")]
    StillRuns {
        /// The host.
        host: Hostname,
        /// The hive.
        by: HiveId,
    },
    /// What is there is not ours to remove.
    #[error("{dir} on {host} does not look like a hive's directory, so nothing was removed")]
    NotOurs {
        /// The host.
        host: Hostname,
        /// The directory.
        dir: String,
    },
    /// The hive ended before it listened.
    #[error("the hive on {host} ended{} before it listened; its last lines:\n{}", ending(.exit), .exit.log_tail.join("\n"))]
    Exited {
        /// The host.
        host: Hostname,
        /// How.
        exit: HiveExit,
    },
    /// The hive did not listen in time.
    #[error("the hive on {host} did not listen within {}; its last lines:\n{}", seconds(.within), log_tail.join("\n"))]
    NotListening {
        /// The host.
        host: Hostname,
        /// How long it was given.
        within: Duration,
        /// Last lines of its log.
        log_tail: Vec<String>,
    },
    /// The hive listens, and its port cannot be reached from here.
    #[error("the hive was started on {host} and keeps running, but this machine cannot reach its port {port} ({reason}){}", help(.hint.as_deref()))]
    Unreachable {
        /// The host.
        host: Hostname,
        /// The hive's port.
        port: u16,
        /// What was seen.
        reason: String,
        /// What would help.
        hint: Option<String>,
    },
    /// A file of this machine could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file of this machine could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// This machine gives no thread or process.
    #[error("could not open a session with {host}: {reason}")]
    Own {
        /// The host.
        host: Hostname,
        /// The system's reason.
        reason: String,
    },
}

impl SshError {
    /// Whether the same attempt may succeed later without anybody doing anything here or there.
    #[must_use]
    pub fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Stalled { .. }
            | Self::ShellHangs { .. }
            | Self::Lost { .. }
            | Self::Failed { .. }
            | Self::Damaged { .. }
            | Self::Room { .. }
            | Self::Exited { .. }
            | Self::NotListening { .. }
            | Self::Unreachable { .. }
            | Self::StillRuns { .. }
            | Self::Own { .. } => true,
            Self::Engine { source, .. } => source.is_worth_a_retry(),
            // It began late on behalf of somebody who is gone, and whoever looks once more finds it.
            Self::Occupied { by, wanted, .. } => by == wanted,
            Self::Disk { disk, .. } => matches!(disk, Disk::Full | Disk::Quota),
            Self::Destination { .. }
            | Self::Config { .. }
            | Self::Unsupported { .. }
            | Self::HostKeyUnknown { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::Key { .. }
            | Self::NoKey { .. }
            | Self::Refused { .. }
            | Self::Shell { .. }
            | Self::Answer { .. }
            | Self::Parameter { .. }
            | Self::Machine { .. }
            | Self::Bundle { .. }
            | Self::Smoke { .. }
            | Self::NotOurs { .. }
            | Self::Read { .. }
            | Self::Write { .. } => false,
        }
    }

    /// As the launch of a hive tells it.
    pub(crate) fn at(self, hive_id: &HiveId, host: &Hostname, stage: LaunchStage) -> LaunchError {
        let hive_id = hive_id.clone();
        match self {
            Self::Exited { exit, .. } => LaunchError::Exited { hive_id, exit },
            Self::NotListening { within, log_tail, .. } => {
                LaunchError::NotListening { hive_id, within, log_tail }
            }
            error => LaunchError::Remote {
                hive_id,
                host: host.clone(),
                stage,
                retry: error.is_worth_a_retry(),
                source: Box::new(error),
            },
        }
    }
}

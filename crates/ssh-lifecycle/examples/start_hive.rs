//! Brings a hive to a machine and starts it there: `start_hive [user@]host[:port] [--hive FILE] [--key FILE] [--dir DIR] [--stop]`.
//!
//! It needs nothing else of queen-rbee but the program `rbee-hive`. It asks once about a host that nobody knows, shows how far
//! it is, and ends with how to talk to the hive. With `--stop` it ends the hive again and removes everything from there.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use fleet::{
    HiveLauncher, HiveMode, HiveSpec, LaunchId, LaunchObserver, LaunchOrder, LaunchProgress, ProcessIdentity,
    SshTarget, StoreError, Target,
};
use ssh_lifecycle::{Destination, Settings, SshLauncher, Verdict, host_key, remember_host_key};

const USAGE: &str = "usage: start_hive [user@]host[:port] [--hive FILE] [--key FILE] [--dir DIR] [--stop]";

/// What the command line says.
struct Asked {
    destination: Destination,
    settings: Settings,
    stops: bool,
}

fn asked(args: Vec<String>) -> anyhow::Result<Asked> {
    let mut args = args.into_iter();
    let first = args.next().context("no host is named")?;
    if first.starts_with('-') {
        bail!("the host comes first, not {first}");
    }
    let mut destination: Destination = first.parse()?;
    let (mut settings, mut stops) = (Settings::default(), false);
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--hive" => drop(settings.binaries.insert(Target::own(), PathBuf::from(value()?))),
            "--key" => destination.key_path = Some(value()?.into()),
            "--dir" => settings.dir = value()?.parse()?,
            // A hive on loopback serves without TLS, for trying it out on one machine.
            "--listen" => settings.listen = value()?.parse()?,
            "--known-hosts" => settings.known_hosts = Some(vec![value()?.into()]),
            "--stop" => stops = true,
            _ => bail!("{flag} is unknown"),
        }
    }
    Ok(Asked { destination, settings, stops })
}

/// Draws a bar where somebody looks, and writes a line per step where not.
struct Bar {
    draws: bool,
}

#[async_trait]
impl LaunchObserver for Bar {
    fn progress(&self, _launch: &LaunchId, progress: LaunchProgress) {
        let LaunchProgress { stage, detail, bytes, total } = progress;
        let detail = detail.unwrap_or_default();
        let mut err = std::io::stderr().lock();
        let shown = match (bytes, total) {
            (Some(bytes), Some(total)) if self.draws => {
                let share = usize::try_from(bytes * 30 / total.max(1)).unwrap_or(30);
                let (done, left) = ("█".repeat(share), "░".repeat(30 - share));
                write!(err, "\r{stage:?} {detail} {done}{left} {:.1} of {:.1} MB", mega(bytes), mega(total))
                    .and_then(|()| if bytes == total { writeln!(err) } else { err.flush() })
            }
            (Some(bytes), Some(total)) if bytes < total => Ok(()),
            _ => writeln!(err, "{stage:?} {detail}"),
        };
        // Nobody looks.
        let _ = shown;
    }

    async fn spawned(&self, _: &LaunchId, process: &ProcessIdentity) -> Result<(), StoreError> {
        let _ = writeln!(std::io::stderr(), "the hive is process {}", process.pid);
        Ok(())
    }
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Asks about a key that nobody knows, as ssh does.
async fn meet(asked: &Asked) -> anyhow::Result<()> {
    let (key, verdict) = host_key(&asked.destination, &asked.settings).await?;
    if let Verdict::Unknown { .. } = verdict
        && std::io::stdin().is_terminal()
    {
        let mut err = std::io::stderr();
        write!(
            err,
            "{} shows {} ({}). Is it the right one? [y/N] ",
            asked.destination.host,
            key.fingerprint(),
            key.kind()
        )?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() == "y" {
            let file = remember_host_key(&asked.destination, &asked.settings, &key).await?;
            writeln!(err, "added to {}", file.display())?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() || args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return told(writeln!(std::io::stdout(), "{USAGE}").map_err(Into::into), 1);
    }
    match asked(args) {
        Ok(asked) => told(start_or_stop(&asked).await, 1),
        // As sysexits.h has it for a command line that is none.
        Err(error) => told(Err(anyhow::anyhow!("{error:#}\n{USAGE}")), 64),
    }
}

/// Says how it failed, if it did, in one line: an error with its causes.
fn told(outcome: anyhow::Result<()>, code: u8) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}

async fn start_or_stop(asked: &Asked) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    meet(asked).await?;
    let launcher = SshLauncher::new(asked.settings.clone())?;
    let Destination { host, user, port, key_path, .. } = asked.destination.clone();
    let ssh = SshTarget { user: user.map(|user| user.to_string()), port, key_path, host_key: None };
    let spec = HiveSpec { mode: HiveMode::Network, ssh, ..HiveSpec::local("example".parse()?, host, 0) };
    if asked.stops {
        if let Some(running) = launcher.discover(&spec).await? {
            writeln!(out, "{} processes ended", launcher.kill(&spec, &running).await?)?;
        }
        launcher.purge(&asked.destination).await?;
        return Ok(());
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let order = LaunchOrder { spec, launch_id: format!("l-{}", &token[..8]).parse()?, token: token.parse()? };
    let observer = Arc::new(Bar { draws: std::io::stderr().is_terminal() });
    let running = launcher.launch(&order, observer).await?;
    let host = order.spec.hostname.with_port(running.port);
    writeln!(out, "the hive listens at {host}, its launch is {}, its token {token}", running.launch_id)?;
    if let Some(pin) = running.tls_fingerprint {
        writeln!(out, "its certificate is {pin}")?;
    }
    Ok(())
}

//! The program: a real hive's command line around a fake hive.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use fleet::{HiveCommand, HiveId, Invocation, SecretSource, Token};
use hive_api::SecretLine;
use http_serve::{Limits, Server, Shutdown};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::{FakeHive, Options, Script, control, secret::random_token};

/// Where a test reads the control port, and whose it is: `{"port":N,"pid":N}`.
const CONTROL_FILE: &str = "control.json";

/// The script that the program starts with, in its data directory, unless `FAKE_HIVE_SCRIPT` names another file.
const SCRIPT_FILE: &str = "script.json";

/// Wrong usage, as in `sysexits.h`.
const USAGE: u8 = 64;

/// It could not listen.
const UNAVAILABLE: u8 = 69;

/// Another hive holds the data directory.
const LOCKED: u8 = 73;

/// The secret did not come, or is none.
const CONFIGURATION: u8 = 78;

/// Runs the program with the arguments that follow its name.
///
/// The environment may name the control port (`FAKE_HIVE_CONTROL_PORT`), the address that it is opened on
/// (`FAKE_HIVE_CONTROL_HOST`, loopback if absent) and the first script (`FAKE_HIVE_SCRIPT`, a file), and ask for TLS on
/// loopback, too (`FAKE_HIVE_TLS`).
pub fn run(args: &[String]) -> ExitCode {
    let command = match Invocation::parse(args) {
        Ok(Invocation::Run(command)) => command,
        Ok(Invocation::Help) => return say(HiveCommand::USAGE),
        Ok(Invocation::Version) => return say(concat!("rbee-hive ", env!("CARGO_PKG_VERSION"), " (fake)\n")),
        // Its workers are no processes, so there is never one left behind to end.
        Ok(Invocation::Reap { .. }) => return say("0\n"),
        Err(error) => return complain(&error.to_string(), USAGE),
    };
    match hive(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => complain(&format!("{error:#}"), 1),
    }
}

fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    // Nobody may be listening, and the code says it too.
    let _ = writeln!(io::stderr(), "fake-hive: {text}");
    ExitCode::from(code)
}

fn hive(command: HiveCommand) -> anyhow::Result<u8> {
    let data_dir = match &command.data_dir {
        Some(dir) => dir.clone(),
        None => default_data_dir()?,
    };
    fs::create_dir_all(&data_dir).with_context(|| format!("could not make {}", data_dir.display()))?;
    // Before anything else: two hives of one directory would each undo what the other does.
    let lock_path = data_dir.join("hive.lock");
    let lock =
        fs::File::create(&lock_path).with_context(|| format!("could not open {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        complain(&format!("another hive holds {}", lock_path.display()), LOCKED);
        return Ok(LOCKED);
    }
    let script = first_script(&data_dir)?;
    for line in &script.start.says {
        writeln!(io::stderr(), "{line}")?;
    }
    if let Some(code) = script.start.exit {
        return Ok(code);
    }
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let runtime = tokio::runtime::Runtime::new().context("could not start the runtime")?;
    let code = runtime.block_on(serve(command, data_dir, script));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(lock);
    code
}

fn default_data_dir() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").context("no --data-dir and no HOME")?;
    Ok(Path::new(&home).join(".local/share/fake-hive"))
}

fn first_script(data_dir: &Path) -> anyhow::Result<Script> {
    let named = std::env::var_os("FAKE_HIVE_SCRIPT").map(PathBuf::from);
    let path = match named {
        Some(path) => path,
        None if data_dir.join(SCRIPT_FILE).exists() => data_dir.join(SCRIPT_FILE),
        None => return Ok(Script::default()),
    };
    let text = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
    let patch = serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    Script::default().with(&patch).with_context(|| format!("{}", path.display()))
}

fn token(command: &HiveCommand, data_dir: &Path) -> anyhow::Result<Token> {
    match &command.secret {
        SecretSource::OwnToken => own_token(&data_dir.join("token")),
        SecretSource::Stdin => {
            let mut line = String::new();
            io::stdin().read_line(&mut line).context("could not read the secret line")?;
            Ok(SecretLine::parse(&line)?.token)
        }
        SecretSource::File(path) => {
            let text =
                fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
            fs::remove_file(path).with_context(|| format!("could not remove {}", path.display()))?;
            Ok(SecretLine::parse(&text)?.token)
        }
    }
}

/// A new token for each start by hand, as a hive makes one.
fn own_token(path: &Path) -> anyhow::Result<Token> {
    let token = random_token()?;
    durable_file::replace(path, format!("{}\n", token.reveal()).as_bytes())?;
    Ok(token)
}

fn hive_id(command: &HiveCommand) -> HiveId {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fallback = || "fake".parse().unwrap_or_else(|_| unreachable!("letters only"));
    command.hive_id.clone().unwrap_or_else(|| name.trim().parse().unwrap_or_else(|_| fallback()))
}

async fn serve(command: HiveCommand, data_dir: PathBuf, script: Script) -> anyhow::Result<u8> {
    let token = match token(&command, &data_dir) {
        Ok(token) => token,
        Err(error) => {
            complain(&format!("{error:#}"), CONFIGURATION);
            return Ok(CONFIGURATION);
        }
    };
    let mut addresses = (command.host.as_str(), command.port)
        .to_socket_addrs()
        .with_context(|| format!("could not find the address of {}", command.host))?;
    let Some(listen) = addresses.next() else { bail!("{} has no address", command.host) };
    let (ignore_term, wait) = (script.stop.ignore_term, script.start.listen_after_ms);
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let options = Options {
        hive_id: hive_id(&command),
        launch_id: command.launch_id.clone(),
        token: Some(token),
        listen,
        tls: !listen.ip().to_canonical().is_loopback() && !command.plain_http
            || std::env::var_os("FAKE_HIVE_TLS").is_some(),
        data_dir: Some(data_dir.clone()),
    };
    let fake = match FakeHive::start(script, options).await {
        Ok(fake) => fake,
        Err(error) => {
            complain(&format!("could not listen on {listen}: {error}"), UNAVAILABLE);
            return Ok(UNAVAILABLE);
        }
    };
    let tasks = TaskTracker::new();
    let shutdown = control(&fake, &data_dir, &tasks)?;
    let code = loop {
        tokio::select! {
            code = fake.ended() => break code,
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        if !ignore_term && !fake.current_script().stop.ignore_term {
            fake.core().shut_down_by_signal();
        }
    };
    shutdown.now();
    fake.stop().await;
    tasks.close();
    tasks.wait().await;
    Ok(code)
}

/// Opens the control port and writes down which one it is.
fn control(fake: &FakeHive, data_dir: &Path, tasks: &TaskTracker) -> anyhow::Result<Shutdown> {
    let port = match std::env::var("FAKE_HIVE_CONTROL_PORT") {
        Ok(port) => port.parse().with_context(|| format!("FAKE_HIVE_CONTROL_PORT={port:?} is no port"))?,
        Err(_) => 0,
    };
    let host = match std::env::var("FAKE_HIVE_CONTROL_HOST") {
        Ok(host) => host.parse().with_context(|| format!("FAKE_HIVE_CONTROL_HOST={host:?} is no address"))?,
        Err(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let address = SocketAddr::new(host, port);
    let listener =
        http_serve::bind(address).with_context(|| format!("could not open the control port {address}"))?;
    let port = listener.local_addr()?.port();
    let found = format!("{{\"port\":{port},\"pid\":{}}}\n", std::process::id());
    durable_file::replace(&data_dir.join(CONTROL_FILE), found.as_bytes())?;
    let shutdown = Shutdown::default();
    let server = Server::new(listener, control::router(fake.core().clone()), Limits::default())
        .with_shutdown(shutdown.clone(), Duration::ZERO);
    tasks.spawn(server.run());
    Ok(shutdown)
}

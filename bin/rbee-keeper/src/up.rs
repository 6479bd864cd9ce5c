//! Starting a queen on this machine.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use process::{Child, Environment, Exit, LogFile, Program};
use queen_api::ReadyState;
use queen_client::{ClientErrorKind, QueenClient};
use serde_json::json;

use crate::{failure::Failure, place::Place, screen::Screen};

const PROGRAM: &str = "queen-rbee";

/// How long a queen may take until it is ready.
const READY: Duration = Duration::from_secs(60);

/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(20);

/// Lines of its log that are shown when it does not start.
const LOG_LINES: usize = 12;

pub(crate) async fn run(place: &Place, screen: &Screen) -> Result<(), Failure> {
    if let Some(version) = running(&place.client).await? {
        return already(place, &version, screen);
    }
    if place.here().is_none() {
        let told = "a queen can be started on this machine only; run `rbee up` there, or leave out --queen and RBEE_QUEEN";
        return Err(Failure::Told(format!("no queen answers at {}; {told}", place.client.address())));
    }
    let config = place.configuration()?;
    durable_file::create_private_directory(&config.data_dir).map_err(|error| {
        Failure::Told(format!("could not make the data directory {}: {error}", config.data_dir.display()))
    })?;
    let _turn = turn(&config.data_dir).await?;
    // Whoever had the turn before may have started one.
    match running(&place.client).await? {
        Some(version) => already(place, &version, screen),
        None => start(place, &config.data_dir.join("queen.log"), screen).await,
    }
}

/// The version of the queen that answers; none if nobody does.
async fn running(queen: &QueenClient) -> Result<Option<String>, Failure> {
    match queen.health().await {
        Ok(health) => Ok(Some(health.version)),
        Err(error) if matches!(error.kind, ClientErrorKind::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn already(place: &Place, version: &str, screen: &Screen) -> Result<(), Failure> {
    let url = place.client.address();
    let told = || format!("a queen runs already at {url} (queen-rbee {version})");
    screen.show(told, &json!({ "state": "running", "url": url, "version": version }))
}

/// Waits until no other `rbee up` starts a queen over this data; holds for as long as the file is open.
async fn turn(data_dir: &Path) -> Result<File, Failure> {
    let path = data_dir.join("up.lock");
    let failed = |error: std::io::Error| Failure::Told(format!("could not lock {}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let waiting = async {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK).await,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    };
    let turn = tokio::time::timeout(READY, waiting).await;
    turn.unwrap_or_else(|_| Err(Failure::Told(format!("another `rbee up` holds {}", path.display()))))?;
    Ok(file)
}

async fn start(place: &Place, log: &Path, screen: &Screen) -> Result<(), Failure> {
    let path = find(std::env::current_exe().ok(), std::env::var_os("PATH").unwrap_or_default())?;
    let before = log.metadata().map_or(0, |metadata| metadata.len());
    let environment = Environment::inherited()
        .inherit_prefix("QUEEN_RBEE_")
        .inherit_prefix("RBEE_HIVE_")
        .inherit_prefix("HF_")
        .inherit_prefix("SSH_AUTH_SOCK")
        .inherit_prefix("XDG_");
    let program = Program { path, args: place.arguments(), environment, log: LogFile::new(log) };
    let mut child = program.spawn().map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::Told(format!("{error}{cause}"))
    })?;
    let pid = child.identity().pid;
    screen.progress(&format!("starting {} (pid {pid})", program.path.display()));
    until_ready(&place.client, &mut child, log, before).await?;
    let queen = &place.client;
    let version = queen.health().await.map(|health| health.version).unwrap_or_default();
    let url = queen.address();
    let told = || {
        format!(
            "queen-rbee {version} runs at {url} (pid {pid}, log {})\n\n\
             rbee status                  how everything stands\n\
             rbee hive add user@host      another machine\n\
             rbee run MODEL \"prompt\"      ask a model, such as hf:owner/name\n\
             rbee down                    stop it all\n\n\
             OpenAI clients: base_url {url}/v1",
            log.display()
        )
    };
    screen.show(told, &json!({ "state": "started", "url": url, "version": version, "pid": pid, "log": log }))
}

/// Beside this program, then in `PATH`.
fn find(own: Option<PathBuf>, path: impl AsRef<std::ffi::OsStr>) -> Result<PathBuf, Failure> {
    let beside = own.as_deref().and_then(Path::parent).map(|folder| folder.join(PROGRAM));
    let in_path = std::env::split_paths(path.as_ref()).map(|folder| folder.join(PROGRAM));
    let places: Vec<_> = beside.into_iter().chain(in_path).collect();
    let found = places.iter().find(|place| {
        place.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    });
    found.cloned().ok_or_else(|| {
        let tried: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        let tried = tried.join(", ");
        Failure::Told(format!("no {PROGRAM} program to start: looked for {tried}; put it beside `rbee`"))
    })
}

/// Waits until the queen takes requests, or has ended.
async fn until_ready(queen: &QueenClient, child: &mut Child, log: &Path, before: u64) -> Result<(), Failure> {
    let ready = async {
        while !queen.ready().await.is_ok_and(|reply| reply.status == ReadyState::Ready) {
            tokio::time::sleep(LOOK).await;
        }
    };
    let ended = tokio::select! {
        () = ready => return Ok(()),
        exit = child.wait() => Some(exit.map_or(Exit { code: None, signal: None }, |exit| exit)),
        () = tokio::time::sleep(READY) => None,
    };
    let told = match ended {
        Some(Exit { code: Some(code), .. }) => {
            format!("the queen ended at its start with exit code {code}; it said:")
        }
        Some(_) => "the queen ended at its start; it said:".to_owned(),
        None => format!(
            "the queen runs (pid {}) and is not ready after {} s; it said:",
            child.identity().pid,
            READY.as_secs()
        ),
    };
    Err(Failure::Process { told, log: written_since(log, before) })
}

/// What came into the log since it was that long, at most its last lines.
fn written_since(log: &Path, before: u64) -> Vec<String> {
    let read = || {
        let mut file = File::open(log)?;
        let start = if file.metadata()?.len() < before { 0 } else { before };
        file.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        file.take(1 << 20).read_to_end(&mut text)?;
        std::io::Result::Ok(text)
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_beside_this_one_comes_first_and_what_is_missing_is_told() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let own = folders[0].path().join("rbee");
        let program = |at: usize| folders[at].path().join(PROGRAM);
        let put = |at: usize| {
            std::fs::write(program(at), "").unwrap();
            std::fs::set_permissions(program(at), PermissionsExt::from_mode(0o755)).unwrap();
        };
        let missing = find(Some(own.clone()), folders[1].path()).unwrap_err().to_string();
        for at in 0..2 {
            assert!(missing.contains(&program(at).display().to_string()), "{missing}");
        }
        put(1);
        assert_eq!(find(Some(own.clone()), folders[1].path()).unwrap(), program(1));
        put(0);
        assert_eq!(find(Some(own), folders[1].path()).unwrap(), program(0));
    }

    #[test]
    fn only_what_a_queen_said_at_this_start_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("queen.log");
        std::fs::write(&log, "of an earlier queen\n").unwrap();
        let before = log.metadata().unwrap().len();
        assert_eq!(written_since(&log, before), [""; 0]);
        std::fs::write(&log, "of an earlier queen\none\ntwo\n").unwrap();
        assert_eq!(written_since(&log, before), ["one", "two"]);
        std::fs::write(&log, "cut\n").unwrap();
        assert_eq!(written_since(&log, before), ["cut"]);
    }
}

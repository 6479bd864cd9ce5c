//! Stopping everything.

use std::{fs, path::Path, time::Duration};

use fleet::ProcessIdentity;
use hive_api::HiveFile;
use process::Process;
use queen_api::{HivesOnStop, ShutdownReply};
use queen_client::{ClientErrorKind, QueenClient};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::{failure::Failure, place::Place, screen::Screen};

/// How long the queen, its hives and their workers may take: more than the grace of each.
const STOP: Duration = Duration::from_secs(150);

/// How often it is said that it takes its time.
const TELL: Duration = Duration::from_secs(5);

/// Between two looks at a queen whose process is not on this machine.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn run(place: &Place, screen: &Screen) -> Result<(), Failure> {
    let (queen, began) = (&place.client, Instant::now());
    let url = queen.address();
    let reply = match queen.shutdown(HivesOnStop::Stop).await {
        Ok(reply) => reply,
        Err(error) if matches!(error.kind, ClientErrorKind::NotRunning { .. }) => {
            nothing_left(place)?;
            return screen
                .show(|| format!("no queen runs at {url}"), &json!({ "state": "not_running", "url": url }));
        }
        Err(error) => return Err(error.into()),
    };
    screen.progress("stopping: requests finish, then workers, hives and the queen end");
    let telling = async {
        loop {
            sleep(TELL).await;
            screen.progress(&format!(
                "still stopping: what runs may finish, {} s so far",
                began.elapsed().as_secs()
            ));
        }
    };
    let stopped = timeout(STOP, async {
        tokio::select! {
            () = ended(queen, &reply) => {}
            () = telling => {}
        }
    });
    let stopped = stopped.await;
    if stopped.is_err() {
        let pid = reply.process.map(|process| format!(" (pid {})", process.pid)).unwrap_or_default();
        let seconds = STOP.as_secs();
        return Err(Failure::Told(format!(
            "the queen at {url}{pid} still runs after {seconds} s; see its log"
        )));
    }
    if place.here().is_some() {
        nothing_left(place)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let told = || format!("the queen at {url} and everything it started ended after {seconds:.1} s");
    screen.show(told, &json!({ "state": "stopped", "url": url, "seconds": seconds }))
}

/// Ends when the queen's process has, or, where it is not on this machine, when nobody answers any more.
async fn ended(queen: &QueenClient, reply: &ShutdownReply) {
    if let Some(process) = reply.process.as_ref().filter(|process| process::is_alive(process)) {
        if let Ok(Some(process)) = Process::open(process) {
            process.exited().await;
        }
        return;
    }
    while queen.health().await.is_ok() {
        sleep(LOOK).await;
    }
}

/// A queen may have left hives for its successor, whose they are to stop.
fn nothing_left(place: &Place) -> Result<(), Failure> {
    // A configuration that cannot be read is the queen's to complain of.
    let Ok(config) = place.configuration() else { return Ok(()) };
    let left = living(&config.data_dir);
    if left.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = left.iter().map(|(hive, process)| format!("{hive} (pid {})", process.pid)).collect();
    let named = named.join(", ");
    Err(Failure::Told(format!(
        "no queen runs, and hives that one left behind do: {named}; `rbee up` takes them over, `rbee down` then stops them"
    )))
}

/// The hives of a queen's data directory that run.
fn living(data_dir: &Path) -> Vec<(String, ProcessIdentity)> {
    let folders = fs::read_dir(data_dir.join("hives")).into_iter().flatten().flatten();
    let files = folders.filter_map(|folder| fs::read_to_string(folder.path().join(HiveFile::NAME)).ok());
    let hives = files.filter_map(|text| HiveFile::parse(&text).ok());
    let living = hives.filter(|hive| process::is_alive(&hive.process));
    living.map(|hive| (hive.hive_id.to_string(), hive.process)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hives_that_run_are_told_from_those_that_left_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let us = process::own().unwrap();
        let gone = ProcessIdentity { start_time: us.start_time + 1, ..us.clone() };
        for (name, process) in [("a", &us), ("b", &gone)] {
            let hive = folder.path().join("hives").join(name);
            fs::create_dir_all(&hive).unwrap();
            let file = json!({
                "hive_id": name, "launch_id": "l-1", "pid": process.pid, "start_time": process.start_time,
                "boot_id": process.boot_id, "port": 7835, "version": "0.1.0"
            });
            fs::write(hive.join(HiveFile::NAME), file.to_string()).unwrap();
        }
        assert_eq!(living(folder.path()), [("a".to_owned(), us)]);
        assert_eq!(living(&folder.path().join("none")), []);
    }
}

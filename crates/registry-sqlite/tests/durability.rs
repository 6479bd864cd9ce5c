//! A store that is killed at any moment has every change that it acknowledged, and no half of one.
//!
//! The test starts itself as the process that is killed: one program, so that what is killed is what was just built.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use fleet::{HiveId, HiveRegistry, HiveSpec};
use registry_sqlite::SqliteStore;
use rusqlite::Connection;

const DIRECTORY: &str = "REGISTRY_SQLITE_DURABILITY_DIR";
const NAME: &str = "every_acknowledged_change_survives_kill_9";
const WRITERS: u16 = 3;
const HIVES_PER_WRITER: u16 = 5;

/// The change number `n` of a writer: which hive, and the port that it is registered with, or nothing if it is removed.
/// Ports grow, so that an old row that came back would show.
fn change(writer: u16, n: u16) -> (HiveId, Option<u16>) {
    let round = n / HIVES_PER_WRITER;
    let id = format!("w{writer}-h{}", n % HIVES_PER_WRITER).parse().expect("an id");
    (id, round.is_multiple_of(2).then_some(round + 1))
}

fn spec(id: HiveId, port: u16) -> HiveSpec {
    HiveSpec {
        source: fleet::HiveSource::Api,
        ..HiveSpec::local(id, "localhost".parse().expect("a host"), port)
    }
}

/// Changes hives until it is killed, and acknowledges each change after the store did.
fn write_until_killed(dir: &Path) {
    let store = Arc::new(SqliteStore::open(dir).expect("the database opens"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                // The hives of the run before are cleared first, so that each run's changes tell their outcome alone.
                for n in 0..HIVES_PER_WRITER {
                    store.remove(&change(writer, n).0).await.expect("removed");
                }
                for n in 0.. {
                    let (id, port) = change(writer, n);
                    match port {
                        Some(port) => drop(store.register(spec(id, port)).await.expect("registered")),
                        None => drop(store.remove(&id).await.expect("removed")),
                    }
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {writer} {n}").and_then(|()| out.flush()).expect("a reader");
                }
            });
        }
        writers.join_all().await;
    });
}

/// Starts the writers on `dir`, kills them after some acknowledgements and returns the last one of each.
fn killed_after(dir: &Path, acknowledgements: usize) -> BTreeMap<u16, u16> {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", NAME, "--nocapture"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut last = BTreeMap::new();
    let out = BufReader::new(child.stdout.take().expect("piped"));
    for (count, line) in out.lines().map_while(Result::ok).filter(|line| line.contains("ack ")).enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A line that the kill cut short acknowledges nothing.
        if let [.., "ack", writer, n] = words[..]
            && let (Ok(writer), Ok(n)) = (writer.parse(), n.parse())
        {
            last.insert(writer, n);
        }
        if count == acknowledgements {
            child.kill().expect("it ran until now");
        }
    }
    child.wait().expect("it ended");
    last
}

/// What the rows of one writer are after its changes up to and including `n`.
fn after(writer: u16, n: Option<u16>) -> BTreeMap<String, u16> {
    let mut rows = BTreeMap::new();
    for n in 0..n.map_or(0, |n| n + 1) {
        let (id, port) = change(writer, n);
        match port {
            Some(port) => rows.insert(id.to_string(), port),
            None => rows.remove(id.as_str()),
        };
    }
    rows
}

fn found(dir: &Path, writer: u16) -> BTreeMap<String, u16> {
    let db = Connection::open(dir.join("queen.db")).expect("it opens");
    let finding: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(finding, "ok");
    let mut statement = db.prepare("SELECT id, port FROM hives WHERE id LIKE ?1").expect("a statement");
    let rows = statement.query_map([format!("w{writer}-%")], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.expect("rows").collect::<Result<_, _>>().expect("readable rows")
}

#[test]
fn every_acknowledged_change_survives_kill_9() {
    if let Some(dir) = env::var_os(DIRECTORY) {
        return write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("a directory");
    for run in 0..20_usize {
        let last = killed_after(dir.path(), (run * 37) % 101);
        // Reopening by the store itself is part of the claim: it recovers, and its lock is free again at once.
        drop(SqliteStore::open(dir.path()).expect("the database opens after a kill"));
        for writer in 0..WRITERS {
            let Some(&acked) = last.get(&writer) else { continue };
            let rows = found(dir.path(), writer);
            // The one change that was under way may have been committed or not.
            let allowed = [after(writer, Some(acked)), after(writer, Some(acked + 1))];
            assert!(allowed.contains(&rows), "run {run}, writer {writer}, after {acked}: {rows:?}");
        }
    }
}

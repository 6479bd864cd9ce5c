//! Killing at system calls, and reading their order, through `strace`.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use process::Signal;
use registry_sqlite::aged;

use super::{History, Site, Writer};
use crate::{
    cluster::program::{Running, Start},
    strays,
};

/// What changes a file, or puts a change on disk.
const FILES: &str = "pwrite64,write,fdatasync,fsync,ftruncate,rename,renameat,renameat2,unlink,unlinkat";

/// What carries an answer.
const ANSWERS: &str = "sendto,sendmsg,writev";

/// Changes that each queen is asked for.
const CHANGES: usize = 7;

/// No queen comes to so many calls of one thread by so few changes.
const MOST: usize = 2000;

/// How long a queen that is traced may take for its changes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files whose writing is of interest.
const NAMES: &[&str] = &[
    "queen.db",
    "queen.db-wal",
    "queen.db-shm",
    "queen.key",
    "queen.key.new",
    "queen.db.new",
    "queen.db.new-wal",
];

/// Kills one queen after the other, at a later call each, until one lives through all its changes. Returns how many were
/// killed.
pub(super) async fn at_each(folder: &Path, every: usize) -> anyhow::Result<usize> {
    let mut killed = 0;
    for (kind, calls) in [("files", FILES), ("answers", ANSWERS)] {
        killed += until_one_lives(every, async |number| {
            let site = Site::new(&folder.join(format!("{kind}-{number}")))?;
            let mut options = killing_at(number, calls);
            if kind == "files" {
                options.extend(paths(&site.data_dir));
            }
            let lived = killed_at(&site, folder, &options).await;
            lived.with_context(|| format!("killed at call {number} of {calls}"))
        })
        .await?;
    }
    Ok(killed)
}

/// The same for queens that only have to bring a database of the first version up to date.
pub(super) async fn at_each_of_a_migration(folder: &Path, every: usize) -> anyhow::Result<usize> {
    until_one_lives(every, async |number| {
        let site = Site::new(&folder.join(format!("migration-{number}")))?;
        let lived = migration_killed_at(&site, folder, number).await;
        lived.with_context(|| format!("killed at call {number} that writes a database of the first version"))
    })
    .await
}

/// Goes from call to call until the queen that is to be killed there lives. Returns how many were killed.
async fn until_one_lives(
    every: usize,
    mut lives: impl AsyncFnMut(usize) -> anyhow::Result<bool>,
) -> anyhow::Result<usize> {
    for (killed, number) in (1..MOST).step_by(every).enumerate() {
        if lives(number).await? {
            ensure!(killed > 0, "no call was met");
            return Ok(killed);
        }
    }
    bail!("after {MOST} calls the queen still is not through")
}

fn killing_at(number: usize, calls: &str) -> Vec<String> {
    let inject = format!("inject={calls}:signal=KILL:when={number}");
    vec!["-e".to_owned(), format!("trace={calls}"), "-e".to_owned(), inject]
}

fn paths(data_dir: &Path) -> Vec<String> {
    NAMES.iter().flat_map(|name| ["-P".to_owned(), data_dir.join(name).display().to_string()]).collect()
}

fn traced(site: &Site, log: &Path, options: &[String]) -> Start {
    let mut start = Start::new("strace", log.with_extension("output"))
        .args(["-f", "-qq", "-y", "-s", "16", "-o"])
        .args([log.as_os_str()])
        .args(options.iter().map(String::as_str));
    start = start.args([site.start.path.as_os_str()]);
    start.args(site.start.args.iter().cloned())
}

/// One traced queen over an old database, and one afterwards that has every row of it. True if the first was ready.
async fn migration_killed_at(site: &Site, folder: &Path, number: usize) -> anyhow::Result<bool> {
    let failed = |error| anyhow::format_err!("{error}");
    let mut history = History::of(0);
    let mut queen = site.start.spawn()?;
    ensure!(site.until_ready(&queen).await?, "the queen ended:\n{}", queen.tail());
    let mut writer = Writer::new(&site.server, &mut history);
    for _ in 0..CHANGES {
        ensure!(writer.change().await, "a change was not acknowledged");
    }
    queen.kill().await?;
    aged::age(&site.data_dir, 1).map_err(failed)?;
    let (_, before) = aged::content(&site.data_dir).map_err(failed)?;
    let options = [killing_at(number, FILES), paths(&site.data_dir)].concat();
    let queen = traced(site, &folder.join("strace.log"), &options).spawn()?;
    let lived = site.until_ready(&queen).await?;
    end_traced(site, queen).await?;
    site.compare(&[history]).await?;
    let (version, after) = aged::content(&site.data_dir).map_err(failed)?;
    ensure!(version == aged::NEWEST, "the version is {version} in the end");
    ensure!(before.is_subset(&after), "rows are lost: {before:?} became {after:?}");
    Ok(lived)
}

/// strace ends with the queen; one that still runs has a queen to be ended.
async fn end_traced(site: &Site, mut queen: Running) -> anyhow::Result<()> {
    let left = strays::end(strays::below(&site.data_dir)).await;
    ensure!(left.is_empty(), "could not be ended: {left:?}");
    queen.ended(Duration::from_secs(10)).await.map(drop)
}

/// One traced queen with its changes, and one afterwards that tells what is left. True if the first lived through it.
async fn killed_at(site: &Site, folder: &Path, options: &[String]) -> anyhow::Result<bool> {
    let queen = traced(site, &folder.join("strace.log"), options).spawn()?;
    let mut history = History::of(0);
    let work = async {
        if !site.until_ready(&queen).await? {
            return Ok(false);
        }
        let mut writer = Writer::new(&site.server, &mut history);
        for _ in 0..CHANGES {
            if !writer.change().await {
                return Ok(false);
            }
        }
        anyhow::Ok(true)
    };
    let lived = tokio::time::timeout(PATIENCE, work).await.context("the changes hang")??;
    end_traced(site, queen).await?;
    site.compare(&[history]).await?;
    Ok(lived)
}

/// Reads the calls of a queen that is not killed: between two answers that acknowledge a change the log of the database
/// was synchronised, and before the first. Returns how many answers there were.
pub(super) async fn sync_precedes_answers(folder: &Path) -> anyhow::Result<usize> {
    let site = Site::new(&folder.join("order"))?;
    let log = folder.join("order.log");
    let options = ["-e".to_owned(), format!("trace=fdatasync,fsync,{ANSWERS},write")];
    let mut queen = traced(&site, &log, &options).spawn()?;
    ensure!(site.until_ready(&queen).await?, "the queen ended:\n{}", queen.tail());
    let mut history = History::of(0);
    let mut writer = Writer::new(&site.server, &mut history);
    for _ in 0..CHANGES {
        ensure!(writer.change().await, "a change was not acknowledged");
    }
    for stray in strays::below(&site.data_dir) {
        if let Some(process) = process::Process::open(&stray.identity)? {
            process.signal(Signal::TERM)?;
        }
    }
    queen.ended(Duration::from_secs(20)).await?;
    let calls = std::fs::read_to_string(&log).with_context(|| format!("could not read {}", log.display()))?;
    let order = order(&calls);
    ensure!(order.unsynced == 0, "{} answers went out before the disk was synchronised", order.unsynced);
    ensure!(order.synced >= CHANGES, "{} answers were seen of {CHANGES}", order.synced);
    Ok(order.synced)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    synced: usize,
    unsynced: usize,
}

/// What acknowledges a change: 201 for a new hive, 204 or 200 for a removed one. Answers of 200 to questions are told
/// apart by their place: changes come after the queen was ready, and nothing else is asked then.
fn order(calls: &str) -> Order {
    let mut order = Order::default();
    let mut synced = false;
    let mut changes = false;
    for call in calls.lines() {
        let ended = call.contains("= 0") && (call.contains("fdatasync") || call.contains("fsync"));
        if ended && (call.contains("queen.db-wal") || call.contains("resumed")) {
            synced = true;
        }
        let created = call.contains("HTTP/1.1 201");
        changes |= created;
        if created || (changes && call.contains("HTTP/1.1 20")) {
            if std::mem::take(&mut synced) {
                order.synced += 1;
            } else {
                order.unsynced += 1;
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_before_its_sync_is_seen() {
        let sync = "7 fdatasync(9</d/queen.db-wal>) = 0\n";
        let ready = "8 sendto(4<socket:[1]>, \"HTTP/1.1 200 OK\\r\\n\"..., 90, 0, NULL, 0) = 90\n";
        let created = "8 sendto(4<socket:[1]>, \"HTTP/1.1 201 Crea\"..., 90, 0, NULL, 0) = 90\n";
        let removed = "8 sendto(4<socket:[1]>, \"HTTP/1.1 204 No C\"..., 90, 0, NULL, 0) = 90\n";
        let good = [ready, sync, created, sync, removed].concat();
        assert_eq!(order(&good), Order { synced: 2, unsynced: 0 });
        assert_eq!(order(&[ready, created, sync, removed].concat()), Order { synced: 1, unsynced: 1 });
        assert_eq!(order(&[sync, created, removed].concat()), Order { synced: 1, unsynced: 1 });
    }
}

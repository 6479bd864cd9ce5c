//! Killing the queen while hives are registered: what she acknowledged is there afterwards, and nothing half.
//!
//! Four ways: at any moment (`kill -9` at random), at each system call that writes her database or an answer (`strace`
//! injects the signal), at each that brings the database of an older version up to date, and not at all, to see in the order
//! of the calls that the disk was synchronised before the answer went out. Each queen is the real program over a database of
//! its own; the history of what was asked and acknowledged is kept here.
//!
//! This is for the numbers, with a queen that has nothing else to do. That the same holds in a fleet at work, whose hives
//! are found again and serve, is the scenario `storage/killed_while_registering`, which also is what has to notice a queen
//! that acknowledges too early.

mod history;
mod syscalls;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures_util::future;

use self::history::{History, Writer};
use super::{
    api::{self, Server},
    fleet::mixed,
    program::{Running, Start},
};
use crate::{ports, programs::Profile, stop::Stop, strays, test::Counts, workspace};

/// Callers that register at the same time.
const WRITERS: usize = 4;

/// How long after its start the queen is killed at the latest. She is ready after a few tens of milliseconds.
const LATEST: Duration = Duration::from_millis(250);

/// How many kills one database lives through.
const KILLS_PER_DATABASE: usize = 20;

/// How long a queen may take until it is ready.
const READY: Duration = Duration::from_secs(20);

/// How many kills.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// At random moments.
    pub(crate) random: usize,
    /// Every how many-th call that writes.
    pub(crate) every: usize,
}

/// Runs all of them.
pub(crate) async fn run(counted: Counted, stop: &Stop) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let folder = workspace::target().join("kills");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let acked = stop.unless(at_random(&folder, counted.random)).await;
    println!("   {} kills at random: {}", counted.random, told(&acked, "acknowledged changes, none lost"));
    counts += counted_as(&acked);
    let points = stop.unless(syscalls::at_each(&folder, counted.every)).await;
    println!("   kills at calls that write: {}", told(&points, "of them, nothing lost"));
    counts += counted_as(&points);
    let upgrades = stop.unless(syscalls::at_each_of_a_migration(&folder, counted.every)).await;
    println!("   kills in a migration: {}", told(&upgrades, "at calls that write, nothing lost"));
    counts += counted_as(&upgrades);
    let order = stop.unless(syscalls::sync_precedes_answers(&folder)).await;
    println!("   the order of sync and answer: {}", told(&order, "registrations, each synchronised first"));
    counts += counted_as(&order);
    let left = strays::end(strays::below(&folder)).await;
    ensure!(left.is_empty(), "they left processes behind: {left:?}");
    if counts.failed == 0 {
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(counts)
}

fn told(outcome: &anyhow::Result<usize>, what: &str) -> String {
    match outcome {
        Ok(number) => format!("{number} {what}"),
        Err(error) => format!("FAILED: {error:#}"),
    }
}

fn counted_as(outcome: &anyhow::Result<usize>) -> Counts {
    if outcome.is_ok() { Counts::passed(1) } else { Counts::FAILED }
}

/// A queen over one data directory, started as often as needed.
struct Site {
    start: Start,
    server: Server,
    data_dir: PathBuf,
}

impl Site {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (port, data_dir) = (ports::free()?, folder.join("queen"));
        let config = folder.join("queen.toml");
        std::fs::write(
            &config,
            format!("listen = \"127.0.0.1:{port}\"\ndata_dir = {data_dir:?}\nhive = []\n"),
        )?;
        let start = Start::new(Profile::Dev.program("queen-rbee"), folder.join("queen.log"))
            .args(["--config".as_ref(), config.as_os_str()]);
        let server = Server { client: api::client()?, base: format!("http://127.0.0.1:{port}"), token: None };
        Ok(Self { start, server, data_dir })
    }

    /// Waits until a queen that was started is ready; false if it ended before.
    async fn until_ready(&self, queen: &Running) -> anyhow::Result<bool> {
        let ready = async {
            while queen.is_alive() {
                if self.server.get("/readyz").await.is_ok_and(|reply| reply.status.is_success()) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            false
        };
        let ready = tokio::time::timeout(READY, ready).await;
        ready.with_context(|| format!("the queen is not ready within {READY:?}:\n{}", queen.tail()))
    }

    /// Starts a queen that nobody kills, and compares what it has with the history.
    async fn compare(&self, histories: &[History]) -> anyhow::Result<()> {
        let mut queen = self.start.spawn()?;
        let compared = async {
            ensure!(self.until_ready(&queen).await?, "the queen does not start any more:\n{}", queen.tail());
            let listed = self.server.get("/v1/hives/list").await?.expect(200)?.json();
            let listed = listed["hives"].as_array().context("no list of hives")?;
            history::compare(histories, listed)
        };
        let compared = compared.await;
        queen.kill().await?;
        compared
    }
}

async fn at_random(folder: &Path, kills: usize) -> anyhow::Result<usize> {
    let mut acknowledged = 0;
    for database in 0..kills.div_ceil(KILLS_PER_DATABASE) {
        let site = Site::new(&folder.join(format!("random-{database}")))?;
        let mut histories: Vec<_> = (0..WRITERS).map(History::of).collect();
        for kill in 0..KILLS_PER_DATABASE.min(kills - database * KILLS_PER_DATABASE) {
            let seed = (database * KILLS_PER_DATABASE + kill) as u64;
            let after = LATEST.mul_f64(part(seed));
            let mut queen = site.start.spawn()?;
            let mut writers = histories.iter_mut().map(|history| Writer::new(&site.server, history));
            let work = async {
                if site.until_ready(&queen).await? {
                    future::join_all(writers.by_ref().map(Writer::until_refused)).await;
                }
                anyhow::Ok(())
            };
            let worked = tokio::time::timeout(after, work).await;
            queen.kill().await?;
            if let Ok(worked) = worked {
                worked?;
            }
            site.compare(&histories).await.with_context(|| format!("database {database}, kill {kill}"))?;
        }
        acknowledged += histories.iter().map(History::acknowledged).sum::<usize>();
    }
    ensure!(acknowledged > kills, "only {acknowledged} changes were acknowledged before {kills} kills");
    Ok(acknowledged)
}

/// A random part of one.
#[expect(clippy::cast_precision_loss, reason = "32 bits are exact in a double")]
fn part(seed: u64) -> f64 {
    (mixed(seed) >> 32) as f64 / f64::from(u32::MAX)
}

//! The queen dies while she takes over an entry that was added to her configuration.

use anyhow::{Context as _, ensure};

use super::{EXTRA, died, find_hives, hives, without_extra};
use crate::{
    cluster::fleet::{Cluster, SOON},
    ports,
};

/// The steps until the entry's hive serves, and how many processes it has when the queen is dead.
const STEPS: [(&str, usize); 9] = [
    ("hives-not-configured", 0),
    ("hives-configuring", 0),
    ("hives-configured", 0),
    ("hives-read", 0),
    ("launch-not-intended", 0),
    ("launch-intended", 0),
    ("launch-spawned", 1),
    ("launch-recorded", 1),
    ("launch-listens", 1),
];

/// Waits until the hive of the entry and all others serve, by one process each.
async fn with_extra(c: &Cluster) -> anyhow::Result<Vec<u32>> {
    c.wait_until("the hive of the entry and the others are online", SOON, async || {
        let listed = c.hives_list().await?;
        Ok(listed.len() == c.hives.len() + 1 && listed.iter().all(|hive| hive["phase"] == "online"))
    })
    .await?;
    let listed = c.hives_list().await?;
    let entries: Vec<_> = listed.iter().filter(|hive| hive["id"] == EXTRA).collect();
    ensure!(entries.len() == 1 && entries[0]["source"] == "config", "the entry is listed as {entries:?}");
    let running = hives(c);
    ensure!(running.len() == listed.len(), "not one process for each hive: {running:?}");
    Ok(running)
}

pub(in crate::cluster::scenarios) async fn of_an_entry(c: &mut Cluster) -> anyhow::Result<()> {
    let (file, without) = c.config()?;
    let with = format!("{without}[[hive]]\nid = \"{EXTRA}\"\nport = {}\n", ports::free()?);
    let before = hives(c);
    for (step, processes) in STEPS {
        c.queen.kill().await?;
        std::fs::write(&file, &with)?;
        c.queen.start_to_die(step)?;
        died(c, step).await?;
        let left = hives(c).len();
        ensure!(left == before.len() + processes, "at {step} {left} hives run, and {before:?} did before");
        c.queen.restart().await?;
        let after = with_extra(c).await.with_context(|| format!("after {step}"))?;
        ensure!(before.iter().all(|pid| after.contains(pid)), "after {step} {after:?}, not {before:?}, run");
        c.queen.kill().await?;
        c.queen.restart().await?;
        let again = with_extra(c).await.with_context(|| format!("long after {step}"))?;
        ensure!(again == after, "long after {step} {again:?} run in place of {after:?}");
        c.queen.kill().await?;
        std::fs::write(&file, &without)?;
        c.queen.restart().await?;
        c.until_online().await?;
        without_extra(c).await?;
    }
    ensure!(hives(c) == before, "{:?} run in place of {before:?}", hives(c));
    find_hives(c).await?;
    c.infer(&c.ask("hf:fake/alpha")).await?.complete().map(drop)
}

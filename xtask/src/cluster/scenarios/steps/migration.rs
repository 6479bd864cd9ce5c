//! The queen dies while she brings the database of an older version up to date.

use std::path::Path;

use anyhow::{Context as _, ensure};
use registry_sqlite::aged;
use serde_json::{Value, json};

use super::{died, hives};
use crate::{
    cluster::fleet::{Cluster, SOON},
    ports,
};

/// Hives that nobody has started, for rows.
const ROWS: usize = 20;

/// What somebody decided of every hive, as the queen lists it.
async fn decided(c: &Cluster) -> anyhow::Result<Vec<Value>> {
    const FIELDS: [&str; 9] =
        ["id", "hostname", "port", "mode", "desired", "desired_by", "start", "source", "attached"];
    let listed = c.hives_list().await?;
    Ok(listed.iter().map(|hive| FIELDS.iter().map(|field| hive[*field].clone()).collect()).collect())
}

/// A version's database, and queens that die at each of these steps one after the other before one does not.
async fn dies_at(c: &mut Cluster, version: usize, steps: &[&str]) -> anyhow::Result<()> {
    let (decided_before, ran) = (decided(c).await?, hives(c));
    let failed = |error| anyhow::format_err!("{error}");
    let data_dir = c.queen.data_dir.clone();
    let content = |data_dir: &Path| aged::content(data_dir).map_err(failed);
    c.queen.kill().await?;
    aged::age(&data_dir, version).map_err(failed)?;
    let (found, before) = content(&data_dir)?;
    ensure!(found == version && before.len() > ROWS, "there are {} rows of version {found}", before.len());
    for step in steps {
        c.queen.start_to_die(step)?;
        died(c, step).await?;
    }
    c.queen.restart().await?;
    c.until_online().await?;
    ensure!(decided(c).await? == decided_before, "{:?} in place of {decided_before:?}", decided(c).await?);
    ensure!(hives(c) == ran, "{:?} run in place of {ran:?}", hives(c));
    c.infer(&c.ask("hf:fake/alpha")).await?.complete()?;
    c.queen.kill().await?;
    let (found, after) = content(&data_dir)?;
    ensure!(found == aged::NEWEST, "its version is {found} in the end");
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    c.queen.restart().await?;
    c.until_online().await
}

pub(in crate::cluster::scenarios) async fn of_a_migration(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm("hf:fake/alpha").await?;
    for number in 0..ROWS {
        let id = format!("row-{number}");
        let body = json!({ "id": id, "port": ports::free()?, "token": "0123456789abcdef0123" });
        c.register(&body).await?.expect(201)?;
        if number % 2 == 0 {
            c.post(&format!("/v1/hives/{id}/stop"), &json!({})).await?.expect(202)?;
        }
    }
    let nobody = async || Ok(c.phase("row-1").await? == "unreachable");
    c.wait_until("hives that nobody started are unreachable", SOON, nobody).await?;
    for version in 1..aged::NEWEST {
        let within: Vec<_> = (version + 1..=aged::NEWEST).map(|to| format!("migrated-to-{to}")).collect();
        let steps = ["migration-not-begun"].into_iter().chain(within.iter().map(String::as_str));
        for step in steps {
            let steps = [step, step, "migration-over"];
            dies_at(c, version, &steps).await.with_context(|| format!("from {version}, after {steps:?}"))?;
        }
    }
    Ok(())
}

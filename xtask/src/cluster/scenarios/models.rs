//! Models that somebody wants somewhere, asked for or not.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use serde_json::json;

use crate::cluster::fleet::{Cluster, SOON};

const MODEL: &str = "hf:fake/alpha";

/// Longer than two looks of the queen at what her models need.
const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn one_from_the_hub(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 400 } })).await?;
    let asks = c.hives.iter().map(async |hive| {
        let reply =
            c.post("/v1/models/ensure", &json!({ "model": MODEL, "hive": hive.id })).await?.expect(200)?;
        let told = reply.text();
        ensure!(told.contains("\"complete\"") && told.ends_with("data: [DONE]\n\n"), "{told}");
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(asks).await?;
    let mut lent = 0;
    for hive in &c.hives {
        lent += hive.count("read_blob").await?;
    }
    ensure!(lent == c.hives.len() - 1, "{lent} of {} stores were filled from the fleet", c.hives.len());
    let catalog = c.get("/v1/models/catalog").await?.expect(200)?.json();
    let hives = catalog["models"][0]["hives"].as_array().map_or(0, Vec::len);
    ensure!(hives == c.hives.len(), "the catalog has {hives} of them: {catalog}");
    let path = format!("/v1/models/catalog?ref={MODEL}");
    let removed = c.queen.server.delete(&path).await?.expect(200)?.json();
    ensure!(removed["removed_from"].as_array().map(Vec::len) == Some(c.hives.len()), "{removed}");
    c.queen.server.delete(&path).await?.expect_error(404, "model_not_found").map(drop)
}

pub(super) async fn replicas(c: &mut Cluster) -> anyhow::Result<()> {
    // Two slots, and a queue that would stand for half a minute.
    c.script_all(json!({ "worker": { "token_ms": 150 } })).await?;
    c.warm(MODEL).await?;
    let asks: Vec<_> = (0..16).map(|_| c.ask(MODEL)).collect();
    let mut hives = BTreeSet::new();
    for outcome in c.infer_all(&asks).await? {
        hives.extend(outcome.complete()?.hive());
    }
    let spawns = c.count("spawn").await?;
    ensure!((spawns, hives.len()) == (2, 2), "{spawns} workers were started, and {hives:?} answered");
    Ok(())
}

async fn serving(c: &Cluster) -> anyhow::Result<Vec<String>> {
    let workers = c.get("/v1/workers/list").await?.expect(200)?.json();
    let workers = workers["workers"].as_array().cloned().unwrap_or_default();
    let ready = workers.iter().filter(|worker| worker["state"] == "ready" && worker["reachable"] == true);
    Ok(ready.filter_map(|worker| worker["hive_id"].as_str().map(str::to_owned)).collect())
}

pub(super) async fn pinned(c: &mut Cluster) -> anyhow::Result<()> {
    c.wait_until("the pinned model is loaded unasked", MINUTE, async || Ok(serving(c).await?.len() == 1))
        .await?;
    // The owner of its machine wants it back: the model goes elsewhere, and the machine stays empty.
    let home = serving(c).await?.remove(0);
    let at = c.index(&home)?;
    c.post(&format!("/v1/hives/{home}/pause"), &json!({})).await?.expect(202)?;
    c.wait_until("it is loaded elsewhere", MINUTE, async || {
        let serving = serving(c).await?;
        Ok(serving.len() == 1 && serving[0] != home)
    })
    .await?;
    let workers = c.hives[at].workers().await?;
    ensure!(workers.iter().all(|worker| worker["state"] == "stopped"), "{workers:?}");
    let answered = c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(answered.hive().as_deref() != Some(&*home), "a paused hive answered");
    // The next queen neither forgets the pause nor loads the model twice.
    c.queen.kill().await?;
    c.faults += 1;
    c.queen.restart().await?;
    c.wait_until("the next queen knows of it", SOON, async || Ok(serving(c).await?.len() == 1)).await?;
    c.wait_until("she knows of the pause", SOON, async || Ok(c.phase(&home).await? == "draining")).await?;
    ensure!(c.count("spawn").await? == 2, "{} workers were started", c.count("spawn").await?);
    c.post(&format!("/v1/hives/{home}/resume"), &json!({})).await?.expect(202)?;
    c.wait_until("the hive takes work again", SOON, async || Ok(c.phase(&home).await? == "online")).await
}

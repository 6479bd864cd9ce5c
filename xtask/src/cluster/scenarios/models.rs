//! Models that somebody wants somewhere, asked for or not.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use queen_api::ErrorCode;
use serde_json::json;

use crate::cluster::fleet::{Cluster, SOON};

const MODEL: &str = "hf:fake/alpha";

/// Longer than two looks of the queen at what her models need.
const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn one_from_the_hub(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 400 } })).await?;
    everywhere(c).await?;
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
    let again = c.queen.server.delete(&path).await?.expect(200)?.json();
    ensure!(again["removed_from"].as_array().is_some_and(Vec::is_empty), "{again}");
    Ok(())
}

/// Has one hive get the model, and what is told of it until it has.
async fn brings(c: &Cluster, at: usize) -> anyhow::Result<String> {
    let asked = json!({ "model": MODEL, "hive": c.hives[at].id });
    let told = c.post("/v1/models/ensure", &asked).await?.expect(200)?.text();
    ensure!(told.contains("\"complete\"") && told.ends_with("data: [DONE]\n\n"), "{told}");
    Ok(told)
}

/// Has all hives get the model at once, and waits until they have it.
async fn everywhere(c: &Cluster) -> anyhow::Result<()> {
    futures_util::future::try_join_all((0..c.hives.len()).map(|at| brings(c, at))).await.map(drop)
}

pub(super) async fn shards(c: &mut Cluster) -> anyhow::Result<()> {
    let known = json!([{ "model_ref": MODEL, "shards": 4 }]);
    c.script_all(json!({ "models": { "known": known }, "download": { "duration_ms": 400 } })).await?;
    everywhere(c).await?;
    let mut lent = 0;
    for hive in &c.hives {
        lent += hive.count("read_blob").await?;
    }
    ensure!(lent == 4 * (c.hives.len() - 1), "{lent} files came from the fleet");
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn carried(c: &mut Cluster) -> anyhow::Result<()> {
    let known = json!([{ "model_ref": MODEL, "shards": 3 }]);
    c.script_all(json!({ "models": { "known": known }, "download": { "use_sources": false } })).await?;
    everywhere(c).await?;
    let (mut lent, mut brought) = (0, 0);
    for hive in &c.hives {
        lent += hive.count("read_blob").await?;
        brought += hive.count("write_blob").await?;
    }
    // Of each file the queen first asks how much is there.
    ensure!((lent, brought) == (3, 6), "{lent} files were read and {brought} parts written");
    Ok(())
}

pub(super) async fn branch_moves(c: &mut Cluster) -> anyhow::Result<()> {
    // What the first hive's hub says, and what the hub says by the time that the second one is asked.
    let revision = |digit: &str| format!("{MODEL}@{}:alpha.gguf", digit.repeat(40));
    for (hive, digit) in c.hives.iter_mut().zip(["1", "2"]) {
        let known = json!([{ "model_ref": MODEL, "resolved": revision(digit) }]);
        hive.script(json!({ "models": { "known": known } })).await?;
    }
    ensure!(brings(c, 0).await?.contains(&revision("1")), "the first hive has another revision than its hub");
    c.queen.kill().await?;
    c.faults += 1;
    c.queen.restart().await?;
    c.wait_until("the hives are there", SOON, async || Ok(c.phase(&c.hives[1].id).await? == "online"))
        .await?;
    ensure!(
        brings(c, 1).await?.contains(&revision("1")),
        "the second hive has another revision than the first"
    );
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn removed(c: &mut Cluster) -> anyhow::Result<()> {
    let brought = json!([{ "model_ref": "hf:fake/brought", "stored": true }]);
    c.hives[1].script(json!({ "models": { "known": brought } })).await?;
    let listed = async || {
        let catalog = c.get("/v1/models/catalog").await?.expect(200)?.json();
        let models = catalog["models"].as_array().cloned().unwrap_or_default();
        let names = models.iter().filter_map(|model| model["model_ref"].as_str());
        anyhow::Ok(names.filter(|name| name.starts_with("hf:fake/brought")).map(str::to_owned).next())
    };
    c.wait_until("it is listed", SOON, async || Ok(listed().await?.is_some())).await?;
    let path = format!("/v1/models/catalog?ref={}", listed().await?.unwrap_or_default());
    for left in [1, 0] {
        let reply = c.queen.server.delete(&path).await?.expect(200)?.json();
        ensure!(reply["removed_from"].as_array().map(Vec::len) == Some(left), "{reply}");
    }
    ensure!(listed().await?.is_none(), "it is still listed");
    c.warm(MODEL).await?;
    let used = c.queen.server.delete(&format!("/v1/models/catalog?ref={MODEL}")).await?;
    ensure!(used.text().contains("by worker w-"), "{}", used.text());
    used.expect_error(409, "model_in_use")?;
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn regions(c: &mut Cluster) -> anyhow::Result<()> {
    for (hive, region) in c.hives.iter().zip(["moon", "cellar", "attic", "cellar"]) {
        let mut body = hive.registration();
        body["region"] = region.into();
        c.register(&body).await?.expect(200)?;
    }
    // All at once, for a model that runs nowhere.
    let ask = |at: usize| match at % 3 {
        0 => c.ask(MODEL),
        1 => c.ask(MODEL).within("cellar"),
        _ => c.ask(MODEL).within("attic"),
    };
    let asks: Vec<_> = (0..30).map(ask).collect();
    let outcomes = c.infer_all(&asks).await?;
    for (ask, outcome) in asks.iter().zip(outcomes) {
        let hive = outcome.complete()?.hive().unwrap_or_default();
        let stands = c.get(&format!("/v1/hives/{hive}")).await?.expect(200)?.json();
        let stands = stands["region"].as_str().unwrap_or_default().to_owned();
        ensure!(
            ask.region.is_none_or(|region| region == stands),
            "{:?} was answered in {stands}",
            ask.region
        );
    }
    ensure!(c.count("spawn").await? == 2, "{} workers were started", c.count("spawn").await?);
    // One for everybody starts at home.
    let first = c.infer(&c.ask("hf:fake/beta")).await?.complete()?.hive();
    ensure!(first.as_deref() == Some(&*c.hives[2].id), "it was started on {first:?}");
    let nowhere = c.infer(&c.ask(MODEL).within("mars")).await?;
    nowhere.failed(ErrorCode::NoHive).map(drop)
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

pub(super) async fn replicas_of_a_region(c: &mut Cluster) -> anyhow::Result<()> {
    for (hive, region) in c.hives.iter().zip(["attic", "cellar", "cellar", "attic"]) {
        let mut body = hive.registration();
        body["region"] = region.into();
        c.register(&body).await?.expect(200)?;
    }
    c.script_all(json!({ "worker": { "token_ms": 150 } })).await?;
    c.warm(MODEL).await?;
    c.infer(&c.ask(MODEL).within("cellar")).await?.complete()?;
    // The worker at home has nothing to do, and is none of theirs.
    let asks: Vec<_> = (0..16).map(|_| c.ask(MODEL).within("cellar")).collect();
    let mut hives = BTreeSet::new();
    for outcome in c.infer_all(&asks).await? {
        hives.extend(outcome.complete()?.hive());
    }
    let cellar: BTreeSet<_> = c.hives[1..3].iter().map(|hive| hive.id.clone()).collect();
    let spawns = c.count("spawn").await?;
    ensure!(spawns == 3 && hives == cellar, "{spawns} workers were started, and {hives:?} answered");
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

//! Hives that are not who they should be, or would lead the queen elsewhere.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::cluster::fleet::{Cluster, SOON};

const MODEL: &str = "hf:fake/alpha";

/// Makes the first hive lie about itself, and waits until the queen has seen through it.
async fn unmasked(c: &mut Cluster, claims: Value, told: &str) -> anyhow::Result<()> {
    c.hives[0].script(json!({ "claims": claims })).await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    c.wait_until(&format!("the queen says {told:?} of the hive"), SOON, async || {
        let hives = c.hives_list().await?;
        let reason = hives[0]["reason"].as_str().unwrap_or_default();
        Ok(hives[0]["phase"] == "error" && reason.contains(told))
    })
    .await?;
    let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(outcome.hive().as_deref() != Some("hive-0"), "the hive that lies about itself answered");
    c.hives[0].heal().await?;
    c.wait_until(
        "it is online once it is honest",
        SOON * 2,
        async || Ok(c.phase("hive-0").await? == "online"),
    )
    .await
}

pub(super) async fn calls_itself_otherwise(c: &mut Cluster) -> anyhow::Result<()> {
    unmasked(c, json!({ "hive_id": "somebody" }), "somebody").await?;
    unmasked(c, json!({ "snapshot_hive_id": "hive-1" }), "hive-1").await
}

pub(super) async fn of_another_version(c: &mut Cluster) -> anyhow::Result<()> {
    unmasked(c, json!({ "api_version": 99 }), "99").await
}

pub(super) async fn claims_anothers_worker(c: &mut Cluster) -> anyhow::Result<()> {
    let owner = c.warm(MODEL).await?.hive().unwrap_or_default();
    let worker = c.workers_list().await?[0]["worker_id"].as_str().unwrap_or_default().to_owned();
    let liar = usize::from(owner == c.hives[0].id);
    let claim = json!({ "claims": { "workers": [{ "worker_id": worker, "model_ref": MODEL }] } });
    c.hives[liar].script(claim).await?;
    c.hives[liar].act(json!({ "act": "cut_all" })).await?;
    c.wait_until("both claim the worker", SOON, async || Ok(c.workers_list().await?.len() == 2)).await?;
    for _ in 0..4 {
        let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
        ensure!(outcome.hive().as_ref() == Some(&owner), "{:?} answered for {owner}", outcome.hive());
    }
    Ok(())
}

pub(super) async fn clock_is_off(c: &mut Cluster) -> anyhow::Result<()> {
    const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;
    c.warm(MODEL).await?;
    for offset in [TEN_YEARS, -TEN_YEARS] {
        c.script_all(json!({ "claims": { "date_offset_s": offset } })).await?;
        for hive in &c.hives {
            hive.act_quietly(json!({ "act": "cut_all" })).await?;
        }
        c.until_online().await?;
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    ensure!(c.count("spawn").await? == 1, "another worker was started");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    for hive in c.hives_list().await? {
        let seen = hive["last_seen"].to_string();
        let year = 365 * 24 * 3600;
        let off = hive["last_seen"].as_u64().is_some_and(|ms| (ms / 1000).abs_diff(now) > year);
        ensure!(!off, "the hive's clock decided when it was seen: {seen}");
    }
    Ok(())
}

pub(super) async fn redirects(c: &mut Cluster) -> anyhow::Result<()> {
    let canary = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    canary.set_nonblocking(true)?;
    let elsewhere = format!("http://{}", canary.local_addr()?);
    let claim = json!({ "worker_id": "w-elsewhere", "model_ref": MODEL, "url": elsewhere });
    let away = json!({ "kind": "status", "status": 307, "location": format!("{elsewhere}/v1/health") });
    let calls =
        json!({ "health": { "answer": away }, "proxy": { "answer": away }, "spawn": { "answer": away } });
    c.hives[0].script(json!({ "claims": { "workers": [claim] }, "calls": calls })).await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    for _ in 0..4 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    let visited = canary.accept().is_ok();
    ensure!(!visited, "the queen went where a hive sent her");
    Ok(())
}

pub(super) async fn trickles(c: &mut Cluster) -> anyhow::Result<()> {
    let slow = json!({ "from_hive": { "bytes_per_s": 2 } });
    c.hives[0].script(json!({ "calls": { "all": { "wire": slow } } })).await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    for _ in 0..4 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    c.wait_until("the hive that trickles is not online", SOON * 2, async || {
        Ok(c.phase("hive-0").await? != "online")
    })
    .await?;
    c.hives[0].heal().await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    c.wait_until("it is back", SOON + Duration::from_secs(10), async || {
        Ok(c.phase("hive-0").await? == "online")
    })
    .await
}

//! Answers of workers that are too long, too slow, refused, or somebody else's.

use std::time::Duration;

use anyhow::ensure;
use queen_api::ErrorCode;
use serde_json::json;

use super::workers::{MAGIC, fault, two_workers};
use crate::cluster::{
    answer::End,
    fleet::{Cluster, SOON},
};

const MODEL: &str = "hf:fake/alpha";

/// What a queen may take in memory for a stream that never ends, and for all that a test has her do besides.
const MEMORY: u64 = 64 << 20;

pub(super) async fn endless(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    let before = c.queen.peak_memory()?;
    for (which, paths) in [
        ("endless_line", &["/v1/infer", "/v1/chat/completions"][..]),
        // Over OpenAI's route nobody counts what is generated, so only the line has a bound.
        ("endless_events", &["/v1/infer"]),
    ] {
        c.script_all(fault(json!({ "tokens": 3 }), json!({ "kind": "garbage", "which": which }))).await?;
        for path in paths {
            let ask = c.ask(MODEL).saying(MAGIC);
            let body = if *path == "/v1/infer" { ask.infer_body() } else { ask.chat_body() };
            let text = c.post(path, &body).await?.expect(200)?.text();
            ensure!(text.contains("error") && !text.contains("[DONE]"), "{which} passed for an answer");
        }
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    let grown = c.queen.peak_memory()?.saturating_sub(before);
    ensure!(grown < MEMORY, "the queen took {} MiB more", grown >> 20);
    Ok(())
}

pub(super) async fn slow(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(fault(json!({ "tokens": 2 }), json!({ "kind": "slow", "bytes_per_s": 1000 }))).await?;
    c.warm(MODEL).await?;
    let asks = [c.ask(MODEL).saying(MAGIC).tokens(12), c.ask(MODEL), c.ask(MODEL)];
    for outcome in c.infer_all(&asks).await? {
        outcome.complete()?;
    }
    Ok(())
}

pub(super) async fn errors(c: &mut Cluster) -> anyhow::Result<()> {
    for status in [500, 502, 429] {
        two_workers(c).await?;
        let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
        let bad = c.index(&first)?;
        let act = json!({ "kind": "error", "status": status, "message": "not now" });
        c.hives[bad].script(fault(json!("request"), act)).await?;
        for _ in 0..4 {
            c.infer(&c.ask(MODEL).saying(MAGIC)).await?.complete()?;
        }
        c.hives[bad].heal().await?;
    }
    Ok(())
}

pub(super) async fn all_too_busy(c: &mut Cluster) -> anyhow::Result<()> {
    let act = json!({ "kind": "error", "status": 429, "message": "not now", "retry_after_s": 7 });
    c.script_all(fault(json!("request"), act)).await?;
    two_workers(c).await?;
    let reply = c.post("/v1/chat/completions", &c.ask(MODEL).saying(MAGIC).whole().chat_body()).await?;
    let reply = reply.expect(429)?;
    ensure!(reply.headers.contains_key("retry-after"), "nobody says when to come back");
    c.infer(&c.ask(MODEL).saying(MAGIC).whole()).await?.failed(ErrorCode::QueueFull)?;
    // Being busy is no fault: both are still offered, and nobody started a third.
    let ready = c.workers_list().await?.iter().filter(|worker| worker["state"] == "ready").count();
    ensure!(ready == 2, "{ready} workers are ready");
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn of_another_worker(c: &mut Cluster) -> anyhow::Result<()> {
    two_workers(c).await?;
    let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
    let bad = c.index(&first)?;
    c.hives[bad].script(json!({ "worker": { "claims_worker_id": "w-stranger", "text": "echo" } })).await?;
    for _ in 0..4 {
        let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
        ensure!(outcome.hive() != Some(first.clone()), "an answer in another's name went to the client");
    }
    Ok(())
}

pub(super) async fn load_stalls(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "load": { "kind": "never", "stuck_at": 0.4 } } })).await?;
    let outcome = c.infer(&c.ask(MODEL).whole()).await?;
    ensure!(
        matches!(outcome.end, End::Error { .. }),
        "a worker that never loads answered {:?}",
        outcome.text
    );
    for hive in &c.hives {
        hive.heal().await?;
    }
    c.wait_until("workers that never load were stopped", SOON, async || {
        let mut left = 0;
        for hive in &c.hives {
            left += hive.workers().await?.iter().filter(|worker| worker["state"] == "loading").count();
        }
        Ok(left == 0)
    })
    .await?;
    c.wait_until("the failure is forgotten", SOON + Duration::from_secs(5), async || {
        Ok(c.infer(&c.ask(MODEL)).await?.complete().is_ok())
    })
    .await
}

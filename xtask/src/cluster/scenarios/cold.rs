//! No worker is there.

use std::time::Duration;

use anyhow::ensure;
use queen_api::{ErrorCode, InferEvent, LoadingStage};
use serde_json::json;

use crate::cluster::fleet::{Cluster, SOON};

const MODEL: &str = "hf:fake/alpha";

pub(super) async fn infer(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 400 }, "worker": { "load_ms": 200 } })).await?;
    let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
    for due in [LoadingStage::Downloading, LoadingStage::Loading] {
        let told =
            outcome.events.iter().any(|e| matches!(e, InferEvent::Loading { stage, .. } if *stage == due));
        ensure!(told, "the client was not told of {due:?}: {:?}", outcome.events);
    }
    ensure!(
        c.count("download").await? == 1 && c.count("spawn").await? == 1,
        "not one transfer and one worker"
    );
    Ok(())
}

pub(super) async fn herd(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 300 }, "worker": { "load_ms": 200 } })).await?;
    let asks: Vec<_> =
        (0..50).map(|n| if n % 2 == 0 { c.ask(MODEL) } else { c.ask(MODEL).whole() }).collect();
    for outcome in c.infer_all(&asks).await? {
        outcome.complete()?;
    }
    let (downloads, spawns) = (c.count("download").await?, c.count("spawn").await?);
    ensure!((downloads, spawns) == (1, 1), "{downloads} transfers and {spawns} workers");
    Ok(())
}

pub(super) async fn two_models(c: &mut Cluster) -> anyhow::Result<()> {
    let asks: Vec<_> = (0..20).map(|n| c.ask(if n % 2 == 0 { MODEL } else { "hf:fake/beta" })).collect();
    for outcome in c.infer_all(&asks).await? {
        outcome.complete()?;
    }
    let (downloads, spawns) = (c.count("download").await?, c.count("spawn").await?);
    ensure!((downloads, spawns) == (2, 2), "{downloads} transfers and {spawns} workers");
    Ok(())
}

pub(super) async fn leader_leaves(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 500 } })).await?;
    let mut leader = c.open(&c.ask(MODEL)).await?;
    leader.until(|event| matches!(event, InferEvent::Loading { .. })).await?;
    let follower = c.open(&c.ask(MODEL)).await?;
    drop(leader);
    follower.rest().await?.complete()?;
    let (downloads, spawns) = (c.count("download").await?, c.count("spawn").await?);
    ensure!((downloads, spawns) == (1, 1), "{downloads} transfers and {spawns} workers");
    Ok(())
}

pub(super) async fn worker_fails_while_loading(c: &mut Cluster) -> anyhow::Result<()> {
    let load =
        json!({ "kind": "fails", "code": "model_invalid", "log_tail": ["bad magic in the last shard"] });
    c.script_all(json!({ "worker": { "load": load } })).await?;
    for ask in [c.ask(MODEL), c.ask(MODEL).whole()] {
        let outcome = c.infer(&ask).await?;
        let code = if matches!(&outcome.end, super::super::answer::End::Error { code, .. } if code == "model_invalid")
        {
            ErrorCode::ModelInvalid
        } else {
            ErrorCode::WorkerStartFailed
        };
        let message = outcome.failed(code)?;
        ensure!(message.contains("bad magic in the last shard"), "its log is not in {message:?}");
    }
    // Once it can load again, nobody has to restart anything.
    for hive in &c.hives {
        hive.heal().await?;
    }
    c.wait_until("the failure is forgotten", SOON + Duration::from_secs(5), async || {
        Ok(c.infer(&c.ask(MODEL)).await?.complete().is_ok())
    })
    .await
}

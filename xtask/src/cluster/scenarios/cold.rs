//! No worker is there.

use std::time::Duration;

use anyhow::{bail, ensure};
use queen_api::{InferEvent, LoadingStage};
use serde_json::json;

use crate::cluster::{
    answer::End,
    fleet::{Cluster, SOON},
    hive::Call,
};

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
        let End::Error { code, message, .. } = &outcome.end else {
            bail!("a worker that cannot load answered {:?}", outcome.text)
        };
        ensure!(["model_invalid", "worker_start_failed"].contains(&&**code), "the code is {code}");
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

pub(super) async fn download_fails_on_one(c: &mut Cluster) -> anyhow::Result<()> {
    for (number, code) in ["storage_full", "source_unreachable", "digest_mismatch"].into_iter().enumerate() {
        let patch = json!({ "download": { "fail_at": 0.5, "fail_code": code } });
        c.hives[0].script(patch).await?;
        let outcome = c.infer(&c.ask(&format!("hf:fake/m{number}"))).await?.complete()?;
        ensure!(outcome.hive().as_deref() != Some("hive-0"), "the hive without the model answered");
    }
    Ok(())
}

pub(super) async fn spawn_answer_is_lost(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "calls": { "spawn": { "times": 1, "answer": { "kind": "drop_reply" } } } })).await?;
    c.infer(&c.ask(MODEL)).await?.complete()?;
    let mut workers = 0;
    for hive in &c.hives {
        workers += hive.workers().await?.len();
    }
    ensure!(workers == 1, "{workers} workers were started for one request");
    Ok(())
}

pub(super) async fn hive_dies_in_the_transfer(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 2000 } })).await?;
    let stream = c.open(&c.ask(MODEL)).await?;
    c.wait_until("the transfer is under way", SOON, async || Ok(c.count("download").await? == 1)).await?;
    for at in 0..c.hives.len() {
        if c.hives[at].count("download").await? == 1 {
            c.hives[at].kill().await?;
        }
    }
    stream.rest().await?.complete().map(drop)
}

pub(super) async fn nobody_has_room(c: &mut Cluster) -> anyhow::Result<()> {
    let device = json!({ "kind": "cuda", "index": 0, "name": "Small", "memory_total": 1 << 20, "memory_free": 1 << 20 });
    c.script_all(json!({ "machine": { "devices": [device] } })).await?;
    let outcome = c.infer(&c.ask(MODEL).whole()).await?;
    let End::Error { code, message, .. } = &outcome.end else { bail!("a model without room was served") };
    ensure!(code == "insufficient_memory", "the code is {code}: {message}");
    ensure!(outcome.status == 507, "the status is {}", outcome.status);
    Ok(())
}

pub(super) async fn download_stalls(c: &mut Cluster) -> anyhow::Result<()> {
    c.hives[0].script(json!({ "download": { "stall_at": 0.5 } })).await?;
    for number in 0..3 {
        let outcome = c.infer(&c.ask(&format!("hf:fake/m{number}"))).await?.complete()?;
        ensure!(outcome.hive().as_deref() != Some("hive-0"), "the hive without the model answered");
    }
    Ok(())
}

pub(super) async fn download_reports_nonsense(c: &mut Cluster) -> anyhow::Result<()> {
    for (number, nonsense) in [
        json!({ "goes_backwards": true, "duration_ms": 400 }),
        json!({ "exaggerate": 1000, "duration_ms": 400 }),
    ]
    .into_iter()
    .enumerate()
    {
        c.script_all(json!({ "download": nonsense })).await?;
        let outcome = c.infer(&c.ask(&format!("hf:fake/m{number}"))).await?.complete()?;
        let sane = |event: &InferEvent| match event {
            InferEvent::Loading { progress: Some(part), .. } => (0.0..=1.0).contains(part),
            _ => true,
        };
        ensure!(outcome.events.iter().all(sane), "the client was told nonsense: {:?}", outcome.events);
    }
    Ok(())
}

pub(super) async fn model_is_damaged(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "corrupt_unnoticed": true } })).await?;
    let outcome = c.infer(&c.ask(MODEL).whole()).await?;
    let told = outcome.failed(queen_api::ErrorCode::ModelInvalid)?;
    ensure!(told.contains("hive-") && told.contains("bad magic"), "it does not say where and why: {told}");
    Ok(())
}

/// Kills the queen at moments spread over a cold start. The next one finds out what is under way before she starts
/// anything herself.
pub(super) async fn queen_is_killed(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 400 }, "worker": { "load_ms": 400 } })).await?;
    for turn in 0..4 {
        let model = format!("hf:fake/m{turn}");
        let stream = c.open(&c.ask(&model)).await?;
        tokio::time::sleep(c.moment(turn, Duration::from_millis(1000))).await;
        c.queen.kill().await?;
        c.faults += 1;
        drop(stream);
        c.queen.restart().await?;
        c.infer(&c.ask(&model)).await?.complete()?;
        let mut workers = 0;
        for hive in &c.hives {
            let of_it = |worker: &&serde_json::Value| worker["model_ref"] == model.as_str();
            workers += hive.workers().await?.iter().filter(of_it).count();
        }
        ensure!(workers == 1, "{workers} workers of {model} run");
        let mut stores = 0;
        for hive in &c.hives {
            let of_it =
                |call: &&Call| call.call == "download" && call.model.as_deref() == Some(model.as_str());
            stores += usize::from(hive.journal().await?.iter().any(|call| of_it(&call)));
        }
        ensure!(stores == 1, "{model} was brought to {stores} hives");
    }
    Ok(())
}

//! The network between the queen and its hives.

use std::time::{Duration, Instant};

use anyhow::ensure;
use queen_api::InferEvent;
use serde_json::json;

use crate::cluster::{
    answer::End,
    fleet::{Cluster, SOON},
};

const MODEL: &str = "hf:fake/alpha";

/// Silence is judged after 3 s and two probes of 1 s; the rest is room for a machine that does other things as well.
const UNREACHABLE: Duration = Duration::from_secs(6 + 2);

#[derive(Clone, Copy)]
pub(super) enum Loss {
    Both,
    Answers,
    Requests,
}

pub(super) async fn lose(c: &mut Cluster, at: usize, loss: Loss) -> anyhow::Result<()> {
    c.faults += 1;
    let hive = &c.hives[at];
    match (hive.link()?, loss) {
        (link, Loss::Both) => link.cut(&hive.running).await,
        (link, Loss::Answers) => link.lose_answers(&hive.running).await,
        (link, Loss::Requests) => link.lose_requests().await,
    }
}

pub(super) async fn heal(c: &Cluster, at: usize, loss: Loss) -> anyhow::Result<()> {
    let hive = &c.hives[at];
    match (hive.link()?, loss) {
        (link, Loss::Both) => link.mend(&hive.running).await,
        (link, Loss::Answers) => link.return_answers(&hive.running).await,
        (link, Loss::Requests) => link.return_requests().await,
    }
}

/// A stream is under way when its hive is lost: it is gone on with elsewhere or ends in an error, others are served, and
/// the hive comes back with the worker that it had.
async fn lost_in_a_stream(c: &mut Cluster, loss: Loss) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 50 } })).await?;
    let first = c.warm(MODEL).await?.hive().unwrap_or_default();
    let at = c.index(&first)?;
    let mut stream = c.open(&c.ask(MODEL).tokens(40)).await?;
    stream.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    lose(c, at, loss).await?;
    let began = Instant::now();
    c.wait_until(
        "the hive is unreachable",
        UNREACHABLE,
        async || Ok(c.phase(&first).await? == "unreachable"),
    )
    .await?;
    let outcome = stream.rest().await?;
    let (told, took) = (matches!(outcome.end, End::Complete | End::Error { .. }), began.elapsed());
    ensure!(told, "the stream of a lost hive ended {:?}", outcome.end);
    // Two seconds of tokens, the loss in between, and another worker's start.
    ensure!(took < UNREACHABLE + SOON, "the client was told after {took:?}");
    let second = c.infer(&c.ask(MODEL)).await?.complete()?.hive();
    ensure!(second.as_ref() != Some(&first), "a lost hive answered");
    heal(c, at, loss).await?;
    c.wait_until("the hive is back", SOON * 3, async || Ok(c.phase(&first).await? == "online")).await?;
    let workers = c.hives[at].workers().await?;
    ensure!(workers.len() == 1, "the hive that came back has {} workers", workers.len());
    c.wait_until("the answer that nobody reads is ended", SOON * 3, async || {
        Ok(c.hives[at].workers().await?.iter().all(|worker| worker["slots_busy"] == 0))
    })
    .await?;
    for _ in 0..4 {
        c.infer(&c.ask(MODEL).tokens(4)).await?.complete()?;
    }
    let spawned = c.count("spawn").await?;
    ensure!(spawned == 2, "{spawned} workers were started where one was lost");
    Ok(())
}

pub(super) async fn partition(c: &mut Cluster) -> anyhow::Result<()> {
    lost_in_a_stream(c, Loss::Both).await
}

pub(super) async fn answers_are_lost(c: &mut Cluster) -> anyhow::Result<()> {
    lost_in_a_stream(c, Loss::Answers).await
}

pub(super) async fn lost_in_a_cold_start(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "load_ms": 1500 } })).await?;
    let mut stream = c.open(&c.ask(MODEL)).await?;
    stream
        .until(|event| matches!(event, InferEvent::Loading { stage: queen_api::LoadingStage::Loading, .. }))
        .await?;
    let mut at = 0;
    for (number, hive) in c.hives.iter().enumerate() {
        if !hive.workers().await?.is_empty() {
            at = number;
        }
    }
    lose(c, at, Loss::Answers).await?;
    let outcome = stream.rest().await?.complete()?;
    ensure!(outcome.hive() != Some(c.hives[at].id.clone()), "a lost hive answered");
    heal(c, at, Loss::Answers).await?;
    let id = c.hives[at].id.clone();
    c.wait_until("the hive is back", SOON * 3, async || Ok(c.phase(&id).await? == "online")).await?;
    c.infer(&c.ask(MODEL)).await?.complete()?;
    let spawned = c.count("spawn").await?;
    ensure!(spawned == 2, "{spawned} workers were started where one was lost");
    Ok(())
}

pub(super) async fn all_but_one(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    for at in 1..c.hives.len() {
        lose(c, at, Loss::Both).await?;
    }
    for _ in 0..10 {
        c.infer(&c.ask(MODEL).tokens(4)).await?.complete()?;
    }
    c.wait_until("the lost ones are unreachable", SOON, async || {
        let hives = c.hives_list().await?;
        Ok(hives.iter().filter(|hive| hive["phase"] == "unreachable").count() == c.hives.len() - 1)
    })
    .await?;
    for at in 1..c.hives.len() {
        heal(c, at, Loss::Both).await?;
    }
    c.until_online_within(SOON * 3).await
}

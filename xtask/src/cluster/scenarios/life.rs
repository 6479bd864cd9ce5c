//! The queen's start and end.

use std::time::{Duration, Instant};

use anyhow::ensure;
use queen_api::InferEvent;
use serde_json::json;

use crate::{
    cluster::{
        answer::End,
        fleet::{Cluster, SOON},
    },
    ports,
};

const MODEL: &str = "hf:fake/alpha";

/// The grace of every queen here, and the two seconds that it may take beyond.
const STOPPED: Duration = Duration::from_secs(3 + 2);

/// Starts a second queen over the same data and returns its exit code and what it said.
async fn another(c: &Cluster, flags: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut running = c.queen.another("another.log", flags).spawn()?;
    let exit = running.ended(SOON).await?;
    let said = running.tail();
    std::fs::remove_file(running.log())?;
    Ok((exit.code, said))
}

pub(super) async fn second_queen(c: &mut Cluster) -> anyhow::Result<()> {
    let listen = format!("127.0.0.1:{}", ports::free()?);
    let (code, said) = another(c, &["--listen", &listen]).await?;
    ensure!(code == Some(73), "it ended with {code:?}: {said}");
    let pid = c.queen.running.identity().pid.to_string();
    ensure!(said.contains(&pid), "it does not name process {pid}: {said}");
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn port_in_use(c: &mut Cluster) -> anyhow::Result<()> {
    let elsewhere = c.folder.join("elsewhere");
    let (code, said) = another(c, &["--data-dir", &elsewhere.display().to_string()]).await?;
    ensure!(code == Some(69), "it ended with {code:?}: {said}");
    let pid = c.queen.running.identity().pid.to_string();
    ensure!(said.contains(&pid) && said.contains("in use"), "it does not name process {pid}: {said}");
    Ok(())
}

pub(super) async fn foreign_database(c: &mut Cluster) -> anyhow::Result<()> {
    let listen = format!("127.0.0.1:{}", ports::free()?);
    let database = c.queen.data_dir.join("queen.db");
    ensure!(database.is_file(), "the database is not where it was expected");
    for (name, bytes) in
        [("text", b"these are my notes\n".to_vec()), ("random", (0..=255).cycle().take(8192).collect())]
    {
        let folder = c.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("queen.db");
        std::fs::write(&file, &bytes)?;
        let folder = folder.display().to_string();
        let (code, said) = another(c, &["--listen", &listen, "--data-dir", &folder]).await?;
        ensure!(code == Some(65), "{name}: it ended with {code:?}: {said}");
        ensure!(std::fs::read(&file)? == bytes, "{name}: the file was changed");
    }
    Ok(())
}

pub(super) async fn stop_with_open_streams(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 50 } })).await?;
    c.warm(MODEL).await?;
    let mut stream = c.open(&c.ask(MODEL).tokens(10_000)).await?;
    stream.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    let server = c.queen.server.clone();
    let mut events = server.request(reqwest::Method::GET, "/v1/events").send().await?;
    let began = Instant::now();
    let (exit, outcome) = tokio::join!(c.queen.stop(SOON), stream.rest());
    let took = began.elapsed();
    ensure!(exit?.code == Some(0), "the queen's end was no success");
    ensure!(took <= STOPPED, "the queen took {took:?} to stop");
    let outcome = outcome?;
    ensure!(matches!(outcome.end, End::Error { .. }), "an answer that was cut ended {:?}", outcome.end);
    while let Ok(Some(_)) = events.chunk().await {}
    Ok(())
}

pub(super) async fn stop_lets_streams_finish(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 20 } })).await?;
    c.warm(MODEL).await?;
    let mut stream = c.open(&c.ask(MODEL).tokens(60)).await?;
    stream.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    let (exit, outcome) = tokio::join!(c.queen.stop(SOON), stream.rest());
    ensure!(exit?.code == Some(0), "the queen's end was no success");
    outcome?.complete().map(drop)
}

pub(super) async fn stop_in_a_cold_start(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "load_ms": 60_000 } })).await?;
    let mut stream = c.open(&c.ask(MODEL)).await?;
    stream
        .until(|event| matches!(event, InferEvent::Loading { stage: queen_api::LoadingStage::Loading, .. }))
        .await?;
    let began = Instant::now();
    let (exit, outcome) = tokio::join!(c.queen.stop(SOON), stream.rest());
    ensure!(exit?.code == Some(0), "the queen's end was no success");
    ensure!(began.elapsed() <= STOPPED, "the queen took {:?} to stop", began.elapsed());
    let outcome = outcome?;
    ensure!(matches!(outcome.end, End::Error { .. }), "the waiting client saw {:?}", outcome.end);
    c.wait_until("the worker that was started is stopped", SOON, async || {
        let mut left = 0;
        for hive in &c.hives {
            let over = ["stopped", "failed", "stopping"];
            left += hive.workers().await?.iter().filter(|w| !over.iter().any(|o| w["state"] == *o)).count();
        }
        Ok(left == 0)
    })
    .await
}

pub(super) async fn stop_over_http(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    c.post("/v1/shutdown", &json!({ "hives": "burn" })).await?.expect_error(400, "invalid_request")?;
    c.post("/v1/shutdown", &json!({})).await?.expect(202)?;
    let exit = c.queen.running.ended(STOPPED).await?;
    ensure!(exit.code == Some(0), "the queen ended with {exit:?}");
    Ok(())
}

pub(super) async fn killed_and_restarted(c: &mut Cluster) -> anyhow::Result<()> {
    let first = c.warm(MODEL).await?.hive();
    c.queen.kill().await?;
    c.faults += 1;
    c.queen.restart().await?;
    // At once: the request may come before the hives were heard of.
    let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(outcome.hive() == first, "{:?} served before and {:?} does now", first, outcome.hive());
    ensure!(c.count("spawn").await? == 1, "the worker was started a second time");
    ensure!(c.hives_list().await?.len() == c.hives.len(), "a registration was lost");
    Ok(())
}

pub(super) async fn second_signal(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 50 } })).await?;
    c.warm(MODEL).await?;
    let mut stream = c.open(&c.ask(MODEL).tokens(10_000)).await?;
    stream.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    c.queen.running.signal(process::Signal::TERM)?;
    c.wait_until("the queen takes no more", SOON, async || {
        Ok(c.get("/readyz").await.map_or(true, |reply| reply.status == 503))
    })
    .await?;
    let began = Instant::now();
    c.queen.running.signal(process::Signal::INT)?;
    let (exit, rest) = tokio::join!(c.queen.running.ended(SOON), stream.rest());
    ensure!(exit?.code == Some(0), "the queen's end was no success");
    ensure!(began.elapsed() < Duration::from_millis(2000), "it took {:?} more", began.elapsed());
    rest.map(drop)
}

pub(super) async fn paused(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    c.queen.running.signal(process::Signal::STOP)?;
    c.faults += 1;
    // Longer than it takes to judge a silent hive: what is to be shown is that time asleep is not judged.
    tokio::time::sleep(Duration::from_secs(7)).await;
    c.queen.running.signal(process::Signal::CONT)?;
    for _ in 0..5 {
        c.infer(&c.ask(MODEL).tokens(4)).await?.complete()?;
    }
    ensure!(c.count("spawn").await? == 1, "another worker was started");
    let lost = c.queen.events.all().iter().any(|event| {
        matches!(&event.kind, fleet::EventKind::HivePhase { phase: fleet::HivePhase::Unreachable, .. })
    });
    ensure!(!lost, "a hive was given up because the queen had slept");
    Ok(())
}

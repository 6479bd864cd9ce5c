//! Hives that the queen starts itself.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use fleet::{EventKind, HivePhase, Timestamp};
use process::Signal;
use serde_json::json;

use crate::{
    cluster::{
        fleet::{Cluster, SOON},
        hive::FakeHive,
    },
    strays,
};

const MODEL: &str = "hf:fake/alpha";

/// The queens here have a grace of 3 s, and two more for what does not stop by itself.
const STOPPED: Duration = Duration::from_secs(3 + 2 + 3);

/// The pids of all hives that run, whoever knows of them.
pub(super) fn hives(c: &Cluster) -> Vec<u32> {
    let running = strays::below(&c.folder).into_iter();
    running.filter(|s| s.command.contains("fake-hive")).map(|s| s.identity.pid).collect()
}

pub(super) async fn stopped(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    ensure!(hives(c).len() == c.hives.len(), "not every hive runs: {:?}", hives(c));
    let exit = c.queen.stop(STOPPED).await?;
    ensure!(exit.code == Some(0), "the queen's end was no success: {exit:?}");
    ensure!(hives(c).is_empty(), "the queen has ended and left its hives: {:?}", hives(c));
    Ok(())
}

pub(super) async fn ignores_being_stopped(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    c.hives[0].script(json!({ "stop": { "ignore_shutdown": true, "ignore_term": true } })).await?;
    c.hives[1].running.signal(Signal::STOP)?;
    c.faults += 1;
    let exit = c.queen.stop(STOPPED).await?;
    ensure!(exit.code == Some(0), "the queen's end was no success: {exit:?}");
    ensure!(hives(c).is_empty(), "the queen has ended and left its hives: {:?}", hives(c));
    Ok(())
}

pub(super) async fn second_signal(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "stop": { "ignore_shutdown": true, "ignore_term": true } })).await?;
    c.queen.running.signal(Signal::TERM)?;
    c.wait_until("the hives are told to stop", SOON, async || {
        let mut told = 0;
        for hive in &c.hives {
            told += usize::from(hive.journal().await?.iter().any(|call| call.call == "shutdown"));
        }
        Ok(told == c.hives.len())
    })
    .await?;
    ensure!(hives(c).len() == c.hives.len(), "they ended by themselves: {:?}", hives(c));
    c.queen.running.signal(Signal::INT)?;
    // Far less than the grace.
    let exit = c.queen.running.ended(STOPPED).await?;
    ensure!(exit.code == Some(0), "the queen's end was no success: {exit:?}");
    ensure!(hives(c).is_empty(), "the queen has ended and left its hives: {:?}", hives(c));
    Ok(())
}

pub(super) async fn killed(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    let mut killed = Vec::new();
    for hive in 0..c.hives.len() {
        killed.push((c.hives[hive].id.clone(), Timestamp::from(SystemTime::now()).as_millis()));
        c.hives[hive].kill().await?;
    }
    for hive in &mut c.hives {
        hive.find_successor().await?;
    }
    c.until_online().await?;
    c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(hives(c).len() == c.hives.len(), "not one process for each hive: {:?}", hives(c));
    let slowest = killed.iter().map(|(id, at)| noticed(c, id, *at)).collect::<anyhow::Result<Vec<_>>>()?;
    let slowest = slowest.into_iter().max().unwrap_or_default();
    c.figures.push(format!("the end of a hive of this machine is noticed after {slowest} ms (at most 100)"));
    Ok(())
}

/// Milliseconds until the queen said of a hive that was killed at this time that it is not online any more.
fn noticed(c: &Cluster, id: &str, killed_at: i64) -> anyhow::Result<i64> {
    let is_it = |event: &fleet::Event| {
        let EventKind::HivePhase { hive_id, phase, .. } = &event.kind else { return None };
        let after = event.at.as_millis() - killed_at;
        (hive_id.as_str() == id && *phase != HivePhase::Online && after >= 0).then_some(after)
    };
    c.queen
        .events
        .all()
        .iter()
        .find_map(is_it)
        .with_context(|| format!("nothing was said of the end of {id}"))
}

pub(super) async fn queen_killed(c: &mut Cluster) -> anyhow::Result<()> {
    let first = c.warm(MODEL).await?.hive();
    let before = hives(c);
    c.queen.kill().await?;
    c.faults += 1;
    c.queen.restart().await?;
    let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(outcome.hive() == first, "{first:?} served before and {:?} does now", outcome.hive());
    ensure!(hives(c) == before, "{before:?} ran before and {:?} do now", hives(c));
    ensure!(c.count("spawn").await? == 1, "the worker was started a second time");
    Ok(())
}

/// Kills the queen at moments spread over its start and the launch of its hives, and a last time never.
pub(super) async fn queen_killed_while_starting(c: &mut Cluster) -> anyhow::Result<()> {
    for turn in 0..8 {
        c.queen.kill().await?;
        if turn % 2 == 0 {
            // With nobody left, the next queen has to start them anew.
            for hive in 0..c.hives.len() {
                if c.hives[hive].running.is_alive() {
                    c.hives[hive].kill().await?;
                }
            }
        }
        c.faults += 1;
        c.queen.start_again()?;
        tokio::time::sleep(c.moment(turn, Duration::from_millis(400))).await;
    }
    c.queen.kill().await?;
    c.queen.restart().await?;
    c.until_online().await?;
    let running = hives(c);
    ensure!(running.len() == c.hives.len(), "not one process for each hive: {running:?}");
    for hive in 0..c.hives.len() {
        let (id, home) = (c.hives[hive].id.clone(), c.hives[hive].data_dir.clone());
        c.hives[hive] = FakeHive::launched(&id, &home).await?;
    }
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn stopped_at_any_moment(c: &mut Cluster) -> anyhow::Result<()> {
    for turn in 0..5 {
        let exit = c.queen.stop(STOPPED).await?;
        ensure!(exit.code == Some(0), "turn {turn}: the queen's end was no success: {exit:?}");
        ensure!(hives(c).is_empty(), "turn {turn}: the queen has ended and left {:?}", hives(c));
        c.queen.start_again()?;
        // Not before it listens to signals at all: until then it has started nothing either.
        c.queen.until_ready().await?;
        tokio::time::sleep(c.moment(turn, Duration::from_millis(300))).await;
        c.faults += 1;
    }
    Ok(())
}

pub(super) async fn port_taken(c: &mut Cluster) -> anyhow::Result<()> {
    c.queen.stop(STOPPED).await?;
    let taken = std::net::TcpListener::bind(("127.0.0.1", c.hives[0].port))?;
    c.faults += 1;
    c.queen.restart().await?;
    c.wait_until("the hive without a port says so", SOON, async || {
        let hives = c.hives_list().await?;
        let told = hives[0]["reason"].as_str().unwrap_or_default().contains("in use");
        Ok(told && hives[0]["phase"] == "error" && hives[1]["phase"] == "online")
    })
    .await?;
    c.infer(&c.ask(MODEL)).await?.complete()?;
    // Nobody tries for ever; the owner frees the port and starts again.
    drop(taken);
    c.queen.stop(STOPPED).await?;
    c.queen.restart().await?;
    c.until_online().await
}

pub(super) async fn ends_at_once(c: &mut Cluster) -> anyhow::Result<()> {
    let script = json!({ "start": { "exit": 9, "says": ["no such device, says the fake"] } });
    std::fs::write(c.hives[0].data_dir.join("script.json"), script.to_string())?;
    c.hives[0].kill().await?;
    c.wait_until("the hive that does not start is an error", SOON * 2, async || {
        let hives = c.hives_list().await?;
        Ok(hives[0]["phase"] == "error" && hives[1]["phase"] == "online")
    })
    .await?;
    let hives = c.hives_list().await?;
    let reason = hives[0]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains('9'), "its exit code is not told: {reason}");
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

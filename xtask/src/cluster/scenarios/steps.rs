//! The queen dies at a step, and the next one goes on as if nothing had happened.

mod entries;
mod migration;
mod recovery;
mod wishes;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{launched::hives, machines::starts};
use crate::{
    cluster::{
        fleet::{Cluster, SOON},
        hive::FakeHive,
        other_machine::BOX,
    },
    ports,
};

pub(super) use self::{
    entries::of_an_entry,
    migration::of_a_migration,
    recovery::{of_a_network_recovery, of_a_recovery, of_a_second_launch, of_a_second_stop},
    wishes::{of_a_drain, of_a_pause},
};

/// Longer than a queen takes to come to any step, and to stop.
const DEATH: Duration = Duration::from_secs(20);

/// Waits until the queen has died by itself.
async fn died(c: &mut Cluster, step: &str) -> anyhow::Result<()> {
    c.faults += 1;
    let exit = c.queen.running.ended(DEATH).await.with_context(|| format!("it does not come to {step}"))?;
    ensure!(exit.signal.is_some(), "at {step} it ended by itself: {exit:?}");
    Ok(())
}

/// A queen after the one that died: each hive is online, by one process.
async fn next(c: &mut Cluster, step: &str) -> anyhow::Result<()> {
    c.queen.restart().await?;
    c.until_online().await.with_context(|| format!("after {step}"))?;
    let running = hives(c);
    ensure!(running.len() == c.hives.len(), "after {step} not one process for each hive: {running:?}");
    find_hives(c).await
}

async fn find_hives(c: &mut Cluster) -> anyhow::Result<()> {
    for hive in 0..c.hives.len() {
        let (id, home) = (c.hives[hive].id.clone(), c.hives[hive].data_dir.clone());
        c.hives[hive] = FakeHive::launched(&id, &home).await?;
    }
    Ok(())
}

pub(super) async fn of_a_launch(c: &mut Cluster) -> anyhow::Result<()> {
    for step in [
        "launch-not-intended",
        "launch-intended",
        "launch-spawned",
        "launch-recorded",
        "launch-listens",
        "launch-healthy",
    ] {
        c.queen.stop(DEATH).await?;
        ensure!(hives(c).is_empty(), "before {step} hives are left: {:?}", hives(c));
        c.queen.start_to_die(step)?;
        died(c, step).await?;
        next(c, step).await?;
        c.infer(&c.ask("hf:fake/alpha")).await?.complete()?;
    }
    Ok(())
}

pub(super) async fn of_a_cold_start(c: &mut Cluster) -> anyhow::Result<()> {
    for (step, model) in [
        ("download-noted", "hf:fake/alpha"),
        ("download-over", "hf:fake/beta"),
        ("spawn-answered", "hf:fake/gamma"),
    ] {
        c.queen.stop(DEATH).await?;
        c.queen.start_to_die(step)?;
        c.queen.until_ready().await?;
        c.until_online().await?;
        let lost = c.infer(&c.ask(model)).await;
        ensure!(lost.is_err() || lost.is_ok_and(|o| o.complete().is_err()), "{step} was passed alive");
        died(c, step).await?;
        next(c, step).await?;
        c.infer(&c.ask(model)).await?.complete()?;
        let spawns = c.count("spawn").await?;
        ensure!(spawns == 1, "after {step} the worker was started {spawns} times");
        let workers = c.workers_list().await?.len();
        ensure!(workers == 1, "after {step} there are {workers} workers");
    }
    Ok(())
}

pub(super) async fn of_a_stop(c: &mut Cluster) -> anyhow::Result<()> {
    let (ran, step) = (hives(c), "stop-not-noted");
    c.queen.kill().await?;
    c.queen.start_to_die(step)?;
    c.queen.until_ready().await?;
    c.until_online().await?;
    let told = c.post(&format!("/v1/hives/{}/stop", c.hives[0].id), &json!({})).await;
    ensure!(told.is_err(), "{step} was passed alive");
    died(c, step).await?;
    next(c, step).await?;
    ensure!(hives(c) == ran, "after {step} {:?} runs in place of {ran:?}", hives(c));
    for step in ["stop-noted", "stop-told", "stop-asked", "stop-ended"] {
        c.queen.stop(DEATH).await?;
        c.queen.start_to_die(step)?;
        c.queen.until_ready().await?;
        c.until_online().await?;
        let path = format!("/v1/hives/{}", c.hives[0].id);
        let _ = c.post(&format!("{path}/stop"), &json!({})).await;
        died(c, step).await?;
        c.queen.restart().await?;
        c.wait_until("the hive that was stopped stays so", SOON, async || {
            Ok(c.phase(&c.hives[0].id).await? == "offline" && hives(c).is_empty())
        })
        .await
        .with_context(|| format!("after {step}"))?;
        let started = c.post(&format!("{path}/start"), &json!({})).await?;
        ensure!(started.status.is_success(), "it cannot be started again: {}", started.text());
        c.until_online().await?;
        find_hives(c).await?;
        c.infer(&c.ask("hf:fake/alpha")).await?.complete()?;
    }
    Ok(())
}

/// The queen after the one that died: one hive runs there, and nothing is left of what was begun.
async fn next_there(c: &mut Cluster, step: &str) -> anyhow::Result<()> {
    c.queen.restart().await?;
    c.until_online_within(SOON * 4).await.with_context(|| format!("after {step}"))?;
    let there = c.other()?;
    ensure!(there.hives().len() == 1, "after {step} not one hive runs there: {:?}", there.hives());
    ensure!(there.partial().is_empty(), "after {step} there is half of something: {:?}", there.partial());
    Ok(())
}

/// The queen has ended, and the hive there took its leave of her a moment before its process is gone.
async fn nobody_there(c: &Cluster) -> anyhow::Result<()> {
    c.wait_until("no hive is left there", SOON, async || Ok(c.other()?.hives().is_empty())).await
}

pub(super) async fn of_an_upload(c: &mut Cluster) -> anyhow::Result<()> {
    for step in ["upload-begun", "upload-sending", "upload-sent", "upload-named", "upload-activated"] {
        c.queen.stop(DEATH).await?;
        nobody_there(c).await.with_context(|| format!("before {step}"))?;
        // As if nobody had ever been there.
        std::fs::remove_dir_all(&c.other()?.dir)?;
        c.queen.start_to_die(step)?;
        died(c, step).await?;
        let there = c.other()?;
        ensure!(there.hives().is_empty(), "at {step} there runs {:?}", there.hives());
        next_there(c, step).await?;
    }
    Ok(())
}

pub(super) async fn of_a_network_launch(c: &mut Cluster) -> anyhow::Result<()> {
    for (step, runs) in [
        ("launch-intended", false),
        ("network-logged-in", false),
        ("network-started", true),
        ("network-recorded", true),
        ("launch-listens", true),
        ("launch-healthy", true),
    ] {
        c.queen.stop(DEATH).await?;
        nobody_there(c).await.with_context(|| format!("before {step}"))?;
        c.queen.start_to_die(step)?;
        died(c, step).await?;
        let before = c.other()?.hives();
        ensure!(before.len() == usize::from(runs), "at {step} there runs {before:?}");
        next_there(c, step).await?;
        let after = c.other()?.hives();
        ensure!(!runs || after == before, "after {step} {after:?} runs in place of {before:?}");
    }
    Ok(())
}

/// What the queen is doing while a hive is being started over SSH, which is also the step between its order and the reply.
const STARTING: &str = "start the hive";

pub(super) async fn of_a_lost_reply(c: &mut Cluster) -> anyhow::Result<()> {
    // A hive that takes its time is not there yet when the next queen looks.
    for slow in [0, 500, 3000] {
        c.queen.stop(DEATH).await?;
        nobody_there(c).await?;
        let script = json!({ "start": { "listen_after_ms": slow } });
        std::fs::write(c.other()?.dir.join("script.json"), script.to_string())?;
        c.queen.start_to_hang(STARTING)?;
        c.wait_until("a hive is started there", DEATH, async || Ok(c.other()?.hives().len() == 1)).await?;
        let started = c.other()?.hives();
        c.queen.kill().await?;
        c.faults += 1;
        let before = starts(c);
        next_there(c, STARTING).await?;
        ensure!(starts(c) == before, "a hive was started beside the one that began for {slow} ms");
        let after = c.other()?.hives();
        ensure!(after == started, "{after:?} runs in place of {started:?}, which began for {slow} ms");
        // It is known well enough to be ended by a queen that has never seen it.
        c.queen.kill().await?;
        c.queen.start_to_die("stop-noted")?;
        c.queen.until_ready().await?;
        c.until_online_within(SOON * 4).await?;
        ensure!(c.other()?.hives() == started, "{:?} runs in place of {started:?}", c.other()?.hives());
        let _ = c.post(&format!("/v1/hives/{BOX}/stop"), &json!({})).await;
        died(c, "stop-noted").await?;
        c.queen.restart().await?;
        c.wait_until("the hive that was to stop has ended", SOON, async || Ok(c.other()?.hives().is_empty()))
            .await
            .with_context(|| format!("after a start of {slow} ms"))?;
        let again = c.post(&format!("/v1/hives/{BOX}/start"), &json!({})).await?;
        ensure!(again.status.is_success(), "it cannot be started again: {}", again.text());
        c.until_online_within(SOON * 4).await?;
    }
    Ok(())
}

pub(super) async fn of_a_network_stop(c: &mut Cluster) -> anyhow::Result<()> {
    let path = format!("/v1/hives/{BOX}");
    for step in ["stop-noted", "stop-told", "stop-asked", "stop-ended"] {
        c.queen.stop(DEATH).await?;
        c.queen.start_to_die(step)?;
        c.queen.until_ready().await?;
        c.until_online_within(SOON * 4).await?;
        let _ = c.post(&format!("{path}/stop"), &json!({})).await;
        died(c, step).await?;
        c.queen.restart().await?;
        c.wait_until("the hive that was stopped stays so", SOON, async || {
            Ok(c.phase(BOX).await? == "offline" && c.other()?.hives().is_empty())
        })
        .await
        .with_context(|| format!("after {step}"))?;
        let started = c.post(&format!("{path}/start"), &json!({})).await?;
        ensure!(started.status.is_success(), "it cannot be started again: {}", started.text());
        c.until_online_within(SOON * 4).await?;
    }
    Ok(())
}

/// The hive that these scenarios add.
const EXTRA: &str = "extra";

pub(super) async fn of_a_removal(c: &mut Cluster) -> anyhow::Result<()> {
    for step in ["removal-noted", "removal-ended"] {
        c.queen.stop(DEATH).await?;
        c.queen.start_to_die(step)?;
        c.queen.until_ready().await?;
        c.register(&json!({ "id": EXTRA, "port": ports::free()? })).await?.expect(201)?;
        c.wait_until("the hive to remove is online", SOON, async || Ok(c.phase(EXTRA).await? == "online"))
            .await?;
        ensure!(c.remove(EXTRA).await.is_err(), "{step} was passed alive");
        died(c, step).await?;
        c.queen.restart().await?;
        c.until_online().await.with_context(|| format!("after {step}"))?;
        without_extra(c).await.with_context(|| format!("after {step}"))?;
        find_hives(c).await?;
    }
    // The same for a hive whose entry is gone from the configuration.
    let with = format!("[[hive]]\nid = \"{EXTRA}\"\nport = {}\n", ports::free()?);
    let (file, before) = c.config()?;
    c.queen.stop(DEATH).await?;
    std::fs::write(&file, before.clone() + &with)?;
    c.queen.restart().await?;
    c.wait_until("the hive to remove is online", SOON, async || Ok(c.phase(EXTRA).await? == "online"))
        .await?;
    c.queen.kill().await?;
    c.faults += 1;
    std::fs::write(&file, before)?;
    let step = "hives-configured";
    c.queen.start_to_die(step)?;
    died(c, step).await?;
    ensure!(hives(c).len() == c.hives.len() + 1, "somebody ended it: {:?}", hives(c));
    c.queen.restart().await?;
    c.until_online().await?;
    without_extra(c).await.with_context(|| format!("after {step}"))?;
    find_hives(c).await
}

/// The hive that was removed is neither listed, nor does it run.
async fn without_extra(c: &Cluster) -> anyhow::Result<()> {
    c.wait_until("the removed hive is gone", SOON, async || {
        Ok(c.phase(EXTRA).await? == "absent" && hives(c).len() == c.hives.len())
    })
    .await
}

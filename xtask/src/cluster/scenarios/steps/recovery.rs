//! The queen dies, the next one dies while she takes over what the first one left, and so does perhaps the one after her.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{DEATH, EXTRA, died, find_hives, hives, next, nobody_there, without_extra};
use crate::{
    cluster::fleet::{Cluster, SOON},
    ports,
};

const MODEL: &str = "hf:fake/alpha";

/// What a queen comes by until she has what an earlier one left, in order.
const RECOVERY: [&str; 9] = [
    "hives-not-configured",
    "hives-configured",
    "hives-read",
    "hives-begun",
    "adoption-begun",
    "adoption-found",
    "adoption-noted",
    "adoption-followed",
    "adoption-served",
];

/// Queens one after the other, each of which dies at its step.
async fn deaths(c: &mut Cluster, steps: &[&str]) -> anyhow::Result<()> {
    for step in steps {
        c.queen.start_to_die(step)?;
        died(c, step).await?;
    }
    Ok(())
}

/// A queen that runs is succeeded by two that die while they recover, and a third that does not, for every step of it.
async fn rounds(
    c: &mut Cluster,
    mut recovered: impl AsyncFnMut(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (at, step) in RECOVERY.iter().enumerate() {
        let steps = [step, RECOVERY[(at + 1) % RECOVERY.len()]];
        c.queen.kill().await?;
        deaths(c, &steps).await?;
        c.queen.restart().await?;
        recovered(c).await.with_context(|| format!("after {steps:?}"))?;
    }
    Ok(())
}

pub(in crate::cluster::scenarios) async fn of_a_recovery(c: &mut Cluster) -> anyhow::Result<()> {
    let home = c.warm(MODEL).await?.hive().context("nobody answered")?;
    let drained =
        c.hives.iter().map(|hive| hive.id.clone()).find(|id| *id != home).context("there is one hive")?;
    c.post(&format!("/v1/hives/{drained}/drain"), &json!({})).await?.expect(202)?;
    let ran = hives(c);
    rounds(c, async |c| {
        c.wait_until("one hive serves and the other one is drained", SOON, async || {
            Ok(c.phase(&home).await? == "online" && c.phase(&drained).await? == "draining")
        })
        .await?;
        ensure!(hives(c) == ran, "{:?} run in place of {ran:?}", hives(c));
        let answered = c.infer(&c.ask(MODEL)).await?.complete()?;
        ensure!(answered.hive().as_ref() == Some(&home), "{:?} answers in place of {home}", answered.hive());
        let spawns = c.count("spawn").await?;
        ensure!(spawns == 1, "the worker was started {spawns} times");
        Ok(())
    })
    .await?;
    // The same for a worker of which no queen has heard that it is there.
    let model = "hf:fake/beta";
    c.queen.kill().await?;
    c.queen.start_to_die("spawn-answered")?;
    c.queen.until_ready().await?;
    let lost = c.infer(&c.ask(model)).await;
    ensure!(
        lost.is_err() || lost.is_ok_and(|lost| lost.complete().is_err()),
        "spawn-answered was passed alive"
    );
    died(c, "spawn-answered").await?;
    deaths(c, &["adoption-found", "adoption-served"]).await?;
    c.queen.restart().await?;
    c.infer(&c.ask(model)).await?.complete()?;
    let spawns = c.count("spawn").await?;
    ensure!(spawns == 2 && hives(c) == ran, "{spawns} workers were started by {:?}, not {ran:?}", hives(c));
    Ok(())
}

pub(in crate::cluster::scenarios) async fn of_a_network_recovery(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    let ran = c.other()?.hives();
    rounds(c, async |c| {
        c.until_online_within(SOON * 4).await?;
        ensure!(c.other()?.hives() == ran, "{:?} runs in place of {ran:?}", c.other()?.hives());
        c.infer(&c.ask(MODEL)).await?.complete()?;
        let spawns = c.count("spawn").await?;
        ensure!(spawns == 1, "the worker was started {spawns} times");
        Ok(())
    })
    .await?;
    for (first, then) in [
        ("launch-intended", ["adoption-begun", "network-started"]),
        ("network-started", ["adoption-begun", "adoption-found"]),
        ("network-started", ["adoption-noted", "adoption-followed"]),
        ("network-recorded", ["adoption-noted", "adoption-served"]),
    ] {
        c.queen.stop(DEATH).await?;
        nobody_there(c).await.with_context(|| format!("before {first}"))?;
        deaths(c, &[first]).await?;
        let before = c.other()?.hives();
        deaths(c, &then).await?;
        c.queen.restart().await?;
        c.until_online_within(SOON * 4).await.with_context(|| format!("after {first} and {then:?}"))?;
        let after = c.other()?.hives();
        ensure!(after.len() == 1, "after {first} and {then:?} not one hive runs there: {after:?}");
        ensure!(
            before.is_empty() || after == before,
            "after {first} and {then:?} {after:?} runs, not {before:?}"
        );
    }
    Ok(())
}

pub(in crate::cluster::scenarios) async fn of_a_second_launch(c: &mut Cluster) -> anyhow::Result<()> {
    for (first, then) in [
        ("launch-not-intended", ["launch-intended", "launch-spawned"]),
        ("launch-intended", ["adoption-begun", "launch-intended"]),
        ("launch-intended", ["launch-spawned", "adoption-found"]),
        ("launch-spawned", ["hives-begun", "adoption-noted"]),
        ("launch-spawned", ["adoption-begun", "adoption-found"]),
        ("launch-recorded", ["adoption-found", "adoption-followed"]),
        ("launch-listens", ["adoption-noted", "adoption-noted"]),
        ("launch-healthy", ["adoption-followed", "adoption-served"]),
    ] {
        let all = format!("{first} and {then:?}");
        c.queen.stop(DEATH).await?;
        ensure!(hives(c).is_empty(), "before {all} hives are left: {:?}", hives(c));
        deaths(c, &[first]).await?;
        let before = hives(c);
        deaths(c, &then).await?;
        next(c, &all).await?;
        let after = hives(c);
        ensure!(
            before.iter().all(|pid| after.contains(pid)),
            "after {all} {after:?} run, and not {before:?}"
        );
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    Ok(())
}

pub(in crate::cluster::scenarios) async fn of_a_second_stop(c: &mut Cluster) -> anyhow::Result<()> {
    let (stops, stays) = (c.hives[0].id.clone(), c.hives[1].running.identity().pid);
    let path = format!("/v1/hives/{stops}");
    for then in [["hives-read", "stop-asked"], ["stop-asked", "hives-begun"], ["hives-read", "stop-ended"]] {
        c.queen.kill().await?;
        c.queen.start_to_die("stop-noted")?;
        c.queen.until_ready().await?;
        c.until_online().await?;
        ensure!(c.post(&format!("{path}/stop"), &json!({})).await.is_err(), "stop-noted was passed alive");
        died(c, "stop-noted").await?;
        deaths(c, &then).await?;
        c.queen.restart().await?;
        c.wait_until("the hive that was stopped stays so, and the other one serves", SOON, async || {
            Ok(c.phase(&stops).await? == "offline" && hives(c) == [stays])
        })
        .await
        .with_context(|| format!("after stop-noted and {then:?}"))?;
        c.infer(&c.ask(MODEL)).await?.complete()?;
        c.post(&format!("{path}/start"), &json!({})).await?.expect(202)?;
        c.until_online().await?;
        find_hives(c).await?;
    }
    for then in
        [["hives-read", "stop-asked"], ["stop-asked", "removal-over"], ["removal-over", "hives-begun"]]
    {
        let ran = hives(c);
        c.queen.kill().await?;
        c.queen.start_to_die("removal-noted")?;
        c.queen.until_ready().await?;
        c.register(&json!({ "id": EXTRA, "port": ports::free()? })).await?.expect(201)?;
        c.wait_until("the hive to remove is online", SOON, async || Ok(c.phase(EXTRA).await? == "online"))
            .await?;
        ensure!(c.remove(EXTRA).await.is_err(), "removal-noted was passed alive");
        died(c, "removal-noted").await?;
        deaths(c, &then).await?;
        c.queen.restart().await?;
        c.until_online().await?;
        without_extra(c).await.with_context(|| format!("after removal-noted and {then:?}"))?;
        ensure!(hives(c) == ran, "after removal-noted and {then:?} {:?} run, not {ran:?}", hives(c));
    }
    Ok(())
}

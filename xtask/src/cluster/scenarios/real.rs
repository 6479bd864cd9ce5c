//! Real hives and the built-in worker, with the reciting model.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use process::{Process, Signal};
use queen_api::{ErrorCode, InferEvent};
use sha2::{Digest as _, Sha256};

use crate::{
    cluster::{
        answer::End,
        fleet::{Cluster, SOON},
    },
    strays,
};

fn model(c: &Cluster) -> String {
    format!("file:{}", c.folder.join("models/tiny.gguf").display())
}

/// The pids of all workers that run.
fn workers(c: &Cluster) -> Vec<u32> {
    let running = strays::below(&c.folder).into_iter();
    running.filter(|s| s.command.contains("llm-worker-rbee")).map(|s| s.identity.pid).collect()
}

/// The process of this program that runs for the fleet.
fn running(c: &Cluster, program: &str) -> anyhow::Result<Process> {
    let found = strays::below(&c.folder).into_iter().find(|stray| stray.command.contains(program));
    let found = found.with_context(|| format!("no {program} runs"))?;
    Process::open(&found.identity)?.with_context(|| format!("{program} has ended"))
}

/// Stops a process, and waits until each thread of it has stopped: until then it may still answer.
async fn freeze(c: &Cluster, process: &Process) -> anyhow::Result<()> {
    process.signal(Signal::STOP)?;
    let tasks = format!("/proc/{}/task", process.identity().pid);
    c.wait_until("every thread has stopped", SOON, async || {
        // Where there is no such folder nobody can tell.
        let Ok(tasks) = std::fs::read_dir(&tasks) else { return Ok(true) };
        Ok(tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        }))
    })
    .await
}

pub(super) async fn cold_then_warm(c: &mut Cluster) -> anyhow::Result<()> {
    let cold = c.infer(&c.ask(&model(c))).await?.complete()?;
    ensure!(cold.was_loading(), "nobody was told of the cold start");
    let asks: Vec<_> = (0..8).map(|_| c.ask(&model(c)).tokens(40)).collect();
    for outcome in c.infer_all(&asks).await? {
        ensure!(!outcome.complete()?.was_loading(), "a warm request was told of loading");
    }
    c.infer(&c.ask(&model(c)).whole()).await?.complete()?;
    ensure!(workers(c).len() == 1, "not one worker runs: {:?}", workers(c));
    Ok(())
}

pub(super) async fn killed_and_restarted(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(&model(c)).await?;
    let before = workers(c);
    c.queen.kill().await?;
    c.faults += 1;
    c.queen.restart().await?;
    let outcome = c.infer(&c.ask(&model(c))).await?.complete()?;
    ensure!(workers(c) == before, "{before:?} served before and {:?} do now", workers(c));
    ensure!(outcome.took < SOON, "it took {:?}", outcome.took);
    Ok(())
}

pub(super) async fn stop_in_a_cold_start(c: &mut Cluster) -> anyhow::Result<()> {
    let mut stream = c.open(&c.ask(&model(c))).await?;
    stream.until(|event| matches!(event, InferEvent::Loading { .. })).await?;
    let began = Instant::now();
    let (exit, outcome) = tokio::join!(c.queen.stop(SOON), stream.rest());
    ensure!(exit?.code == Some(0), "the queen's end was no success");
    ensure!(began.elapsed() <= Duration::from_secs(5), "the queen took {:?} to stop", began.elapsed());
    outcome.map(drop)
}

pub(super) async fn in_the_cache(c: &mut Cluster) -> anyhow::Result<()> {
    const COMMIT: &str = "7c41481f57cb95916b40956ab2f0b139b296d974";
    let model = std::fs::read(c.folder.join("models/tiny.gguf"))?;
    let digest: String = Sha256::digest(&model).iter().map(|byte| format!("{byte:02x}")).collect();
    let repository = c.folder.join("hf/models--some--model");
    let (blob, snapshot) =
        (repository.join("blobs").join(&digest), repository.join("snapshots").join(COMMIT));
    for dir in [&snapshot, &repository.join("blobs"), &repository.join("refs")] {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&blob, &model)?;
    std::os::unix::fs::symlink(format!("../../blobs/{digest}"), snapshot.join("tiny.gguf"))?;
    std::fs::write(repository.join("refs/main"), COMMIT)?;
    // Nobody answers where the hub should be, so that whatever is served came from the cache.
    let outcome = c.infer(&c.ask("hf:some/model")).await?.complete()?;
    ensure!(outcome.was_loading(), "nobody was told of the cold start");
    let catalog = c.get("/v1/models/catalog").await?.expect(200)?.text();
    ensure!(catalog.contains(&format!("{COMMIT}:tiny.gguf")) && catalog.contains(&digest), "{catalog}");
    ensure!(!c.folder.join("models/hub").exists(), "something was copied");
    let path = "/v1/models/catalog?ref=hf:some/model";
    c.queen.server.delete(path).await?.expect_error(409, "model_in_use")?;
    running(c, "llm-worker-rbee")?.signal(Signal::KILL)?;
    c.faults += 1;
    c.wait_until("the worker is gone, and the model is not removed", SOON, async || {
        let kept = c.queen.server.delete(path).await?;
        ensure!(kept.text().contains("hf cache rm model/some/model"), "{}", kept.text());
        kept.expect_error(409, "model_not_ours").map(|_| true)
    })
    .await?;
    ensure!(std::fs::read(&blob)? == model, "the cache was changed");
    c.infer(&c.ask("hf:some/model")).await?.complete()?;
    std::fs::remove_dir_all(&repository)?;
    Ok(())
}

pub(super) async fn not_a_model(c: &mut Cluster) -> anyhow::Result<()> {
    let file = c.folder.join("models/notes.gguf");
    std::fs::write(&file, "these are my notes\n".repeat(1000))?;
    let outcome = c.infer(&c.ask(&format!("file:{}", file.display())).whole()).await?;
    outcome.failed(ErrorCode::ModelInvalid)?;
    let missing = c.ask(&format!("file:{}", c.folder.join("models/nothing.gguf").display())).whole();
    c.infer(&missing).await?.failed(ErrorCode::ModelNotFound)?;
    ensure!(workers(c).is_empty(), "a worker was started for no model");
    Ok(())
}

pub(super) async fn hive_killed(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(&model(c)).await?;
    let before = workers(c);
    let hive = running(c, "rbee-hive")?;
    hive.signal(Signal::KILL)?;
    c.faults += 1;
    c.wait_until("the hive was started again", SOON, async || {
        let now = running(c, "rbee-hive");
        let another = now.is_ok_and(|now| now.identity() != hive.identity());
        Ok(another && c.phase("real-0").await? == "online")
    })
    .await?;
    c.infer(&c.ask(&model(c))).await?.complete()?;
    ensure!(workers(c) == before, "{before:?} served before and {:?} do now", workers(c));
    Ok(())
}

pub(super) async fn worker_frozen(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(&model(c)).await?;
    let worker = running(c, "llm-worker-rbee")?;
    freeze(c, &worker).await?;
    c.faults += 1;
    let outcome = c.infer(&c.ask(&model(c))).await;
    worker.signal(Signal::CONT)?;
    let outcome = outcome?;
    ensure!(matches!(outcome.end, End::Error { .. }), "a frozen worker's answer ended {:?}", outcome.end);
    c.wait_until("it is served again", SOON, async || {
        Ok(c.infer(&c.ask(&model(c))).await?.complete().is_ok())
    })
    .await
}

pub(super) async fn worker_killed(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(&model(c)).await?;
    let mut stream = c.open(&c.ask(&model(c)).tokens(2000)).await?;
    stream.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    running(c, "llm-worker-rbee")?.signal(Signal::KILL)?;
    c.faults += 1;
    let outcome = stream.rest().await?;
    ensure!(
        matches!(outcome.end, End::Complete | End::Error { .. }),
        "the answer of a worker that was killed ended {:?}",
        outcome.end
    );
    c.infer(&c.ask(&model(c))).await?.complete()?;
    ensure!(workers(c).len() == 1, "not one worker runs: {:?}", workers(c));
    Ok(())
}

pub(super) async fn hive_frozen(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(&model(c)).await?;
    let before = workers(c);
    let hive = running(c, "rbee-hive")?;
    freeze(c, &hive).await?;
    c.faults += 1;
    let lost = c.wait_until("the frozen hive is unreachable", SOON, async || {
        Ok(c.phase("real-0").await? == "unreachable")
    });
    let lost = lost.await;
    hive.signal(Signal::CONT)?;
    lost?;
    c.wait_until("the hive is back", SOON, async || Ok(c.phase("real-0").await? == "online")).await?;
    c.infer(&c.ask(&model(c))).await?.complete()?;
    ensure!(workers(c) == before, "{before:?} served before and {:?} do now", workers(c));
    Ok(())
}

//! What a hive tells of itself, at once and as it changes.

use std::time::{Duration, Instant};

use fleet::DeviceKind;
use hive_api::{LAUNCH_HEADER, LogsReply, Snapshot, WatchEvent};
use reqwest::{Method, StatusCode};

use crate::{
    probe::{Probe, Watch, body_of},
    verdict::{Check, Fault, ensure, same},
};

/// The contract's bound on silence, with the second that a loaded machine may be late.
const BEAT_MAX: Duration = Duration::from_secs(2);

async fn snapshot(probe: &Probe) -> Result<(Watch, Snapshot), Fault> {
    let mut watch = probe.watch().await?;
    match watch.next(BEAT_MAX).await? {
        WatchEvent::Snapshot(snapshot) => Ok((watch, *snapshot)),
        other => Err(Fault::Failed(format!("the first event is {:?}, not a snapshot", other.name()))),
    }
}

pub(super) async fn capabilities_describe_a_machine(probe: &Probe) -> Check {
    let reply = probe.client.capabilities().await?;
    same("launch_id", &reply.launch_id, &probe.health.launch_id)?;
    let machine = reply.capabilities;
    let last = machine.devices.last().map(|device| device.kind);
    same("the kind of the last device", &last, &Some(DeviceKind::Cpu))?;
    for device in &machine.devices {
        ensure(device.memory_free <= device.memory_total, || {
            format!("{} has more memory free than it has", device.selector())
        })?;
    }
    ensure(machine.ram_free <= machine.ram_total, || "more main memory is free than there is".to_owned())?;
    let mut selectors: Vec<_> = machine.devices.iter().map(fleet::Device::selector).collect();
    selectors.sort();
    selectors.dedup();
    same("the number of different devices", &selectors.len(), &machine.devices.len())
}

pub(super) async fn the_watch_begins_with_a_snapshot(probe: &Probe) -> Check {
    let response = probe.ask(Method::GET, "/v1/watch").send().await?;
    same("the status", &response.status(), &StatusCode::OK)?;
    let content_type = response.headers().get("content-type").and_then(|v| v.to_str().ok());
    ensure(content_type.is_some_and(|v| v.starts_with("text/event-stream")), || {
        format!("the content type is {content_type:?}")
    })?;
    ensure(!response.headers().contains_key(LAUNCH_HEADER), || {
        "the answer repeats the request's header".to_owned()
    })?;
    drop(response);
    let (_, snapshot) = snapshot(probe).await?;
    same("hive_id", &snapshot.hive_id, &probe.health.hive_id)?;
    same("launch_id", &snapshot.launch_id, &probe.health.launch_id)?;
    for worker in &snapshot.workers {
        same("a worker's launch_id", &worker.launch_id, &probe.health.launch_id)?;
        ensure(worker.rev <= snapshot.rev, || format!("{} is newer than the snapshot", worker.worker_id))?;
    }
    for download in &snapshot.downloads {
        ensure(!download.state.is_final(), || format!("{} is over and still listed", download.download_id))?;
    }
    Ok(())
}

pub(super) async fn beats_come_within_two_seconds(probe: &Probe) -> Check {
    let (mut watch, _) = snapshot(probe).await?;
    let mut last = Instant::now();
    for _ in 0..3 {
        loop {
            let event = watch.next(BEAT_MAX).await?;
            same("launch_id", event.launch_id(), &probe.health.launch_id)?;
            if matches!(event, WatchEvent::Beat(_)) {
                break;
            }
        }
        let gap = last.elapsed();
        ensure(gap <= BEAT_MAX, || format!("{gap:?} passed between two beats"))?;
        last = Instant::now();
    }
    Ok(())
}

pub(super) async fn revisions_grow_by_one(probe: &Probe) -> Check {
    let (mut watch, snapshot) = snapshot(probe).await?;
    counted(&mut watch, snapshot.rev, 3).await
}

/// Follows a watch for some beats: a change counts one further, a beat repeats.
async fn counted(watch: &mut Watch, mut rev: u64, beats: u32) -> Check {
    let mut seen = 0;
    while seen < beats {
        let event = watch.next(BEAT_MAX).await?;
        let expected = match event {
            WatchEvent::Beat(_) => {
                seen += 1;
                rev
            }
            WatchEvent::Snapshot(_) => return Err(Fault::failed("a second snapshot came in one watch")),
            _ => rev + 1,
        };
        same(&format!("the rev of a {:?}", event.name()), &event.rev(), &expected)?;
        rev = expected;
    }
    Ok(())
}

pub(super) async fn two_watchers_see_the_same(probe: &Probe) -> Check {
    let (mut first, one) = snapshot(probe).await?;
    let (mut second, two) = snapshot(probe).await?;
    ensure(one.rev <= two.rev, || "a later snapshot is older".to_owned())?;
    counted(&mut first, one.rev, 1).await?;
    counted(&mut second, two.rev, 1).await
}

pub(super) async fn lists_agree_with_the_snapshot(probe: &Probe) -> Check {
    let (_, before) = snapshot(probe).await?;
    let workers = probe.client.workers().await?;
    let models = probe.client.models().await?;
    for (name, launch_id, rev) in
        [("workers", &workers.launch_id, workers.rev), ("models", &models.launch_id, models.rev)]
    {
        same(&format!("the launch_id of the {name}"), launch_id, &probe.health.launch_id)?;
        ensure(rev >= before.rev, || format!("the list of {name} is older than the snapshot before it"))?;
    }
    let ids =
        |workers: &[fleet::WorkerRecord]| workers.iter().map(|w| w.worker_id.clone()).collect::<Vec<_>>();
    if workers.rev == before.rev {
        same("the list of workers", &ids(&workers.workers), &ids(&before.workers))?;
    }
    if models.rev == before.rev {
        same("the list of models", &models.models, &before.models)?;
    }
    Ok(())
}

pub(super) async fn logs_and_metrics_answer(probe: &Probe) -> Check {
    let body = body_of(probe.ask(Method::GET, "/v1/logs?lines=1").send().await?).await?;
    let logs: LogsReply = serde_json::from_slice(&body).map_err(|e| Fault::Failed(e.to_string()))?;
    ensure(logs.lines.len() <= 1, || format!("one line was asked for and {} came", logs.lines.len()))?;
    let metrics = probe.ask(Method::GET, "/metrics").send().await?;
    same("the status of /metrics", &metrics.status(), &StatusCode::OK)?;
    let content_type = metrics.headers().get("content-type").and_then(|v| v.to_str().ok());
    ensure(content_type.is_some_and(|v| v.starts_with("text/plain")), || {
        format!("the content type of /metrics is {content_type:?}")
    })
}

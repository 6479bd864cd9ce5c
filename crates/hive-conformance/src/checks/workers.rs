//! A worker on its way to ready.

use std::time::Duration;

use fleet::{WorkerId, WorkerRecord, WorkerState};
use hive_api::{ErrorCode, SpawnRequest, WatchEvent};
use reqwest::{Method, StatusCode};

use crate::{
    probe::{Probe, error_of},
    verdict::{Check, Fault, ensure, same},
};

/// Longest time between two events of a watch.
const SILENCE: Duration = Duration::from_secs(5);

pub(super) fn spawn_request(probe: &Probe) -> Result<SpawnRequest, Fault> {
    Ok(SpawnRequest {
        model_ref: probe.model()?.clone(),
        resolved: None,
        engine: None,
        device: None,
        context: Some(512),
        slots: Some(2),
        idempotency_key: format!("check-{}", probe.run),
    })
}

/// The record of a worker as it stands in the list.
pub(super) async fn listed(probe: &Probe, id: &WorkerId) -> Result<WorkerRecord, Fault> {
    let workers = probe.client.workers().await?.workers;
    workers
        .into_iter()
        .find(|w| w.worker_id == *id)
        .ok_or_else(|| Fault::Failed(format!("{id} is not listed")))
}

pub(super) async fn a_worker_becomes_ready(probe: &Probe) -> Check {
    let request = spawn_request(probe)?;
    let mut watch = probe.watch().await?;
    let answer = probe.ask(Method::POST, "/v1/workers/spawn").json(&request).send().await?;
    same("the status of a spawn", &answer.status(), &StatusCode::ACCEPTED)?;
    let reply = probe.client.spawn(&request).await?;
    let mut state: Option<WorkerState> = None;
    loop {
        let WatchEvent::Worker(record) = watch.next(SILENCE).await? else { continue };
        if record.worker_id != reply.worker_id {
            continue;
        }
        let legal = state.as_ref().is_none_or(|before| before.may_become(&record.state));
        ensure(legal, || format!("it went from {state:?} to {:?}", record.state))?;
        if record.state.is_ready() {
            described(&request, &reply.url, &record)?;
            return probe.worker.set(*record).map_err(|_| Fault::failed("two workers became ready"));
        }
        ensure(!record.state.is_over(), || format!("it ended: {:?}", record.state))?;
        state = Some(record.state);
    }
}

fn described(request: &SpawnRequest, url: &str, record: &WorkerRecord) -> Check {
    same("model_ref", &record.model_ref, &request.model_ref)?;
    same("url", &record.url.as_str(), &url)?;
    let path = format!("/v1/workers/{}/proxy", record.worker_id);
    ensure(record.url.ends_with(&path), || format!("its url {:?} does not end with {path}", record.url))?;
    ensure(record.slots > 0 && record.context > 0, || "it has no slots or no context".to_owned())
}

pub(super) async fn the_same_key_gives_the_same_worker(probe: &Probe) -> Check {
    let worker = probe.ready_worker()?;
    let reply = probe.client.spawn(&spawn_request(probe)?).await?;
    same("the worker of the same key", &reply.worker_id, &worker.worker_id)?;
    same("its state", &reply.state, &WorkerState::Ready)
}

pub(super) async fn a_model_in_use_stays(probe: &Probe) -> Check {
    probe.ready_worker()?;
    let path = format!("/v1/models?ref={}", probe.model()?);
    error_of(probe.ask(Method::DELETE, &path), &[ErrorCode::ModelInUse]).await.map(drop)
}

pub(super) async fn a_workers_log_can_be_read(probe: &Probe) -> Check {
    let worker = probe.ready_worker()?;
    let logs = probe.client.logs(Some(&worker.worker_id), 3).await?;
    ensure(logs.lines.len() <= 3, || format!("three lines were asked for and {} came", logs.lines.len()))
}

//! The end of a worker, and of the hive.

use std::time::{Duration, Instant};

use hive_api::{ErrorCode, ShutdownRequest, StopWorkerRequest};
use reqwest::{Method, StatusCode};

use super::workers::{listed, spawn_request};
use crate::{
    probe::{Probe, error_of},
    verdict::{Check, ensure, same},
};

/// A hive without work ends within this time.
const ENDED: Duration = Duration::from_secs(10);

pub(super) async fn a_worker_is_stopped(probe: &Probe) -> Check {
    let id = &probe.ready_worker()?.worker_id;
    let path = format!("/v1/workers/{id}/stop");
    let answer = probe.ask(Method::POST, &path).send().await?;
    same("the status", &answer.status(), &StatusCode::ACCEPTED)?;
    loop {
        let record = listed(probe, id).await?;
        ensure(!record.state.is_ready(), || "it is ready although it was stopped".to_owned())?;
        if record.state.is_over() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn stopping_again_changes_nothing(probe: &Probe) -> Check {
    let id = &probe.ready_worker()?.worker_id;
    let before = listed(probe, id).await?;
    let after = probe.client.stop_worker(id, &StopWorkerRequest { grace_ms: Some(0) }).await?;
    same("the state", &after.state, &before.state)?;
    let reply = probe.client.spawn(&spawn_request(probe)?).await?;
    same("the worker of the same key", &reply.worker_id, id)
}

pub(super) async fn a_stopped_worker_takes_no_requests(probe: &Probe) -> Check {
    let path = format!("/v1/workers/{}/proxy/v1/completions", probe.ready_worker()?.worker_id);
    let request = probe.ask(Method::POST, &path).body("{}");
    error_of(request, &[ErrorCode::WorkerNotReady]).await.map(drop)
}

pub(super) async fn the_hive_ends_as_asked(probe: &Probe) -> Check {
    let reply = probe.client.shutdown(&ShutdownRequest { grace_ms: Some(0) }).await?;
    same("status", &reply.status.as_str(), &"stopping")?;
    let asked = Instant::now();
    while probe.bare(Method::GET, "/v1/health").send().await.is_ok() {
        ensure(asked.elapsed() < ENDED, || format!("it still answers {ENDED:?} later"))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

//! What goes through a hive to a worker, and what comes back.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hive_api::{ErrorCode, LAUNCH_HEADER, WORKER_HEADER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::workers::listed;
use crate::{
    probe::{Probe, body_of, error_of},
    verdict::{Check, Fault, ensure, same},
};

/// A slot is free this long after its caller left: a second for the engine, and two for the report.
const FREED: Duration = Duration::from_secs(3);

/// Counters are reported at least this often.
const COUNTED: Duration = Duration::from_secs(5);

fn path(probe: &Probe) -> Result<String, Fault> {
    Ok(format!("/v1/workers/{}/proxy/v1/completions", probe.ready_worker()?.worker_id))
}

fn completion(probe: &Probe, max_tokens: u32, stream: bool) -> Result<RequestBuilder, Fault> {
    let body = json!({
        "model": probe.model()?, "prompt": "Once upon a time", "max_tokens": max_tokens, "stream": stream
    });
    Ok(probe.ask(Method::POST, &path(probe)?).json(&body))
}

fn is_from(probe: &Probe, answer: &Response) -> Check {
    let worker = probe.ready_worker()?;
    let named = answer.headers().get(WORKER_HEADER).and_then(|v| v.to_str().ok());
    same(WORKER_HEADER, &named, &Some(worker.worker_id.as_str()))
}

pub(super) async fn an_answer_names_its_worker(probe: &Probe) -> Check {
    let answer = completion(probe, 4, false)?.send().await?;
    same("the status", &answer.status(), &StatusCode::OK)?;
    is_from(probe, &answer)?;
    let answer: Value =
        serde_json::from_slice(&body_of(answer).await?).map_err(|e| Fault::Failed(e.to_string()))?;
    ensure(answer["choices"][0]["text"].is_string(), || format!("the answer is no completion: {answer}"))
}

pub(super) async fn another_launch_never_reaches_a_worker(probe: &Probe) -> Check {
    let before = listed(probe, &probe.ready_worker()?.worker_id).await?.prompt_tokens_total;
    let request = probe.bare(Method::POST, &path(probe)?).header(LAUNCH_HEADER, "l-of-another-time");
    let request =
        request.bearer_auth(probe.target.token.reveal()).json(&json!({"prompt": "no", "max_tokens": 1}));
    error_of(request, &[ErrorCode::StaleLaunch]).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The answer before may still be on its way into the counters, so only growth beyond it would tell.
    let after = listed(probe, &probe.ready_worker()?.worker_id).await?.prompt_tokens_total;
    ensure(after < before + 64, || format!("its prompt tokens grew from {before} to {after}"))
}

pub(super) async fn a_stream_ends_with_its_terminator(probe: &Probe) -> Check {
    let answer = completion(probe, 4, true)?.send().await?;
    same("the status", &answer.status(), &StatusCode::OK)?;
    is_from(probe, &answer)?;
    let body = body_of(answer).await?;
    let text = String::from_utf8_lossy(&body);
    ensure(text.trim_end().ends_with("data: [DONE]"), || "the stream has no terminator".to_owned())
}

pub(super) async fn counters_grow(probe: &Probe) -> Check {
    let id = &probe.ready_worker()?.worker_id;
    let begin = Instant::now();
    loop {
        let record = listed(probe, id).await?;
        if record.prompt_tokens_total > 0 && record.output_tokens_total > 0 {
            return Ok(());
        }
        ensure(begin.elapsed() < COUNTED, || "its token totals stay 0 after answers were given".to_owned())?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(super) async fn a_caller_that_leaves_frees_the_slot(probe: &Probe) -> Check {
    let id = &probe.ready_worker()?.worker_id;
    let answer = completion(probe, 400, true)?.send().await?;
    same("the status", &answer.status(), &StatusCode::OK)?;
    let mut pieces = answer.bytes_stream();
    pieces.next().await.transpose()?;
    drop(pieces);
    let left = Instant::now();
    loop {
        if listed(probe, id).await?.slots_busy == 0 {
            return Ok(());
        }
        ensure(left.elapsed() < FREED, || format!("its slot is still busy {FREED:?} later"))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn a_request_that_the_engine_refuses_is_the_engines_answer(probe: &Probe) -> Check {
    let answer = probe.ask(Method::POST, &path(probe)?).body("{ this is no JSON").send().await?;
    ensure(answer.status().is_client_error() || answer.status().is_server_error(), || {
        format!("an engine took a broken body: {}", answer.status())
    })?;
    is_from(probe, &answer)
}

//! Requests through a hive to a worker.

use std::time::Duration;

use fleet::WorkerStateName;
use hive_api::{ErrorBody, ErrorCode, StopWorkerRequest, WORKER_HEADER};
use tokio::time::Instant;

use crate::{
    engine,
    harness::{Machine, Running, until, within},
};

const POST: reqwest::Method = reqwest::Method::POST;

async fn refusal(answer: reqwest::Response) -> (u16, ErrorCode, serde_json::Value) {
    let status = answer.status().as_u16();
    let body: ErrorBody = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    (status, body.error.code, body.error.details.unwrap_or_default())
}

#[tokio::test]
async fn bytes_are_handed_on_as_they_come() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let url = format!("{}/v1/completions?events=5&delay_ms=100", worker.url);
    let mut answer = running.http(POST, &url).body("{}").send().await.unwrap();
    assert_eq!(answer.headers()[WORKER_HEADER], worker.worker_id.as_str());
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let (mut count, mut last) = (0, Instant::now());
    while let Some(piece) = answer.chunk().await.unwrap() {
        assert_eq!(piece, format!("data: {count}\n\n"), "one piece for one event");
        if count > 0 {
            assert!(last.elapsed() > Duration::from_millis(50), "event {count} was held back");
        }
        (count, last) = (count + 1, Instant::now());
    }
    assert_eq!(count, 5);
}

#[tokio::test]
async fn the_engine_is_told_within_a_second_that_the_client_left() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let log = machine.hive_dir().join(format!("logs/{}.log", worker.worker_id));
    let url = format!("{}/v1/completions?events=1000000&delay_ms=20", worker.url);
    let mut answer = running.http(POST, &url).send().await.unwrap();
    answer.chunk().await.unwrap().expect("it streams");
    let left = Instant::now();
    drop(answer);
    until("the engine cancels", || process::tail(&log, 100).iter().any(|line| line == "cancelled")).await;
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
}

#[tokio::test]
async fn an_engine_that_dies_in_mid_answer_is_never_taken_for_a_complete_one() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let url = format!("{}/v1/completions?events=10&delay_ms=1&dies_after=3", worker.url);
    let answer = running.http(POST, &url).send().await.unwrap();
    assert!(answer.bytes().await.is_err(), "the answer must break off");
    running.worker_in(&worker.worker_id, WorkerStateName::Failed).await;
    let after = running.http(POST, &url).send().await.unwrap();
    let (status, code, details) = refusal(after).await;
    assert_eq!((status, code), (409, ErrorCode::WorkerNotReady));
    assert_eq!(details["sent"], false);
}

#[tokio::test]
async fn an_engine_sees_no_secret_and_sets_no_header_of_its_own() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let url = format!("{}/headers", worker.url);
    let answer = running.http(POST, &url).header("cookie", "a=b").body("{}").send().await.unwrap();
    for name in ["set-cookie", "location", "x-secret"] {
        assert!(!answer.headers().contains_key(name), "{name} came through");
    }
    let seen: Vec<String> = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    for name in ["authorization", "cookie", hive_api::LAUNCH_HEADER] {
        assert!(!seen.contains(&name.to_owned()), "the engine saw {name}: {seen:?}");
    }
}

#[tokio::test]
async fn a_worker_that_is_not_ready_gets_no_request() {
    let machine = Machine::new(&engine::entry("stuck", &[("LOAD_MS", "999999")]));
    let running = machine.launch("l-1").await;
    let reply = running.client.spawn(&machine.request("stuck", "k")).await.unwrap();
    let answer = running.http(POST, &format!("{}/v1/completions", reply.url)).send().await.unwrap();
    let (status, code, _) = refusal(answer).await;
    assert_eq!((status, code), (409, ErrorCode::WorkerNotReady));
    let unknown = reply.url.replace(reply.worker_id.as_str(), "w-none");
    let (status, code, _) = refusal(running.http(POST, &format!("{unknown}/x")).send().await.unwrap()).await;
    assert_eq!((status, code), (404, ErrorCode::NotFound));
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let request = running.http(POST, &format!("{}/headers", worker.url));
    let answer = request.header("connection", "upgrade").header("upgrade", "websocket").send().await.unwrap();
    let (status, code, _) = refusal(answer).await;
    assert_eq!((status, code), (400, ErrorCode::InvalidRequest));
}

async fn streams(running: &Running, url: &str) -> reqwest::Response {
    let mut answer = running.http(POST, url).send().await.unwrap();
    answer.chunk().await.unwrap().expect("it streams");
    answer
}

#[tokio::test]
async fn a_stopping_worker_finishes_what_it_has_and_takes_nothing_new() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let url = format!("{}/v1/completions?events=40&delay_ms=20", worker.url);
    let answer = streams(&running, &url).await;
    running.client.stop_worker(&worker.worker_id, &StopWorkerRequest::default()).await.unwrap();
    running.worker_in(&worker.worker_id, WorkerStateName::Draining).await;
    let (status, code, _) = refusal(running.http(POST, &url).send().await.unwrap()).await;
    assert_eq!((status, code), (409, ErrorCode::WorkerNotReady));
    let rest = within("the answer ends", answer.bytes()).await.expect("it is complete");
    assert!(rest.ends_with(b"data: 39\n\n"));
    running.worker_in(&worker.worker_id, WorkerStateName::Stopped).await;
}

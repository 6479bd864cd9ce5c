//! Readiness, events and the end.

use std::time::Duration;

use fleet::{Event, EventKind, RequestOutcome};
use futures_util::StreamExt;
use http_api::Limits;
use queen_api::{HivesOnStop, ReadyReply, ReadyState};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::rig::{PATIENCE, Queen, Wishes, eventually, script};

#[tokio::test]
async fn readiness_says_what_is_there() {
    let queen = Queen::serving(vec![script(json!({}))], Wishes::default()).await;
    let ready = queen.get("/readyz").send().await.unwrap();
    assert_eq!(ready.status(), 200);
    let ready: ReadyReply = ready.json().await.unwrap();
    assert_eq!((ready.status, ready.hives_online, ready.workers_ready), (ReadyState::Ready, 1, 1));
    let health: Value = queen.get("/healthz").send().await.unwrap().json().await.unwrap();
    assert_eq!(health["status"], "ok");
}

#[tokio::test]
async fn events_come_from_where_the_reader_left_off_and_as_they_happen() {
    let limits = Limits { comment_every: Duration::from_millis(50), ..Limits::default() };
    let queen = Queen::alone(Wishes { limits, ..Wishes::default() }).await;
    for _ in 0..3 {
        queen.journal.record(EventKind::QueenStopping);
    }
    let answer = queen.get("/v1/events?since=1").send().await.unwrap();
    let mut events = Box::pin(sse::events(answer.bytes_stream(), 1 << 20));
    let mut next = async || {
        let event = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
        serde_json::from_slice::<Event>(&event.data).unwrap().seq
    };
    assert_eq!((next().await, next().await), (2, 3));
    queen.journal.record(EventKind::QueenStopping);
    assert_eq!(next().await, 4);
    let raw = queen.get("/v1/events").send().await.unwrap();
    let first = timeout(PATIENCE, raw.bytes_stream().next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first, ": nothing happened\n\n", "a silent stream does not look dead");
}

#[tokio::test]
async fn a_reader_that_missed_events_is_told_how_many() {
    let queen = Queen::alone(Wishes::default()).await;
    for _ in 0..1500 {
        queen.journal.record(EventKind::QueenStopping);
    }
    let answer = queen.get("/v1/events?since=0").send().await.unwrap();
    let mut events = Box::pin(sse::events(answer.bytes_stream(), 1 << 20));
    let first = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.data, r#"{"missed":500,"type":"lagged"}"#);
    let wrong = queen.get("/v1/events?since=yesterday").send().await.unwrap();
    assert_eq!(wrong.status(), 400);
}

#[tokio::test]
async fn an_order_to_stop_is_taken_once_and_then_new_requests_are_refused() {
    let slow = script(json!({ "worker": { "token_ms": 20 } }));
    let mut queen = Queen::serving(vec![slow], Wishes::default()).await;
    let body = |n: u32| json!({ "model": "a/b", "prompt": "x", "max_tokens": n }).to_string();
    let running = queen.post("/v1/infer", body(40)).send().await.unwrap();
    let watching = queen.get("/v1/events?since=0").send().await.unwrap();
    for order in [r#"{"hives":"keep"}"#, ""] {
        let answer = queen.post("/v1/shutdown", order).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "status": "stopping" }));
    }
    assert_eq!(queen.stop.recv().await.unwrap().hives, HivesOnStop::Keep, "the first order counts");
    // What the daemon does next.
    queen.api.stopping();
    queen.router.close();
    let ready = queen.get("/readyz").send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.json::<ReadyReply>().await.unwrap().status, ReadyState::Stopping);
    for path in ["/v1/infer", "/v1/completions"] {
        let refused = queen.post(path, body(1)).send().await.unwrap();
        let again: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(refused.status() == 503 && (2..=3).contains(&again), "{again}");
        assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "stopping");
    }
    queen.shutdown.drain();
    let text = running.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let events = timeout(PATIENCE, watching.text()).await.unwrap().unwrap();
    assert!(events.contains("request_ended"), "readers see the last requests end: {events}");
    queen.running.close();
    timeout(PATIENCE, queen.running.wait()).await.unwrap();
    eventually("it completed", || queen.endings() == [RequestOutcome::Completed]).await;
}

#[tokio::test]
async fn at_the_end_of_the_grace_streams_are_told() {
    let slow = script(json!({ "worker": { "token_ms": 50 } }));
    let queen = Queen::serving(vec![slow], Wishes::default()).await;
    let body = json!({ "model": "a/b", "prompt": "x", "max_tokens": 200, "stream": true }).to_string();
    let own = queen.post("/v1/infer", body.clone()).send().await.unwrap();
    let openai = queen.post("/v1/completions", body).send().await.unwrap();
    eventually("both are under way", || queen.in_flight() == 2).await;
    queen.api.stopping();
    queen.router.cut();
    for text in [own.text().await.unwrap(), openai.text().await.unwrap()] {
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.contains("\"stopping\"") && !text.contains("[DONE]"), "{text}");
    }
}

#[tokio::test]
async fn why_a_request_went_where_it_went_can_be_asked_by_its_name() {
    let queen = Queen::serving(vec![script(json!({}))], Wishes::default()).await;
    let ask = json!({ "model": "hf:a/b", "prompt": "canary-9 Tell me.", "max_tokens": 2, "stream": false });
    let asked = queen.post("/v1/infer", ask.to_string()).header("x-request-id", "mine").send().await.unwrap();
    for (header, value) in [("x-request-id", "mine"), ("x-rbee-hive", "box-0"), ("x-rbee-attempts", "1")] {
        assert_eq!(asked.headers()[header], value);
    }
    assert!(asked.headers().contains_key("x-rbee-queued-ms"));
    let told = queen.get("/v1/decisions/mine").send().await.unwrap();
    assert_eq!(told.status(), 200);
    let text = told.text().await.unwrap();
    assert!(!text.contains("canary"), "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&told["steps"][0]["type"], &told["steps"][0]["hive_id"]), (&json!("sent"), &json!("box-0")));
    assert_eq!((&told["outcome"], &told["attempts"]), (&json!("completed"), &json!(1)));
    for unknown in ["/v1/decisions/other", "/v1/decisions/%20"] {
        assert_eq!(queen.get(unknown).send().await.unwrap().status(), 404);
    }
}

#[tokio::test]
async fn a_class_or_a_region_that_is_none_is_refused() {
    let queen = Queen::serving(vec![script(json!({}))], Wishes::default()).await;
    let ask = json!({ "model": "hf:a/b", "prompt": "Tell me.", "max_tokens": 2 }).to_string();
    for path in ["/v1/infer", "/v1/completions"] {
        let post = |header: &'static str, value: &'static str| {
            queen.post(path, ask.clone()).header(header, value).send()
        };
        assert_eq!(post("x-rbee-priority", "urgent").await.unwrap().status(), 400);
        assert_eq!(post("x-rbee-priority", "low").await.unwrap().status(), 200);
        let elsewhere = post("x-rbee-region", "moon").await.unwrap();
        let text = elsewhere.text().await.unwrap();
        assert!(text.contains("no_hive") && text.contains("moon"), "{text}");
    }
}

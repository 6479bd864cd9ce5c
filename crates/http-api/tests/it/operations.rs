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
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (503, &"2".parse().unwrap())
        );
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

//! `POST /v1/infer`.

use queen_api::{InferEvent, InferReply};
use serde_json::json;

use crate::rig::{MODEL, Queen, Wishes, script};

/// The events of a raw stream, and whether `[DONE]` ended it.
fn parse(raw: &str) -> (Vec<InferEvent>, bool) {
    let mut events = Vec::new();
    let mut done = false;
    for line in raw.split("\n\n").filter(|line| !line.is_empty() && !line.starts_with(':')) {
        assert!(!done, "nothing follows the end: {line}");
        match line.strip_prefix("data: ").expect("data lines only") {
            "[DONE]" => done = true,
            json => events.push(serde_json::from_str(json).unwrap()),
        }
    }
    (events, done)
}

fn body(stream: bool) -> String {
    json!({ "model": "a/b", "prompt": "Tell me.", "max_tokens": 8, "stream": stream }).to_string()
}

#[tokio::test]
async fn a_stream_tells_who_answers_and_ends_with_done() {
    let queen = Queen::serving(vec![script(json!({}))], Wishes::default()).await;
    let answer = queen.post("/v1/infer", body(true)).header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    let raw = answer.text().await.unwrap();
    let (events, done) = parse(&raw);
    assert!(done, "{raw}");
    let Some(InferEvent::Started { request_id, model, worker_id, hive_id, .. }) = events.first() else {
        panic!("{events:?}")
    };
    assert_eq!((request_id.as_str(), model.as_str()), ("mine-1", MODEL));
    assert_eq!((worker_id.as_str(), hive_id.as_str()), ("w-1", "box-0"));
    assert!(matches!(events.last(), Some(InferEvent::End { tokens_out: 8, .. })), "{events:?}");
}

#[tokio::test]
async fn a_whole_answer_is_the_stream_in_one_piece() {
    let queen = Queen::serving(vec![script(json!({}))], Wishes::default()).await;
    let (events, _) = parse(&queen.post("/v1/infer", body(true)).send().await.unwrap().text().await.unwrap());
    let answer = queen.post("/v1/infer", body(false)).send().await.unwrap();
    assert_eq!(
        (&answer.headers()["x-rbee-worker"], &answer.headers()["x-rbee-hive"]),
        (&"w-1".parse().unwrap(), &"box-0".parse().unwrap())
    );
    let reply: InferReply = answer.json().await.unwrap();
    let streamed: String = events
        .iter()
        .filter_map(|e| if let InferEvent::Token { t, .. } = e { Some(t.as_str()) } else { None })
        .collect();
    assert_eq!((reply.text.as_str(), reply.tokens_out), (streamed.as_str(), 8));
    tiny_model::check_continuation("Tell me.", &reply.text).unwrap();
}

#[tokio::test]
async fn an_alias_is_as_good_as_the_model() {
    let queen = Queen::serving(vec![script(json!({}))], Wishes::default()).await;
    let body = json!({ "model": "small", "prompt": "x", "max_tokens": 2, "stream": false }).to_string();
    let reply: InferReply = queen.post("/v1/infer", body).send().await.unwrap().json().await.unwrap();
    assert_eq!(reply.model, MODEL);
}

#[tokio::test]
async fn a_cold_start_is_told_while_it_lasts() {
    let queen = Queen::start(vec![script(json!({}))], Wishes::default()).await;
    let (events, done) =
        parse(&queen.post("/v1/infer", body(true)).send().await.unwrap().text().await.unwrap());
    assert!(done && matches!(events.first(), Some(InferEvent::Loading { .. })), "{events:?}");
}

#[tokio::test]
async fn a_failure_ends_a_stream_without_done_and_a_whole_answer_with_its_status() {
    let dies =
        json!({ "worker": { "faults": [{ "at": { "tokens": 3 }, "act": { "kind": "die" }, "times": 1 }] } });
    let queen = Queen::serving(vec![script(dies)], Wishes::default()).await;
    let raw = queen.post("/v1/infer", body(true)).send().await.unwrap().text().await.unwrap();
    let (events, done) = parse(&raw);
    assert!(!done && matches!(events.last(), Some(InferEvent::Error { .. })), "{raw}");
    let queen = Queen::alone(Wishes::default()).await;
    let refused = queen.post("/v1/infer", body(false)).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    let again: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((4..=6).contains(&again), "{again}");
    let refused: queen_api::ErrorBody = refused.json().await.unwrap();
    assert_eq!(refused.error.code, queen_api::ErrorCode::NoHive);
}

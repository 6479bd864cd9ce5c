//! The default script.

use fake_hive::Outcome;
use hive_api::WatchEvent;
use serde_json::{Value, json};

use crate::rig::{Rig, body_of, text_of};

#[tokio::test]
async fn a_model_is_fetched_started_and_recites() {
    let (rig, worker) = Rig::with_worker(json!({})).await;
    let body = json!({"model": "hf:a/b", "prompt": "hello canary-7", "max_tokens": 5});
    let answer = rig.completion(&worker, body).await.unwrap();
    assert_eq!(answer.headers()["x-rbee-worker"], worker.as_str());
    let answer: Value = answer.json().await.unwrap();
    tiny_model::check_continuation("hello", answer["choices"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    let call = rig.ended_prompt().await;
    assert_eq!((call.outcome, call.canary.as_deref()), (Outcome::Completed, Some("canary-7")));
    assert_eq!(call.model.as_deref(), Some("hf:a/b"));
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_counts_and_its_terminator() {
    let (rig, worker) = Rig::with_worker(json!({})).await;
    let body = json!({
        "model": "hf:a/b", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}
    });
    let answer = rig.ask(&worker, "/v1/chat/completions", &body).send().await.unwrap();
    let (text, whole) = body_of(answer).await;
    assert!(whole && text.ends_with("data: [DONE]\n\n"), "{text}");
    tiny_model::check_continuation("hello", &text_of(&text)).unwrap();
    let frames =
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let counts: Vec<_> = frames.filter_map(|f| f["usage"]["completion_tokens"].as_u64()).collect();
    assert_eq!(counts, [1, 2, 3, 3, 3]);
    rig.fake.stop().await;
}

#[tokio::test]
async fn an_answer_stops_before_its_stop_string_however_the_tokens_fall() {
    let (rig, worker) = Rig::with_worker(json!({})).await;
    let body = json!({"prompt": "", "max_tokens": 20, "stop": ["g bef"], "stream": true});
    let (text, _) = body_of(rig.completion(&worker, body).await.unwrap()).await;
    assert_eq!(text_of(&text), " Once, lon");
    assert!(text.contains("\"finish_reason\":\"stop\""), "{text}");
    rig.fake.stop().await;
}

#[tokio::test]
async fn the_watch_begins_with_a_snapshot_and_counts_by_one() {
    let rig = Rig::start(json!({"watch": {"beat_ms": 20}})).await;
    let mut watch = rig.watch().await;
    let WatchEvent::Snapshot(first) = watch.next().await.unwrap().unwrap() else {
        panic!("no snapshot first")
    };
    rig.download().await;
    let (mut rev, mut beats) = (first.rev, 0);
    while beats < 3 {
        match watch.next().await.unwrap().unwrap() {
            WatchEvent::Beat(beat) => {
                assert_eq!(beat.rev, rev);
                beats += 1;
            }
            event => {
                rev += 1;
                assert_eq!(event.rev(), rev, "{event:?}");
            }
        }
    }
    assert!(rev > first.rev);
    rig.fake.stop().await;
}

#[tokio::test]
async fn the_same_key_gives_the_same_worker() {
    let rig = Rig::with_model(json!({})).await;
    let (first, again) = (rig.spawn().await, rig.spawn().await);
    assert_eq!(first.worker_id, again.worker_id);
    assert_eq!(rig.fake.workers().len(), 1);
    rig.fake.stop().await;
}

#[tokio::test]
async fn workers_hold_memory_until_they_end() {
    let gib = 1_u64 << 30;
    let (rig, worker) = Rig::with_worker(json!({})).await;
    let free = |reply: hive_api::CapabilitiesReply| reply.capabilities.devices[0].memory_free;
    assert_eq!(free(rig.client.capabilities().await.unwrap()), 23 * gib);
    rig.client.stop_worker(&worker, &hive_api::StopWorkerRequest::default()).await.unwrap();
    rig.worker_is(&worker, fleet::WorkerState::is_over).await;
    assert_eq!(free(rig.client.capabilities().await.unwrap()), 24 * gib);
    rig.fake.stop().await;
}

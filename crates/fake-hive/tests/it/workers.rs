//! Faults of workers.

use std::time::{Duration, Instant};

use fake_hive::{Act, Outcome};
use fleet::{FailureCode, WorkerState};
use hive_api::WatchEvent;
use serde_json::{Value, json};

use crate::rig::{Rig, body_of, eventually, soon, text_of};

fn stream() -> Value {
    json!({"prompt": "go", "max_tokens": 8, "stream": true})
}

fn fault(at: Value, act: Value) -> Value {
    json!({"worker": {"token_ms": 1, "faults": [{"at": at, "act": act, "times": 1}]}})
}

fn is_crashed(state: &WorkerState) -> bool {
    matches!(state, WorkerState::Failed { code: FailureCode::Crashed, .. })
}

#[tokio::test]
async fn a_worker_dies_at_each_point_before_its_answer() {
    for (at, sent) in [("accept", false), ("request", true)] {
        let (rig, worker) = Rig::with_worker(fault(json!(at), json!({"kind": "die"}))).await;
        let answer = rig.completion(&worker, stream()).await.unwrap();
        assert_eq!(answer.status(), 502, "{at}");
        assert!(!answer.headers().contains_key("x-rbee-worker"), "{at}: the hive says so, not the worker");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["details"]["sent"], sent, "{at}");
        rig.worker_is(&worker, is_crashed).await;
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn a_worker_dies_behind_its_head_and_behind_its_tokens() {
    for (at, tokens) in [(json!("head"), 0), (json!({"tokens": 3}), 3)] {
        let (rig, worker) = Rig::with_worker(fault(at, json!({"kind": "die"}))).await;
        let mut watch = rig.watch().await;
        let answer = rig.completion(&worker, stream()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let (text, whole) = body_of(answer).await;
        assert!(!whole, "a death shows as a broken body");
        let expected: String = tiny_model::recital_from("go").take(tokens).collect();
        assert_eq!(text_of(&text), expected);
        watch
            .until(|event| match event {
                WatchEvent::Worker(record) if is_crashed(&record.state) => Some(()),
                _ => None,
            })
            .await;
        assert_eq!(rig.ended_prompt().await.outcome, Outcome::Killed);
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn a_death_can_go_unreported() {
    let act = json!({"kind": "die", "reported": false});
    let (rig, worker) = Rig::with_worker(fault(json!({"tokens": 1}), act)).await;
    let (_, whole) = body_of(rig.completion(&worker, stream()).await.unwrap()).await;
    assert!(!whole);
    assert!(rig.fake.workers()[0].state.is_ready());
    assert_eq!(rig.completion(&worker, stream()).await.unwrap().status(), 502);
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_death_takes_all_answers_of_the_worker() {
    let (rig, worker) = Rig::with_worker(json!({"worker": {"token_ms": 50}})).await;
    let first = rig.completion(&worker, stream()).await.unwrap();
    let second = rig.completion(&worker, stream()).await.unwrap();
    rig.fake.act(Act::KillWorker { worker: None, reported: true, how: fake_hive::Cut::Rst }).await.unwrap();
    assert!(!body_of(first).await.1);
    assert!(!body_of(second).await.1);
    rig.fake.stop().await;
}

#[tokio::test]
async fn an_answer_can_end_properly_and_yet_too_early() {
    let (rig, worker) = Rig::with_worker(fault(json!({"tokens": 2}), json!({"kind": "end"}))).await;
    let (text, whole) = body_of(rig.completion(&worker, stream()).await.unwrap()).await;
    assert!(whole && !text.contains("[DONE]"), "{text}");
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_hanging_answer_frees_its_slot_within_a_second_of_the_callers_leaving() {
    for at in [json!("request"), json!("head"), json!({"tokens": 2})] {
        let (rig, worker) = Rig::with_worker(fault(at.clone(), json!({"kind": "hang"}))).await;
        let request = rig.ask(&worker, "/v1/completions", &stream());
        let given_up = tokio::time::timeout(Duration::from_millis(150), async {
            let _ = body_of(request.send().await.unwrap()).await;
        });
        assert!(given_up.await.is_err(), "{at}: it hangs");
        let left = Instant::now();
        assert_eq!(rig.ended_prompt().await.outcome, Outcome::Cancelled, "{at}");
        eventually("the slot", || (rig.fake.workers()[0].slots_busy == 0).then_some(())).await;
        assert!(left.elapsed() < Duration::from_secs(1), "{at}");
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn a_caller_that_leaves_in_mid_stream_is_noticed_within_a_second() {
    let (rig, worker) = Rig::with_worker(json!({"worker": {"token_ms": 100}})).await;
    let mut answer = rig.completion(&worker, stream()).await.unwrap();
    soon("the first token", answer.chunk()).await.unwrap();
    drop(answer);
    let left = Instant::now();
    assert_eq!(rig.ended_prompt().await.outcome, Outcome::Cancelled);
    assert!(left.elapsed() < Duration::from_secs(1));
    rig.fake.stop().await;
}

#[tokio::test]
async fn engine_errors_come_as_statuses_and_as_events() {
    for status in [400_u16, 404, 422, 429, 500, 503] {
        let act = json!({"kind": "error", "status": status, "message": "no", "retry_after_s": 3});
        let (rig, worker) = Rig::with_worker(fault(json!("request"), act)).await;
        let answer = rig.completion(&worker, stream()).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (status, &"3".parse().unwrap())
        );
        assert_eq!(rig.completion(&worker, stream()).await.unwrap().status(), 200, "once only");
        rig.fake.stop().await;
    }
    let act = json!({"kind": "error", "status": 500, "message": "boom"});
    let (rig, worker) = Rig::with_worker(fault(json!({"tokens": 1}), act)).await;
    let (text, whole) = body_of(rig.completion(&worker, stream()).await.unwrap()).await;
    assert!(whole && text.contains("boom") && !text.contains("[DONE]"), "{text}");
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_query_of_death_kills_by_its_words_only() {
    let faults = json!([{"at": "request", "act": {"kind": "die"}, "prompt_contains": "poison"}]);
    let (rig, worker) = Rig::with_worker(json!({"worker": {"faults": faults}})).await;
    assert_eq!(rig.completion(&worker, stream()).await.unwrap().status(), 200);
    let answer = rig.completion(&worker, json!({"prompt": "drink poison"})).await.unwrap();
    assert_eq!(answer.status(), 502);
    rig.worker_is(&worker, is_crashed).await;
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_slow_prefill_shows_as_growing_totals_or_not_at_all() {
    for progress in [true, false] {
        let patch = json!({
            "watch": {"report_ms": 20},
            "worker": {"prefill_ms": 600, "prefill_progress": progress, "early_head": false}
        });
        let (rig, worker) = Rig::with_worker(patch).await;
        let mut watch = rig.watch().await;
        let prompt = "word ".repeat(60);
        let asking = rig.completion(&worker, json!({"prompt": prompt, "stream": true, "max_tokens": 1}));
        let seen = async {
            let mut totals = Vec::new();
            watch
                .until(|event| {
                    if let WatchEvent::Worker(record) = event {
                        totals.push(record.prompt_tokens_total);
                    }
                    totals.contains(&60).then_some(())
                })
                .await;
            totals.iter().filter(|&&total| total > 0 && total < 60).count()
        };
        let (answer, between) = tokio::join!(asking, seen);
        assert_eq!(answer.unwrap().status(), 200);
        assert_eq!(between > 1, progress, "{between} reports between");
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn a_frozen_worker_goes_on_once_it_is_thawed() {
    let (rig, worker) = Rig::with_worker(json!({"worker": {"token_ms": 20}})).await;
    let mut answer = rig.completion(&worker, stream()).await.unwrap();
    soon("the first token", answer.chunk()).await.unwrap();
    rig.fake.act(Act::FreezeWorker { worker: Some(worker.clone()) }).await.unwrap();
    let rest = tokio::time::timeout(Duration::from_millis(300), async {
        while answer.chunk().await.unwrap().is_some() {}
    });
    assert!(rest.await.is_err(), "a frozen worker says nothing");
    rig.fake.act(Act::ThawWorker { worker: None }).await.unwrap();
    let (text, whole) = body_of(answer).await;
    assert!(whole && text.ends_with("[DONE]\n\n"));
    rig.fake.stop().await;
}

#[tokio::test]
async fn requests_beyond_the_slots_wait_or_are_refused() {
    for (busy, status) in [("queue", 200), ("too_many_requests", 429), ("unavailable", 503)] {
        let patch = json!({"worker": {"slots": 1, "token_ms": 20, "busy": busy}});
        let (rig, worker) = Rig::with_worker(patch).await;
        let mut first = rig.completion(&worker, stream()).await.unwrap();
        soon("the first token", first.chunk()).await.unwrap();
        let second = rig.completion(&worker, stream()).await.unwrap();
        assert_eq!(second.status(), status, "{busy}");
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn loading_can_fail_stick_or_promise_too_early() {
    let load = json!({"kind": "fails", "code": "out_of_memory", "log_tail": ["CUDA error: out of memory"]});
    let rig = Rig::with_model(json!({"worker": {"load": load}})).await;
    let worker = rig.spawn().await.worker_id;
    let record = rig.worker_is(&worker, WorkerState::is_over).await;
    let expected = WorkerState::Failed {
        code: FailureCode::OutOfMemory,
        log_tail: vec!["CUDA error: out of memory".to_owned()],
    };
    assert_eq!(record.state, expected);

    let rig = Rig::with_model(json!({"worker": {"load": {"kind": "never", "stuck_at": 0.4}}})).await;
    let worker = rig.spawn().await.worker_id;
    rig.worker_is(&worker, |s| *s == WorkerState::Loading { progress: Some(0.5) }).await;
    assert_eq!(rig.completion(&worker, stream()).await.unwrap().status(), 409);

    let (rig, worker) = Rig::with_worker(json!({"worker": {"answers_after_ms": 60_000}})).await;
    assert_eq!(rig.completion(&worker, stream()).await.unwrap().status(), 502);
}

#[tokio::test]
async fn an_answer_can_claim_another_worker_and_echo_its_prompt() {
    let (rig, worker) =
        Rig::with_worker(json!({"worker": {"claims_worker_id": "w-99", "text": "echo"}})).await;
    let answer = rig.completion(&worker, json!({"prompt": "a b", "max_tokens": 3})).await.unwrap();
    assert_eq!(answer.headers()["x-rbee-worker"], "w-99");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["choices"][0]["text"], " a b a");
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_worker_can_answer_garbage_in_its_own_name() {
    let act = json!({"kind": "garbage", "which": "html"});
    let (rig, worker) = Rig::with_worker(fault(json!("request"), act)).await;
    let answer = rig.completion(&worker, stream()).await.unwrap();
    assert_eq!(answer.headers()["x-rbee-worker"], worker.as_str());
    assert_eq!(answer.headers()["content-type"], "text/html");
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_stream_can_turn_to_garbage() {
    for which in ["invalid_utf8", "cut_json", "other_json", "html"] {
        let act = json!({"kind": "garbage", "which": which});
        let (rig, worker) = Rig::with_worker(fault(json!({"tokens": 2}), act)).await;
        let (text, _) = body_of(rig.completion(&worker, stream()).await.unwrap()).await;
        assert!(!text.contains("[DONE]"), "{which}: {text}");
        rig.fake.stop().await;
    }
    let act = json!({"kind": "garbage", "which": "endless_line"});
    let (rig, worker) = Rig::with_worker(fault(json!({"tokens": 1}), act)).await;
    let mut answer = rig.completion(&worker, stream()).await.unwrap();
    let mut got = 0;
    while got < 1 << 20 {
        got += soon("more", answer.chunk()).await.unwrap().unwrap().len();
    }
    rig.fake.stop().await;
}

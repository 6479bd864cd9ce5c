//! Workers that fail before the first byte of their answer.

use fake_hive::{CallName, Script};
use fleet::RequestOutcome;
use queen_api::{ErrorCode, InferEvent};
use serde_json::json;

use crate::{
    fault,
    fleet_of_fakes::{Fleet, collect, error, job, model, request, text},
};

/// One hive whose workers meet a fault, and one whose workers do not.
async fn one_of_two(at: serde_json::Value, act: serde_json::Value) -> Fleet {
    Fleet::serving(vec![fault(at, act), Script::default()], Default::default()).await
}

async fn answers_all_the_same(fleet: &Fleet) {
    answers_at_attempt(fleet, 2).await;
}

async fn answers_at_attempt(fleet: &Fleet, attempt: u32) {
    let events = collect(fleet, request("hf:a/b", 8)).await;
    assert!(matches!(events.last(), Some(InferEvent::End { tokens_out: 8, .. })), "{events:?}");
    tiny_model::check_continuation("Tell me.", &text(&events)).expect("the recital, once");
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, attempt)]);
    assert_eq!(fleet.in_flight(), 0);
}

#[tokio::test]
async fn a_worker_that_dies_before_its_first_byte_is_not_noticed() {
    // A connection that was refused is no attempt.
    for (at, attempt) in [("accept", 1), ("request", 2), ("head", 2)] {
        for how in ["rst", "fin"] {
            let fleet = one_of_two(json!(at), json!({ "kind": "die", "how": how })).await;
            answers_at_attempt(&fleet, attempt).await;
        }
    }
}

#[tokio::test]
async fn over_tls_all_is_the_same() {
    let over_tls = async |scripts| Fleet::serving_over(true, scripts, Default::default()).await;
    let fleet = over_tls(vec![Script::default()]).await;
    answers_at_attempt(&fleet, 1).await;
    for (at, attempt) in [("accept", 1), ("head", 2)] {
        for how in ["rst", "fin"] {
            let fault = fault(json!(at), json!({ "kind": "die", "how": how }));
            let fleet = over_tls(vec![fault, Script::default()]).await;
            answers_at_attempt(&fleet, attempt).await;
        }
    }
    // Two hives, two certificates, and each is reached over its own.
    let fleet = over_tls(vec![Script::default(), Script::default()]).await;
    let answers = (0..8).map(|_| collect(&fleet, request("hf:a/b", 8)));
    for events in futures_util::future::join_all(answers).await {
        tiny_model::check_continuation("Tell me.", &text(&events)).expect("the recital, once");
    }
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 1)].repeat(8));
}

#[tokio::test]
async fn a_worker_that_answers_nonsense_is_not_noticed() {
    let garbage = [
        "html",
        "wrong_content_type",
        "bad_chunk",
        "two_content_lengths",
        "switching",
        "not_http",
        "injected_headers",
        "other_json",
    ];
    for which in garbage {
        let fleet = one_of_two(json!("request"), json!({ "kind": "garbage", "which": which })).await;
        answers_all_the_same(&fleet).await;
    }
    let fleet =
        one_of_two(json!("request"), json!({ "kind": "error", "status": 500, "message": "out" })).await;
    answers_all_the_same(&fleet).await;
    let fleet = one_of_two(json!("head"), json!({ "kind": "end" })).await;
    answers_all_the_same(&fleet).await;
}

#[tokio::test]
async fn an_answer_in_the_name_of_another_worker_is_not_taken() {
    let liar = Script::default().with(&json!({ "worker": { "claims_worker_id": "w-9" } })).unwrap();
    let fleet = Fleet::serving(vec![liar, Script::default()], Default::default()).await;
    answers_all_the_same(&fleet).await;
}

#[tokio::test]
async fn a_busy_worker_is_passed_over_and_not_suspected() {
    let fleet = one_of_two(json!("request"), json!({ "kind": "error", "status": 429 })).await;
    answers_all_the_same(&fleet).await;
    // Among equals the first one by name is chosen again: it has not failed.
    collect(&fleet, request("hf:a/b", 8)).await;
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 2); 2]);
}

#[tokio::test]
async fn when_all_are_busy_the_worker_says_so_itself() {
    for status in [429, 503] {
        let busy = fault(json!("request"), json!({ "kind": "error", "status": status, "retry_after_s": 7 }));
        let fleet = Fleet::serving(vec![busy.clone(), busy], Default::default()).await;
        let answer = fleet.router.route(&job(true, 8), |_| {}).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.attempts), (status, 2));
        assert_eq!(answer.headers["retry-after"], "7");
        assert_eq!(answer.refusal().await.code, ErrorCode::QueueFull);
        let events = collect(&fleet, request("hf:a/b", 8)).await;
        assert_eq!(error(&events), Some(ErrorCode::QueueFull), "{events:?}");
        assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 2); 2]);
    }
}

#[tokio::test]
async fn a_refusal_is_the_clients_and_is_not_tried_elsewhere() {
    for status in [400, 404, 422] {
        let act = json!({ "kind": "error", "status": status, "message": "no such parameter" });
        let fleet = one_of_two(json!("request"), act).await;
        let events = collect(&fleet, request("hf:a/b", 8)).await;
        let Some(InferEvent::Error { code: ErrorCode::InvalidRequest, message, .. }) = events.last() else {
            panic!("{events:?}")
        };
        assert!(message.contains("no such parameter"), "{message}");
        assert_eq!(fleet.count(CallName::Proxy), 1);
        assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 1)]);
        for _ in 0..6 {
            collect(&fleet, request("hf:a/b", 8)).await;
        }
        assert_eq!(fleet.fakes[0].journal().iter().filter(|c| c.call == CallName::Proxy).count(), 7);
    }
}

#[tokio::test]
async fn a_request_that_ends_two_workers_is_not_given_a_third() {
    let deadly = fault(json!("request"), json!({ "kind": "die" }));
    let fleet = Fleet::serving(vec![deadly; 3], Default::default()).await;
    let events = collect(&fleet, request("hf:a/b", 8)).await;
    assert_eq!(error(&events), Some(ErrorCode::RequestKilledWorker), "{events:?}");
    fleet.until("one worker is left", |view| view.serving(&model()).len() == 1).await;
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 2)]);
}

#[tokio::test]
async fn a_worker_whose_hive_is_gone_costs_no_attempt() {
    let fleet = Fleet::serving(vec![Script::default(); 2], Default::default()).await;
    fleet.fakes[0].act(fake_hive::Act::Down).await.unwrap();
    let events = collect(&fleet, request("hf:a/b", 8)).await;
    assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 1)]);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_not_noticed() {
    let fleet = Fleet::serving(vec![Script::default()], Default::default()).await;
    let first = collect(&fleet, request("hf:a/b", 8)).await;
    assert!(matches!(first.last(), Some(InferEvent::End { .. })), "{first:?}");
    let drop_one = json!({ "calls": { "proxy": { "times": 1, "answer": { "kind": "drop_request" } } } });
    fleet.fakes[0].patch(&drop_one).unwrap();
    let second = collect(&fleet, request("hf:a/b", 8)).await;
    assert!(matches!(second.last(), Some(InferEvent::End { .. })), "{second:?}");
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 1), (RequestOutcome::Completed, 2)]);
}

#[tokio::test]
async fn workers_of_the_same_name_on_two_hives_are_two_workers() {
    let fleet = Fleet::serving(vec![Script::default(); 2], Default::default()).await;
    let view = fleet.registry.view();
    let names: std::collections::BTreeSet<_> = view.workers().map(|w| w.record.worker_id.clone()).collect();
    assert_eq!((names.len(), view.workers().count()), (1, 2), "the fakes count alike");
    for act in [json!({ "kind": "error", "status": 500 }), json!({ "kind": "die" })] {
        let fleet = one_of_two(json!("request"), act).await;
        answers_all_the_same(&fleet).await;
    }
}

#[tokio::test]
async fn a_silent_worker_is_given_up_for_another() {
    let settings =
        router::Settings { first_byte: std::time::Duration::from_millis(300), ..Default::default() };
    let hung = fault(json!("head"), json!({ "kind": "hang" }));
    let fleet = Fleet::serving(vec![hung, Script::default()], settings).await;
    answers_all_the_same(&fleet).await;
}

#[tokio::test]
async fn a_long_prefill_is_not_silence() {
    let settings =
        router::Settings { first_byte: std::time::Duration::from_millis(400), ..Default::default() };
    let slow = json!({ "worker": { "prefill_ms": 1500 }, "watch": { "report_ms": 50 } });
    let fleet = Fleet::serving(vec![Script::default().with(&slow).unwrap()], settings).await;
    let mut long = request("hf:a/b", 8);
    long.prompt = "word ".repeat(50);
    let events = collect(&fleet, long).await;
    assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 1)]);
}

//! A model without a worker.

use fake_hive::{Act, CallName, Script};
use fleet::RequestOutcome;
use queen_api::{ErrorCode, InferEvent, LoadingStage};
use serde_json::json;

use crate::{
    fleet_of_fakes::{Fleet, collect, error, request, rest, text},
    script,
};

#[tokio::test]
async fn a_cold_model_is_fetched_and_started_once_for_two_requests() {
    let fleet = Fleet::start(1).await;
    let (first, second) =
        tokio::join!(collect(&fleet, request("hf:a/b", 8)), collect(&fleet, request("hf:a/b", 8)));
    for events in [&first, &second] {
        assert!(matches!(events.last(), Some(InferEvent::End { tokens_out: 8, .. })), "{events:?}");
        let loading = |e: &InferEvent| matches!(e, InferEvent::Loading { stage: LoadingStage::Loading, .. });
        assert!(events.iter().any(loading), "{events:?}");
        tiny_model::check_continuation("Tell me.", &text(events)).expect("the recital");
    }
    assert_eq!((fleet.count(CallName::Download), fleet.count(CallName::Spawn)), (1, 1));
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 1); 2]);
}

#[tokio::test]
async fn a_model_that_no_hub_knows_is_told_so() {
    let fleet = Fleet::start(1).await;
    let events = collect(&fleet, request("hf:missing/b", 8)).await;
    assert_eq!(error(&events), Some(ErrorCode::ModelNotFound), "{events:?}");
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 0)]);
}

#[tokio::test]
async fn a_worker_that_fails_to_load_is_told_with_its_last_lines() {
    let load = json!({ "kind": "fails", "code": "out_of_memory", "log_tail": ["no room for the cache"] });
    let fleet =
        Fleet::scripted(vec![script(json!({ "worker": { "load": load } }))], Default::default()).await;
    let events = collect(&fleet, request("hf:a/b", 8)).await;
    let Some(InferEvent::Error { code, message, details: Some(details) }) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(*code, ErrorCode::InsufficientMemory);
    assert!(message.contains("no room for the cache"), "{message}");
    assert_eq!(details["log_tail"], json!(["no room for the cache"]));
}

#[tokio::test]
async fn when_the_only_worker_is_gone_one_cold_start_serves_all() {
    let fleet = Fleet::serving(vec![Script::default()], Default::default()).await;
    fleet.fakes[0]
        .act(Act::KillWorker { worker: None, reported: true, how: Default::default() })
        .await
        .unwrap();
    let mut answers: Vec<_> = (0..20).map(|_| fleet.ask(request("hf:a/b", 4))).collect();
    for events in &mut answers {
        let events = rest(events).await;
        assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    }
    assert_eq!(fleet.count(CallName::Spawn), 2, "the first one and its successor");
}

#[tokio::test]
async fn when_the_only_hive_with_a_worker_is_gone_another_one_starts_one() {
    let stored = json!({ "models": { "known": [{ "model_ref": "hf:a/b", "stored": true }] } });
    let fleet = Fleet::scripted(vec![script(stored), Script::default()], Default::default()).await;
    let events = collect(&fleet, request("hf:a/b", 4)).await;
    assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    fleet.fakes[0].act(Act::Down).await.unwrap();
    let events = collect(&fleet, request("hf:a/b", 4)).await;
    let started = events.iter().find_map(|event| match event {
        InferEvent::Started { hive_id, .. } => Some(hive_id.as_str()),
        _ => None,
    });
    assert_eq!(started, Some("box-1"), "{events:?}");
    assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
}

//! Answers of `/v1/infer` that break off and are gone on with by another worker.

use fake_hive::Script;
use fleet::RequestOutcome;
use queen_api::{ErrorCode, InferEvent, StopReason};
use serde_json::{Value, json};

use crate::{
    fault,
    fleet_of_fakes::{Fleet, MODEL, collect, error, request, text},
};

/// Ways in which a worker is lost in the middle of its answer.
fn losses() -> [Value; 4] {
    [
        json!({ "kind": "die", "how": "rst" }),
        json!({ "kind": "die", "how": "fin" }),
        json!({ "kind": "break", "how": "rst" }),
        json!({ "kind": "end" }),
    ]
}

async fn lost_after(tokens: u64, act: Value) -> Fleet {
    let scripts = vec![fault(json!({ "tokens": tokens }), act), Script::default()];
    Fleet::serving(scripts, Default::default()).await
}

fn end(events: &[InferEvent]) -> Option<(u64, StopReason, u32)> {
    match events.last() {
        Some(InferEvent::End { tokens_out, stop_reason, continued, .. }) => {
            Some((*tokens_out, *stop_reason, *continued))
        }
        _ => None,
    }
}

#[tokio::test]
async fn another_worker_goes_on_exactly_behind_what_was_delivered() {
    for act in losses() {
        for tokens in [1, 3, 7] {
            let fleet = lost_after(tokens, act.clone()).await;
            let events = collect(&fleet, request(MODEL, 12)).await;
            assert_eq!(end(&events), Some((12, StopReason::Length, 1)), "{act} {tokens}: {events:?}");
            tiny_model::check_continuation("Tell me.", &text(&events)).expect("the recital, once");
            let numbers = events.iter().filter_map(|e| match e {
                InferEvent::Token { i, .. } => Some(*i),
                _ => None,
            });
            assert!(numbers.eq(0..12), "{act}: {events:?}");
            let started = events.iter().filter(|e| matches!(e, InferEvent::Started { .. }));
            assert_eq!(started.count(), 1, "{act}");
            assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 2)], "{act}");
            assert_eq!(fleet.in_flight(), 0, "{act}");
        }
    }
}

#[tokio::test]
async fn a_stop_text_behind_the_seam_ends_the_answer() {
    // The recital begins " Once, long before the first train".
    let fleet = lost_after(2, json!({ "kind": "break", "how": "rst" })).await;
    let asked =
        json!({ "model": MODEL, "prompt": "Tell me.", "max_tokens": 12, "stop": " before the first" });
    let events = collect(&fleet, serde_json::from_value(asked).unwrap()).await;
    let stopped = end(&events).map(|(_, stop_reason, continued)| (stop_reason, continued));
    assert_eq!(stopped, Some((StopReason::Stop, 1)), "{events:?}");
    assert_eq!(text(&events), " Once, long");
    assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 2)]);
    let fleet = lost_after(2, json!({ "kind": "break", "how": "rst" })).await;
    let asked = json!({ "model": MODEL, "prompt": "Tell me.", "max_tokens": 6, "stop": " before the last" });
    let events = collect(&fleet, serde_json::from_value(asked).unwrap()).await;
    assert_eq!(end(&events), Some((6, StopReason::Length, 1)), "{events:?}");
    assert_eq!(text(&events), " Once, long before the first train");
}

#[tokio::test]
async fn an_answer_whose_last_token_was_delivered_is_complete() {
    let fleet = lost_after(6, json!({ "kind": "break", "how": "rst" })).await;
    let events = collect(&fleet, request(MODEL, 6)).await;
    let ended = end(&events).map(|(tokens, stop_reason, _)| (tokens, stop_reason));
    assert_eq!(ended, Some((6, StopReason::Length)), "{events:?}");
    tiny_model::check_continuation("Tell me.", &text(&events)).expect("the recital, once");
    assert_eq!(fleet.endings().len(), 1);
}

#[tokio::test]
async fn where_nobody_can_go_on_the_client_is_told_why() {
    // The only hive dies with its worker, so there is no other and none can be started.
    let fleet = Fleet::serving(
        vec![fault(json!({ "tokens": 3 }), json!({ "kind": "break", "how": "rst" }))],
        Default::default(),
    )
    .await;
    let events = collect(&fleet, request(MODEL, 8)).await;
    let Some(InferEvent::Error { code, message, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(*code, ErrorCode::WorkerFailed);
    assert!(message.contains("no other worker could go on with it"), "{message}");
    tiny_model::check_continuation("Tell me.", &text(&events)).expect("a part of the recital");
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 1)]);
}

#[tokio::test]
async fn without_the_engines_count_nobody_goes_on() {
    let silent = json!({ "worker": { "usage": false } });
    let first =
        fault(json!({ "tokens": 3 }), json!({ "kind": "break", "how": "rst" })).with(&silent).unwrap();
    let fleet = Fleet::serving(vec![first, Script::default()], Default::default()).await;
    let events = collect(&fleet, request(MODEL, 8)).await;
    assert_eq!(error(&events), Some(ErrorCode::WorkerFailed), "{events:?}");
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 1)]);
}

#[tokio::test]
async fn a_third_worker_is_not_asked() {
    let break_off = fault(json!({ "tokens": 3 }), json!({ "kind": "break", "how": "rst" }));
    let scripts = vec![break_off.clone(), break_off, Script::default()];
    let fleet = Fleet::serving(scripts, Default::default()).await;
    let mut broken = 0;
    for _ in 0..3 {
        let events = collect(&fleet, request(MODEL, 12)).await;
        tiny_model::check_continuation("Tell me.", &text(&events)).expect("a part of the recital");
        broken += usize::from(error(&events).is_some());
    }
    assert!(fleet.endings().iter().all(|(_, attempts)| *attempts <= 2), "{:?}", fleet.endings());
    assert_eq!(fleet.endings().len(), 3);
    assert_eq!(fleet.endings().iter().filter(|(o, _)| *o == RequestOutcome::Failed).count(), broken);
}

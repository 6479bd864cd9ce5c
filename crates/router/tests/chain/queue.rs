//! More requests than slots.

use std::time::Duration;

use fleet::RequestOutcome;
use queen_api::{ErrorCode, InferEvent};
use serde_json::json;

use crate::{
    fleet_of_fakes::{Fleet, collect, error, request, rest},
    script,
};

async fn one_slot(token_ms: u64, settings: router::Settings) -> Fleet {
    let slow = json!({ "worker": { "token_ms": token_ms, "slots": 1 } });
    Fleet::serving(vec![script(slow)], settings).await
}

#[tokio::test]
async fn those_who_wait_are_served_in_the_order_they_came() {
    let fleet = one_slot(20, Default::default()).await;
    let mut all = Vec::new();
    for ahead in 0..5 {
        let mut events = fleet.ask(request("hf:a/b", 3));
        let first = events.recv().await;
        match ahead {
            0 => assert!(matches!(first, Some(InferEvent::Started { .. })), "{first:?}"),
            _ => assert_eq!(first, Some(InferEvent::Queued { ahead: ahead - 1 })),
        }
        all.push(events);
    }
    for events in &mut all {
        assert!(matches!(rest(events).await.last(), Some(InferEvent::End { .. })));
        assert!(fleet.endings().len() <= 5);
    }
    let order: Vec<String> = fleet
        .journal
        .since(0)
        .iter()
        .filter_map(|event| match &event.kind {
            fleet::EventKind::Attempt { request_id, .. } => Some(request_id.to_string()),
            _ => None,
        })
        .collect();
    let number = |id: &String| id.trim_start_matches("r-").parse::<u32>().unwrap();
    assert!(order.iter().map(number).is_sorted(), "{order:?}");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let settings = router::Settings { queue_length: 1, ..Default::default() };
    let fleet = one_slot(50, settings).await;
    let mut running = fleet.ask(request("hf:a/b", 200));
    assert!(matches!(running.recv().await, Some(InferEvent::Started { .. })));
    let mut waiting = fleet.ask(request("hf:a/b", 200));
    assert!(matches!(waiting.recv().await, Some(InferEvent::Queued { .. })));
    let refused = collect(&fleet, request("hf:a/b", 200)).await;
    assert_eq!(error(&refused), Some(ErrorCode::QueueFull), "{refused:?}");
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 0)]);
}

#[tokio::test]
async fn a_wait_has_an_end() {
    let settings = router::Settings { queue_wait: Duration::from_millis(200), ..Default::default() };
    let fleet = one_slot(50, settings).await;
    let mut running = fleet.ask(request("hf:a/b", 200));
    assert!(matches!(running.recv().await, Some(InferEvent::Started { .. })));
    let late = collect(&fleet, request("hf:a/b", 200)).await;
    assert_eq!(error(&late), Some(ErrorCode::QueueTimeout), "{late:?}");
}

#[tokio::test]
async fn a_retry_does_not_hold_up_those_who_could_be_served() {
    // The first request fails on box-0 and has to wait for box-1, whose only slot is taken for long.
    let once = json!({ "worker": { "slots": 1, "faults": [{
        "at": "request", "act": { "kind": "error", "status": 500 }, "prompt_contains": "unlucky"
    }] } });
    let long = json!({ "worker": { "slots": 1, "token_ms": 50 } });
    let fleet = Fleet::serving(vec![script(once), script(long)], Default::default()).await;
    let held = fleet.registry.view();
    let slot = held.workers().next().unwrap().lease().unwrap();
    let mut running = fleet.ask(request("hf:a/b", 200));
    assert!(matches!(running.recv().await, Some(InferEvent::Started { .. })));
    drop(slot);
    let mut unlucky = request("hf:a/b", 200);
    unlucky.prompt = "unlucky".to_owned();
    let mut unlucky = fleet.ask(unlucky);
    assert!(matches!(unlucky.recv().await, Some(InferEvent::Queued { .. })));
    let other = collect(&fleet, request("hf:a/b", 2)).await;
    assert!(matches!(other.last(), Some(InferEvent::End { .. })), "{other:?}");
    assert!(unlucky.try_recv().is_err(), "it waits still");
}

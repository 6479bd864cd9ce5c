//! Workers that fail again and again, and how often requests are sent again because of it.

use std::time::Duration;

use fake_hive::{CallName, FakeHive, Script};
use fleet::{DecisionKind, RequestOutcome};
use queen_api::{ErrorCode, InferEvent};
use serde_json::json;

use crate::{
    fault,
    fleet_of_fakes::{Fleet, MODEL, collect, error, request, rest},
};

/// How often a hive's workers were sent something.
fn sent(fake: &FakeHive) -> usize {
    fake.journal().iter().filter(|call| call.call == CallName::Proxy).count()
}

async fn all_complete(fleet: &Fleet, count: usize) {
    for _ in 0..count {
        let events = collect(fleet, request(MODEL, 4)).await;
        assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    }
}

#[tokio::test]
async fn a_worker_that_fails_again_and_again_is_left_alone_and_comes_back_by_one_probe() {
    let failing = fault(json!("request"), json!({ "kind": "error", "status": 500 }));
    let fleet = Fleet::serving(vec![failing], Default::default()).await;
    for _ in 0..5 {
        let events = collect(&fleet, request(MODEL, 4)).await;
        assert_eq!(error(&events), Some(ErrorCode::WorkerFailed), "{events:?}");
    }
    fleet.fakes[0].patch(&json!({ "worker": { "faults": [] } })).unwrap();
    let asked: Vec<_> = (0..6).map(|_| fleet.ask(request(MODEL, 4))).collect();
    for mut events in asked {
        let events = rest(&mut events).await;
        let Some(InferEvent::Started { queued_ms, .. }) =
            events.iter().find(|event| matches!(event, InferEvent::Started { .. }))
        else {
            panic!("{events:?}")
        };
        assert!(*queued_ms >= 500, "it is given nothing for about a second: {queued_ms}");
        assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    }
}

#[tokio::test]
async fn a_hung_worker_is_given_no_more_than_its_slots_until_it_moves() {
    let settings = router::Settings { first_byte: Duration::from_millis(300), ..Default::default() };
    let hung = fault(json!("head"), json!({ "kind": "hang" }))
        .with(&json!({ "worker": { "slots": 2, "faults": [{ "at": "head", "act": { "kind": "hang" } }] } }))
        .unwrap();
    let fleet = Fleet::serving(vec![hung, Script::default()], settings).await;
    let asked: Vec<_> = (0..30).map(|_| fleet.ask(request(MODEL, 4))).collect();
    for mut events in asked {
        let events = rest(&mut events).await;
        assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    }
    let felt = sent(&fleet.fakes[0]);
    assert!((1..=2).contains(&felt), "{felt} requests were given to it");
    all_complete(&fleet, 10).await;
    assert_eq!(sent(&fleet.fakes[0]), felt, "none since");
    // Somebody else's request shows that it moves again.
    fleet.fakes[0].patch(&json!({ "worker": { "faults": [] } })).unwrap();
    fleet.answer_behind_the_queen(0).await;
    let mut proxied = sent(&fleet.fakes[0]);
    let probed = async {
        loop {
            all_complete(&fleet, 1).await;
            if sent(&fleet.fakes[0]) > proxied {
                return;
            }
            proxied = proxied.max(sent(&fleet.fakes[0]));
        }
    };
    tokio::time::timeout(Duration::from_secs(30), probed).await.expect("it is probed");
}

#[tokio::test]
async fn when_everything_fails_few_requests_are_sent_again() {
    let slots = json!({ "worker": { "slots": 200 } });
    let failing = fault(json!("request"), json!({ "kind": "error", "status": 500 })).with(&slots).unwrap();
    let fleet = Fleet::serving(vec![failing.clone(), failing], Default::default()).await;
    let asked: Vec<_> = (0..200).map(|_| fleet.ask(request(MODEL, 4))).collect();
    for mut events in asked {
        rest(&mut events).await;
    }
    let failed = fleet.endings().iter().filter(|(outcome, _)| *outcome == RequestOutcome::Failed).count();
    assert_eq!(failed, 200);
    let attempts: u32 = fleet.endings().iter().map(|(_, attempts)| *attempts).sum();
    assert!((100..=264).contains(&attempts), "{attempts} attempts of 200 requests");
}

#[tokio::test]
async fn the_only_worker_gets_the_second_attempt_after_a_breath() {
    let fleet = Fleet::serving(vec![Script::default()], Default::default()).await;
    let drop_one = json!({ "calls": { "proxy": { "times": 1, "answer": { "kind": "drop_request" } } } });
    fleet.fakes[0].patch(&drop_one).unwrap();
    let events = collect(&fleet, request(MODEL, 4)).await;
    let Some(InferEvent::Started { request_id, attempts: 2, .. }) =
        events.iter().find(|event| matches!(event, InferEvent::Started { .. }))
    else {
        panic!("{events:?}")
    };
    let steps = fleet.router.decisions().of(request_id).unwrap().steps;
    let at = |n: usize| steps[n].after_ms;
    assert!(matches!(steps[1].kind, DecisionKind::Failed { .. }), "{steps:?}");
    assert!(at(steps.len() - 1) >= at(1) + 400, "not at once: {steps:?}");
}

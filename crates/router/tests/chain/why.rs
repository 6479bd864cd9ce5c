//! What is remembered of a request's way.

use fake_hive::Script;
use fleet::{DecisionKind, RequestDecisions, RequestId, RequestOutcome};
use queen_api::{ErrorCode, InferEvent};
use router::{Priority, Terms};
use serde_json::json;

use crate::{
    fault,
    fleet_of_fakes::{Fleet, MODEL, collect, error, job, request, rest},
    script,
};

fn decisions(fleet: &Fleet, events: &[InferEvent]) -> RequestDecisions {
    let id = events.iter().find_map(|event| match event {
        InferEvent::Started { request_id, .. } => Some(request_id.clone()),
        _ => None,
    });
    of(fleet, &id.expect("it was started"))
}

fn of(fleet: &Fleet, id: &RequestId) -> RequestDecisions {
    fleet.router.decisions().of(id).expect("it is remembered")
}

#[tokio::test]
async fn a_request_that_was_moved_says_from_where_to_where_and_why() {
    let act = json!({ "kind": "error", "status": 500, "message": "the prompt was: Tell me." });
    let fleet =
        Fleet::serving(vec![fault(json!("request"), act), Script::default()], Default::default()).await;
    let events = collect(&fleet, request(MODEL, 8)).await;
    let Some(InferEvent::Started { attempts: 2, .. }) = events.first() else { panic!("{events:?}") };
    let decisions = decisions(&fleet, &events);
    let told: Vec<_> = decisions
        .steps
        .iter()
        .map(|step| match &step.kind {
            DecisionKind::Sent { hive_id, expected, compared, others, .. } => {
                assert!(expected.prompt_tokens > 0 && *compared >= 1, "{step:?}");
                format!("sent to {hive_id} rather than {}", others.len())
            }
            DecisionKind::Failed { hive_id, reason, .. } => format!("{hive_id}: {reason}"),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            "sent to box-0 rather than 1",
            "box-0: it answered 500 Internal Server Error",
            "sent to box-1 rather than 0",
        ]
    );
    assert_eq!((decisions.outcome, decisions.attempts), (Some(RequestOutcome::Completed), 2));
    let json = serde_json::to_string(&decisions).unwrap();
    assert!(!json.contains("Tell me"), "neither the prompt nor the worker's words: {json}");
}

#[tokio::test]
async fn a_cold_start_and_a_wait_are_told() {
    let fleet =
        Fleet::scripted(vec![script(json!({ "worker": { "slots": 1, "token_ms": 5 } }))], Default::default())
            .await;
    let mut first = fleet.ask(request("hf:c/d", 20));
    let mut second = fleet.ask(request("hf:c/d", 20));
    // Read at once: whoever is not read keeps the slot.
    let (first, second) = tokio::join!(rest(&mut first), rest(&mut second));
    let kinds = |events: &[InferEvent]| {
        let kind = |step: fleet::DecisionStep| match step.kind {
            DecisionKind::Queued { .. } => "queued",
            DecisionKind::ColdStart => "cold start",
            DecisionKind::Sent { .. } => "sent",
            _ => "else",
        };
        decisions(&fleet, events).steps.into_iter().map(kind).collect::<Vec<_>>()
    };
    let both = [kinds(&first), kinds(&second)];
    assert!(both.contains(&vec!["cold start", "sent"]), "{both:?}");
    assert!(both.contains(&vec!["cold start", "queued", "sent"]), "{both:?}");
    let queued = |events: &[InferEvent]| {
        events.iter().find_map(|event| match event {
            InferEvent::Started { queued_ms, .. } => Some(*queued_ms),
            _ => None,
        })
    };
    assert!(queued(&first).unwrap() >= 50, "the worker loads for 50 ms: {first:?}");
}

#[tokio::test]
async fn a_region_that_is_asked_for_is_kept_or_refused_with_the_ones_there_are() {
    let fleet = Fleet::serving(vec![Script::default(); 2], Default::default()).await;
    fleet.stands(1, "attic").await;
    let within = |region: &str| Terms { region: Some(region.into()), ..Terms::default() };
    for _ in 0..4 {
        let events = rest(&mut fleet.ask_under(within("attic"), request(MODEL, 4))).await;
        assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    }
    assert_eq!(fleet.proxied(), [0, 4]);
    let events = rest(&mut fleet.ask_under(within("moon"), request(MODEL, 4))).await;
    assert_eq!(error(&events), Some(ErrorCode::NoHive), "{events:?}");
    let Some(InferEvent::Error { message, .. }) = events.last() else { panic!("{events:?}") };
    assert!(message.contains("moon") && message.contains("attic"), "{message}");
    // A worker that failed is not made up for by one elsewhere.
    fleet.fakes[1].patch(&json!({ "worker": { "faults": [{ "at": "request", "act": { "kind": "error", "status": 500 } }] } })).unwrap();
    let events = rest(&mut fleet.ask_under(within("attic"), request(MODEL, 4))).await;
    assert_eq!(error(&events), Some(ErrorCode::WorkerFailed), "{events:?}");
    assert_eq!(fleet.proxied(), [0, 5]);
}

#[tokio::test]
async fn a_worker_is_started_in_the_region_that_is_asked_for() {
    let fleet = Fleet::start(3).await;
    for (at, region) in [(0, "cellar"), (1, "attic"), (2, "attic")] {
        fleet.stands(at, region).await;
    }
    let within = |region: Option<&str>| Terms { region: region.map(Into::into), ..Terms::default() };
    let mut first: Vec<_> =
        (0..8).map(|_| fleet.ask_under(within(Some("cellar")), request(MODEL, 4))).collect();
    for events in &mut first {
        let events = rest(events).await;
        assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    }
    assert_eq!(fleet.proxied(), [8, 0, 0]);
    // Workers elsewhere are no answer to who insists on a region.
    let mut second: Vec<_> =
        (0..8).map(|_| fleet.ask_under(within(Some("attic")), request(MODEL, 4))).collect();
    for events in &mut second {
        let events = rest(events).await;
        assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    }
    assert_eq!(fleet.proxied()[0], 8);
    let spawns = |fake: &fake_hive::FakeHive| {
        fake.journal().iter().filter(|c| c.call == fake_hive::CallName::Spawn).count()
    };
    assert_eq!(fleet.fakes.iter().map(spawns).sum::<usize>(), 2, "one for each region");
}

#[tokio::test]
async fn what_an_answer_in_one_piece_counts_is_learned() {
    let fleet =
        Fleet::serving(vec![script(json!({ "worker": { "token_ms": 2 } }))], Default::default()).await;
    let mut last = None;
    for _ in 0..8 {
        let job = job(false, 50);
        let answer = fleet.router.route(&job, |_| {}).await.unwrap();
        http_body_util::BodyExt::collect(answer.body).await.unwrap();
        last = Some(of(&fleet, &job.request_id));
    }
    let Some(DecisionKind::Sent { expected, .. }) = last.unwrap().steps.pop().map(|step| step.kind) else {
        panic!("it was sent")
    };
    // Fifty tokens of two milliseconds each; the first guess was that of a data sheet.
    assert!((0.05..5.0).contains(&expected.decode_s), "{expected:?}");
}

#[tokio::test]
async fn one_caller_cannot_fill_the_line_for_others() {
    let settings = router::Settings { queue_length: 3, ..Default::default() };
    let fleet =
        Fleet::serving(vec![script(json!({ "worker": { "slots": 1, "token_ms": 20 } }))], settings).await;
    let of = |caller, priority| Terms { caller, priority, ..Terms::default() };
    let mut running = fleet.ask_under(of(1, Priority::Normal), request(MODEL, 100));
    assert!(matches!(running.recv().await, Some(InferEvent::Started { .. })));
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let mut events = fleet.ask_under(of(1, Priority::Normal), request(MODEL, 3));
        assert!(matches!(events.recv().await, Some(InferEvent::Queued { .. })));
        greedy.push(events);
    }
    let mut modest = fleet.ask_under(of(2, Priority::Normal), request(MODEL, 3));
    assert_eq!(modest.recv().await, Some(InferEvent::Queued { ahead: 1 }), "it is this caller's turn next");
    let displaced = rest(greedy.last_mut().unwrap()).await;
    assert_eq!(error(&displaced), Some(ErrorCode::QueueFull), "{displaced:?}");
    let low = rest(&mut fleet.ask_under(of(3, Priority::Low), request(MODEL, 3))).await;
    assert_eq!(error(&low), Some(ErrorCode::QueueFull), "{low:?}");
    let mut urgent = fleet.ask_under(of(3, Priority::High), request(MODEL, 3));
    assert_eq!(urgent.recv().await, Some(InferEvent::Queued { ahead: 0 }));
    drop(running);
    assert!(matches!(rest(&mut urgent).await.last(), Some(InferEvent::End { .. })));
}

#[tokio::test]
async fn a_wait_that_is_expected_to_be_too_long_is_refused_at_once() {
    let settings = router::Settings { queue_wait: std::time::Duration::from_secs(2), ..Default::default() };
    let fleet =
        Fleet::serving(vec![script(json!({ "worker": { "slots": 1, "token_ms": 20 } }))], settings).await;
    for _ in 0..8 {
        collect(&fleet, request(MODEL, 50)).await;
    }
    // A second each, so the third or fourth would wait for too long.
    let mut asked: Vec<_> = (0..8).map(|_| fleet.ask(request(MODEL, 50))).collect();
    let last = rest(asked.last_mut().unwrap()).await;
    let Some(InferEvent::Error { code: ErrorCode::QueueFull, message, .. }) = last.last() else {
        panic!("{last:?}")
    };
    assert!(message.contains("served before"), "{message}");
    let first = rest(&mut asked[0]).await;
    assert!(matches!(first.last(), Some(InferEvent::End { .. })), "{first:?}");
}

//! Clients that leave.

use std::time::{Duration, Instant};

use fake_hive::{CallName, Outcome, Script};
use fleet::RequestOutcome;
use queen_api::InferEvent;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    fleet_of_fakes::{Fleet, collect, eventually, job, request},
    script,
};

/// Bound of the time between a client's leaving and the end of its generation.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn slow() -> Fleet {
    let slow = json!({ "worker": { "token_ms": 50, "slots": 1 } });
    Fleet::serving(vec![script(slow)], Default::default()).await
}

async fn until_token(events: &mut mpsc::Receiver<InferEvent>) {
    while !matches!(events.recv().await.expect("it goes on"), InferEvent::Token { .. }) {}
}

fn generations(fleet: &Fleet, outcome: Outcome) -> usize {
    let calls = fleet.fakes.iter().flat_map(fake_hive::FakeHive::journal);
    calls.filter(|call| call.call == CallName::Proxy && call.outcome == outcome).count()
}

#[tokio::test]
async fn leaving_in_the_middle_cancels_the_generation_and_frees_the_slot() {
    let fleet = slow().await;
    let mut events = fleet.ask(request("hf:a/b", 200));
    until_token(&mut events).await;
    assert_eq!(fleet.in_flight(), 1);
    let left = Instant::now();
    drop(events);
    eventually("the worker noticed", || generations(&fleet, Outcome::Cancelled) == 1).await;
    assert!(left.elapsed() < AT_ONCE);
    assert_eq!(fleet.in_flight(), 0);
    assert_eq!(fleet.endings(), [(RequestOutcome::Cancelled, 1)]);
}

#[tokio::test]
async fn leaving_during_the_prefill_cancels_it_and_counts_the_attempt() {
    let prefill = json!({ "worker": { "prefill_ms": 30_000, "slots": 1, "early_head": false } });
    let fleet = Fleet::serving(vec![script(prefill)], Default::default()).await;
    for stream in [true, false] {
        let before = generations(&fleet, Outcome::Cancelled);
        let asked = job(stream, 8);
        let route = fleet.router.route(&asked, |_| {});
        let leave = eventually("it is under way", || generations(&fleet, Outcome::Open) == 1);
        tokio::select! {
            _ = route => panic!("no answer was due"),
            () = leave => {}
        }
        let left = Instant::now();
        eventually("the worker noticed", || generations(&fleet, Outcome::Cancelled) == before + 1).await;
        assert!(left.elapsed() < AT_ONCE);
        assert_eq!(fleet.in_flight(), 0);
    }
    assert_eq!(fleet.endings(), [(RequestOutcome::Cancelled, 1); 2]);
}

#[tokio::test]
async fn leaving_the_queue_leaves_the_place_to_the_next() {
    let fleet = slow().await;
    let mut first = fleet.ask(request("hf:a/b", 200));
    until_token(&mut first).await;
    let mut second = fleet.ask(request("hf:a/b", 2));
    assert!(matches!(second.recv().await, Some(InferEvent::Queued { ahead: 0 })));
    let mut third = fleet.ask(request("hf:a/b", 2));
    assert!(matches!(third.recv().await, Some(InferEvent::Queued { ahead: 1 })));
    drop(second);
    drop(first);
    until_token(&mut third).await;
    let ended = crate::fleet_of_fakes::rest(&mut third).await;
    assert!(matches!(ended.last(), Some(InferEvent::End { .. })), "{ended:?}");
    let mut endings = fleet.endings();
    endings.sort_by_key(|(_, attempts)| *attempts);
    assert_eq!(endings[0], (RequestOutcome::Cancelled, 0), "the one that left the queue");
}

#[tokio::test]
async fn leaving_a_cold_start_leaves_it_to_the_others() {
    let fleet =
        Fleet::scripted(vec![script(json!({ "download": { "duration_ms": 400 } }))], Default::default())
            .await;
    let mut first = fleet.ask(request("hf:a/b", 8));
    assert!(matches!(first.recv().await, Some(InferEvent::Loading { .. })));
    let second = collect(&fleet, request("hf:a/b", 8));
    let (second, ()) = tokio::join!(second, async move {
        first.recv().await;
        drop(first);
    });
    assert!(matches!(second.last(), Some(InferEvent::End { .. })), "{second:?}");
    assert_eq!((fleet.count(CallName::Download), fleet.count(CallName::Spawn)), (1, 1));
    let cancelled =
        fleet.endings().iter().filter(|(outcome, _)| *outcome == RequestOutcome::Cancelled).count();
    assert_eq!(cancelled, 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_its_worker_only() {
    let fleet = Fleet::serving(vec![Script::default(); 2], Default::default()).await;
    let deaf = fleet.ask(request("hf:a/b", 2000));
    eventually("it has a worker", || fleet.in_flight() == 1).await;
    let events = collect(&fleet, request("hf:a/b", 8)).await;
    assert!(matches!(events.last(), Some(InferEvent::End { .. })), "{events:?}");
    drop(deaf);
    eventually("its slot is free", || fleet.in_flight() == 0).await;
}

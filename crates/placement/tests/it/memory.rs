//! Room for models: told beforehand, made, and given back.

use std::time::Duration;

use fake_hive::CallName;
use fleet::{ModelRef, ObservationStore};
use placement::{PlacementError, Settings};
use serde_json::{Value, json};

use crate::rig::{Rig, calls, end, hive, model, script, soon};

const GIB: u64 = 1 << 30;

/// A machine with one card of 24 GiB, and models of so many GiB.
fn card(models: &[(&str, u64)]) -> Value {
    let known: Vec<_> = models
        .iter()
        .map(|(name, gib)| {
            let bytes = gib * GIB;
            json!({ "model_ref": name, "stored": true, "bytes": bytes, "memory_bytes": bytes })
        })
        .collect();
    let device = json!({
        "kind": "cuda", "index": 0, "name": "card", "memory_total": 24 * GIB, "memory_free": 24 * GIB
    });
    json!({ "models": { "known": known }, "machine": { "devices": [device] } })
}

fn other() -> ModelRef {
    "hf:c/d".parse().unwrap()
}

#[tokio::test]
async fn a_model_that_fits_nowhere_is_refused_before_anything_is_fetched() {
    let mut large = card(&[("hf:a/b", 40)]);
    large["models"]["known"][0]["stored"] = false.into();
    let rig = Rig::start(vec![script(large)], Settings::default()).await;
    let Err(PlacementError::NoHive { refusal, .. }) = rig.ensure().await else { panic!("it fits") };
    assert!(refusal.is_for_memory());
    let said = refusal.to_string();
    assert!(
        said.contains("40.0 GiB of weights") && said.contains("box-0: 24.0 GiB of memory free"),
        "{said}"
    );
    assert_eq!((rig.count(CallName::Download), rig.count(CallName::Spawn)), (0, 0));
}

#[tokio::test]
async fn an_idle_worker_makes_room_and_one_that_serves_does_not() {
    let rig = Rig::start(vec![script(card(&[("hf:a/b", 15), ("hf:c/d", 15)]))], Settings::default()).await;
    rig.ensure().await.unwrap();
    let view = rig.registry.view();
    let lease = view.serving(&model())[0].lease().unwrap();
    let Err(PlacementError::NoHive { refusal, .. }) = end(rig.placement.ensure_worker(&other())).await else {
        panic!("it fits")
    };
    assert!(refusal.is_for_memory(), "{refusal}");
    assert_eq!(rig.count(CallName::StopWorker), 0);
    drop(lease);
    // The refusal is remembered for a moment.
    soon(async {
        while end(rig.placement.ensure_worker(&other())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(rig.count(CallName::StopWorker), 1);
    let view = rig.registry.view();
    assert!(view.serving(&model()).is_empty() && !view.serving(&other()).is_empty());
}

#[tokio::test]
async fn the_faster_of_two_cards_is_asked_for_though_the_other_has_more_memory() {
    let mut cards = card(&[("hf:a/b", 15)]);
    let fast = json!({
        "kind": "cuda", "index": 1, "name": "RTX 5090", "memory_total": 20 * GIB, "memory_free": 20 * GIB
    });
    cards["machine"]["devices"].as_array_mut().unwrap().push(fast);
    let rig = Rig::start(vec![script(cards)], Settings::default()).await;
    rig.ensure().await.unwrap();
    assert_eq!(rig.registry.view().serving(&model())[0].record.device.to_string(), "cuda:1");
}

#[tokio::test]
async fn a_worker_is_stopped_once_its_last_request_ended_long_enough_ago() {
    let settings = Settings { worker_idle: Duration::from_millis(600), ..Settings::default() };
    let rig = Rig::start(vec![script(json!({}))], settings).await;
    rig.ensure().await.unwrap();
    let view = rig.registry.view();
    let lease = view.serving(&model())[0].lease().unwrap();
    rig.placement.look_after();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(calls(&rig.fakes[0], CallName::StopWorker), 0, "it serves");
    drop(lease);
    rig.until("it is stopped", |view| view.serving(&model()).is_empty()).await;
    assert_eq!(calls(&rig.fakes[0], CallName::StopWorker), 1);
    assert!(rig.registry.view().hive(&hive(0)).is_some());
    rig.ensure().await.unwrap();
}

#[tokio::test]
async fn with_zero_an_idle_worker_stays() {
    let settings = Settings { worker_idle: Duration::ZERO, ..Settings::default() };
    let rig = Rig::start(vec![script(json!({}))], settings).await;
    rig.ensure().await.unwrap();
    rig.placement.look_after();
    tokio::time::sleep(Duration::from_millis(300)).await;
    soon(rig.placement.close(|_| false)).await;
    assert_eq!(calls(&rig.fakes[0], CallName::StopWorker), 0);
}

#[tokio::test]
async fn what_a_worker_was_seen_to_hold_counts_the_next_time() {
    // Its header promises 10 GiB, and it takes 20.
    let mut cards = card(&[("hf:a/b", 10)]);
    cards["models"]["known"][0]["memory_bytes"] = (20 * GIB).into();
    cards["machine"]["default_context"] = 8192.into();
    cards["machine"]["default_slots"] = 1.into();
    let rig = Rig::start(vec![script(cards)], Settings::default()).await;
    rig.ensure().await.unwrap();
    rig.placement.look_after();
    let resolved = rig.registry.view().serving(&model())[0].record.resolved.clone();
    soon(async {
        while rig.store.of_model(&resolved).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let seen = rig.store.of_model(&resolved).await.unwrap().remove(0);
    assert_eq!((seen.peak_memory, seen.context, seen.slots), (20 * GIB, 8192, 1));
    // The same model on a smaller card, where the header alone would have let it in.
    let device = json!({
        "kind": "cuda", "index": 0, "name": "card", "memory_total": 16 * GIB, "memory_free": 16 * GIB
    });
    let worker = rig.registry.view().serving(&model())[0].record.worker_id.clone();
    let client = rig.connections.client(rig.fakes[0].endpoint());
    client.stop_worker(&worker, &hive_api::StopWorkerRequest::default()).await.unwrap();
    rig.until("it is gone", |view| view.serving(&model()).is_empty()).await;
    rig.fakes[0].patch(&json!({ "machine": { "devices": [device] } })).unwrap();
    rig.until("the card is smaller", |view| {
        let machine = view.hive(&hive(0)).unwrap().capabilities.as_ref().unwrap();
        machine.devices[0].memory_total == 16 * GIB
    })
    .await;
    let Err(PlacementError::NoHive { refusal, .. }) = rig.ensure().await else { panic!("it fits") };
    assert!(refusal.to_string().contains("20.0 GiB ("), "{refusal}");
}

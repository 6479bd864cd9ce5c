//! Hives that come and go, hives whose stream brings nothing, and a queen who is cut off herself.

use std::sync::Arc;

use fake_hive::{Act, CallName, FakeHive, Options};
use fleet::{HiveMode, HivePhase, HiveRegistry, HiveStatus, MockHiveLauncher};
use registry_sqlite::memory::MemoryStore;
use serde_json::json;

use crate::rig::{Rig, attached, calls, eventually, script, soon};

async fn rig() -> Rig {
    Rig::start(Arc::new(MemoryStore::new()), Arc::new(MockHiveLauncher::new())).await
}

/// So many hives of other machines, all online.
async fn fleet(rig: &Rig, hives: usize) -> Vec<FakeHive> {
    let mut fleet = Vec::new();
    for number in 0..hives {
        let options = Options::named(&format!("h-{number}")).unwrap();
        let fake = FakeHive::start(script(json!({})), options).await.unwrap();
        let spec = fleet::HiveSpec { mode: HiveMode::Network, ..attached(&fake) };
        assert!(rig.manager.register(spec).await.unwrap());
        rig.until(&format!("h-{number}"), HivePhase::Online).await;
        row(rig, &format!("h-{number}"), HiveStatus::Online).await;
        fleet.push(fake);
    }
    fleet
}

/// Waits until the row has that status.
async fn row(rig: &Rig, id: &str, status: HiveStatus) {
    let id = id.parse().unwrap();
    soon("the row", async {
        while rig.store.get(&id).await.unwrap().unwrap().status != status {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn reason(rig: &Rig, id: &str) -> String {
    rig.view(id).and_then(|hive| hive.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_hive_that_is_lost_again_soon_is_held_back_and_has_to_prove_itself() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    for loss in 1..=3 {
        rig.until("box", HivePhase::Online).await;
        fake.act(Act::Down).await.unwrap();
        rig.until("box", HivePhase::Unreachable).await;
        fake.act(Act::Up).await.unwrap();
        if loss == 1 {
            // Once is nothing.
            rig.until("box", HivePhase::Online).await;
            assert!(rig.events(|e| format!("{e:?}").contains("held back")).is_empty());
        } else {
            let told = format!("lost {loss} times");
            eventually("it is held back", || reason(&rig, "box").starts_with(&told)).await;
            let probes = calls(&fake, CallName::Health);
            rig.until("box", HivePhase::Online).await;
            assert!(calls(&fake, CallName::Health) >= probes + 2, "it was not asked twice");
        }
    }
}

#[tokio::test]
async fn most_network_hives_silent_at_a_time_are_not_lost_but_get_nothing() {
    let rig = rig().await;
    let fleet = fleet(&rig, 4).await;
    let swallow = json!({ "wire": { "from_hive": { "swallow": true } } });
    for fake in &fleet[1..] {
        fake.patch(&swallow).unwrap();
    }
    for number in 1..4 {
        let id = format!("h-{number}");
        let reason = rig.until(&id, HivePhase::Unreachable).await.unwrap();
        assert!(reason.contains("this queen may be cut off herself"), "{reason}");
    }
    assert_eq!(rig.view("h-0").unwrap().phase, HivePhase::Online);
    // The rows would have been written by now, as the one of a hive that is lost alone is.
    fleet[0].act(Act::Exit { code: 0 }).await.unwrap();
    rig.until("h-0", HivePhase::Unreachable).await;
    for fake in &fleet[1..] {
        let id = fake.endpoint().hive_id;
        assert_eq!(rig.store.get(&id).await.unwrap().unwrap().status, HiveStatus::Online, "{id}");
    }
    for fake in &fleet[1..] {
        fake.patch(&json!({ "wire": null })).unwrap();
        fake.act(Act::CutAll { how: Default::default() }).await.unwrap();
    }
    for number in 1..4 {
        rig.until(&format!("h-{number}"), HivePhase::Online).await;
    }
    assert!(rig.events(|e| format!("{e:?}").contains("held back")).is_empty());
}

#[tokio::test]
async fn a_network_hive_that_falls_silent_alone_is_lost() {
    let rig = rig().await;
    let fleet = fleet(&rig, 4).await;
    fleet[0].patch(&json!({ "wire": { "from_hive": { "swallow": true } } })).unwrap();
    let reason = rig.until("h-0", HivePhase::Unreachable).await.unwrap();
    assert!(!reason.contains("cut off"), "{reason}");
    row(&rig, "h-0", HiveStatus::Error).await;
}

#[tokio::test]
async fn a_hive_that_answers_and_whose_stream_brings_nothing_is_not_online() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    fake.patch(&json!({ "watch": { "silent": true } })).unwrap();
    let reason = rig.until("box", HivePhase::Error).await.unwrap();
    assert!(reason.starts_with("it answers, but 3 times in a row its watch stream"), "{reason}");
    // A snapshot alone does not help it any more; a stream that goes on does.
    fake.patch(&json!({ "watch": { "silent": false, "beat_ms": 3_600_000 } })).unwrap();
    let opened = calls(&fake, CallName::Watch);
    eventually("a snapshot came, and nothing behind it", || calls(&fake, CallName::Watch) >= opened + 3)
        .await;
    assert_eq!(rig.view("box").unwrap().phase, HivePhase::Error);
    fake.patch(&json!({ "watch": { "beat_ms": 50 } })).unwrap();
    rig.until("box", HivePhase::Online).await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_is_no_life_either() {
    let rig = rig().await;
    let fake = rig.attach("box", script(json!({}))).await;
    rig.until("box", HivePhase::Online).await;
    fake.patch(&json!({ "calls": { "watch": { "answer": { "kind": "hang" } } } })).unwrap();
    fake.act(Act::CutAll { how: Default::default() }).await.unwrap();
    let reason = rig.until("box", HivePhase::Error).await.unwrap();
    assert!(reason.starts_with("it answers, but"), "{reason}");
}

//! Models that come from other hives of the fleet.

use fake_hive::CallName;
use serde_json::json;

use super::{LONG, land};
use crate::rig::{Rig, calls, hive, model, script, soon};

#[tokio::test]
async fn three_hives_that_want_one_model_at_once_cause_one_transfer_from_the_hub() {
    let slow = || script(json!({ "download": { "duration_ms": 300 } }));
    let rig = Rig::start(vec![slow(), slow(), slow()], LONG).await;
    let mut flights = Vec::new();
    for at in 0..3 {
        flights.push(rig.provisioner.ensure_model_available(&model(), &hive(at)).await);
    }
    for flight in flights {
        land(flight).await.unwrap();
    }
    let from_hives = rig.fakes.iter().map(|fake| fake.sources_used().len()).sum::<usize>();
    assert_eq!((rig.count(CallName::Download), from_hives), (3, 2));
}

#[tokio::test]
async fn a_hive_whose_peers_have_wrong_bytes_turns_to_the_hub() {
    let rig = Rig::start(
        vec![script(json!({ "download": { "corrupt_unnoticed": true } })), script(json!({}))],
        LONG,
    )
    .await;
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
    land(rig.provisioner.ensure_model_available(&model(), &hive(1)).await).await.unwrap();
    assert_eq!(calls(&rig.fakes[0], CallName::ReadBlob), 1, "it was asked");
    assert!(rig.fakes[1].sources_used().is_empty(), "and not believed");
}

#[tokio::test]
async fn the_queen_carries_what_a_hive_can_get_from_nowhere() {
    // It reaches neither the other hive nor the hub.
    let cut_off =
        json!({ "download": { "fail_at": 0.0, "use_sources": false, "relay_patience_ms": 10_000 } });
    let rig = Rig::start(vec![script(json!({})), script(cut_off)], LONG).await;
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
    land(rig.provisioner.ensure_model_available(&model(), &hive(1)).await).await.unwrap();
    assert!(calls(&rig.fakes[1], CallName::WriteBlob) >= 2);
    assert_eq!(rig.provisioner.hives_with(&model()).await.unwrap(), [hive(0), hive(1)]);
}

#[tokio::test]
async fn a_hive_that_dies_in_its_turn_does_not_keep_the_others_from_the_hub() {
    let stuck = script(json!({ "download": { "stall_at": 0.5 } }));
    let rig = Rig::start(vec![stuck, script(json!({}))], LONG).await;
    let first = rig.provisioner.ensure_model_available(&model(), &hive(0)).await;
    soon(async {
        while calls(&rig.fakes[0], CallName::Download) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let second = rig.provisioner.ensure_model_available(&model(), &hive(1)).await;
    rig.fakes[0].act(fake_hive::Act::Down).await.unwrap();
    land(first).await.unwrap_err();
    land(second).await.unwrap();
}

#[tokio::test]
async fn a_model_that_is_removed_is_gone_from_hives_and_catalog() {
    let rig = Rig::start(vec![script(json!({})), script(json!({}))], LONG).await;
    for at in 0..2 {
        land(rig.provisioner.ensure_model_available(&model(), &hive(at)).await).await.unwrap();
    }
    let removed = rig.provisioner.remove(&model(), Some(&hive(0))).await.unwrap();
    assert_eq!((removed.from, removed.failed.len()), (vec![hive(0)], 0));
    assert_eq!(rig.provisioner.hives_with(&model()).await.unwrap(), [hive(1)]);
    rig.spawn_on(1).await;
    let removed = rig.provisioner.remove(&model(), None).await.unwrap();
    assert!(removed.from.is_empty() && removed.failed.len() == 1, "a worker uses it: {removed:?}");
    assert_eq!(rig.provisioner.catalog().await.unwrap().len(), 1);
}

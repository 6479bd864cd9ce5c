//! Models that come from other hives of the fleet.

use fake_hive::{Call, CallName, FakeHive};
use fleet::ModelCatalog;
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
    let cut_off = json!({ "download": { "fail_at": 0.0, "use_sources": false } });
    let rig = Rig::start(vec![sharded(3, json!({})), script(cut_off)], LONG).await;
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
    land(rig.provisioner.ensure_model_available(&model(), &hive(1)).await).await.unwrap();
    // For each file it is asked how much is there, and then given the rest.
    assert_eq!(calls(&rig.fakes[1], CallName::WriteBlob), 6);
    assert_eq!(rig.provisioner.hives_with(&model()).await.unwrap(), [hive(0), hive(1)]);
}

#[tokio::test]
async fn the_queen_carries_before_the_hub_is_asked() {
    let apart = script(json!({ "download": { "use_sources": false } }));
    let rig = Rig::start(vec![sharded(2, json!({})), apart], LONG).await;
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
    land(rig.provisioner.ensure_model_available(&model(), &hive(1)).await).await.unwrap();
    assert_eq!(calls(&rig.fakes[0], CallName::ReadBlob), 2, "each file came from the fleet");
}

/// A hive whose hub has the model in so many files.
fn sharded(shards: u32, patch: serde_json::Value) -> fake_hive::Script {
    let known = json!({ "models": { "known": [{ "model_ref": "hf:a/b", "shards": shards }] } });
    script(known).with(&patch).unwrap()
}

/// A hive whose hub has this revision of the model.
fn at_revision(digit: &str) -> fake_hive::Script {
    let resolved = format!("hf:a/b@{}:b.gguf", digit.repeat(40));
    script(json!({ "models": { "known": [{ "model_ref": "hf:a/b", "resolved": resolved }] } }))
}

fn last(fake: &FakeHive, call: CallName) -> Call {
    fake.journal().into_iter().rfind(|c| c.call == call).unwrap()
}

#[tokio::test]
async fn every_file_of_a_model_comes_from_the_hub_once() {
    let rig =
        Rig::start((0..3).map(|_| sharded(4, json!({ "download": { "duration_ms": 300 } }))).collect(), LONG)
            .await;
    let mut flights = Vec::new();
    for at in 0..3 {
        flights.push(rig.provisioner.ensure_model_available(&model(), &hive(at)).await);
    }
    for flight in flights {
        land(flight).await.unwrap();
    }
    assert_eq!(rig.fakes.iter().map(|fake| fake.sources_used().len()).sum::<usize>(), 2 * 4);
}

#[tokio::test]
async fn a_branch_that_moves_moves_no_hive() {
    let rig = Rig::start(vec![at_revision("1"), at_revision("2")], LONG).await;
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
    // Its hub is further, and so it would fetch another revision if it were asked by name only.
    land(rig.provisioner.ensure_model_available(&model(), &hive(1)).await).await.unwrap();
    let view = rig.registry.view();
    let first: fleet::Resolved = format!("hf:a/b@{}:b.gguf", "1".repeat(40)).parse().unwrap();
    for at in 0..2 {
        assert!(view.hive(&hive(at)).unwrap().has_model(&first), "hive {at}");
        assert_eq!(last(&rig.fakes[at], CallName::Download).resolved, Some(first.to_string()));
    }
    // Also where the first hive is gone and the queen asks again.
    assert_eq!(rig.store.pinned(&model()).await.unwrap().unwrap().resolved, first);
    // A model that was removed everywhere is found anew.
    let removed = rig.provisioner.remove(&model(), None).await.unwrap();
    assert_eq!((removed.from.len(), removed.failed.len()), (2, 0));
    let resolved =
        soon(rig.provisioner.ensure_model_available(&model(), &hive(1)).await.landed_or(|_| {})).await;
    assert_eq!(resolved.unwrap().to_string(), format!("hf:a/b@{}:b.gguf", "2".repeat(40)));
}

#[tokio::test]
async fn hives_that_are_asked_at_once_agree() {
    let rig = Rig::start(vec![at_revision("1"), at_revision("2"), at_revision("3")], LONG).await;
    let mut flights = Vec::new();
    for at in 0..3 {
        flights.push(rig.provisioner.ensure_model_available(&model(), &hive(at)).await);
    }
    let mut found = Vec::new();
    for flight in flights {
        found.push(soon(flight.landed_or(|_| {})).await.unwrap());
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
}

#[tokio::test]
async fn a_model_that_only_lies_on_a_hive_is_removed_by_the_name_that_it_is_listed_by() {
    let known = json!({ "models": { "known": [{ "model_ref": "hf:a/b", "stored": true }] } });
    let rig = Rig::start(vec![script(known), script(json!({}))], LONG).await;
    rig.until("it is reported", |view| !view.hive(&hive(0)).unwrap().models.is_empty()).await;
    let listed = rig.registry.view().hive(&hive(0)).unwrap().models.keys().next().unwrap().clone();
    let listed = fleet::ModelRef::from(&listed);
    let removed = rig.provisioner.remove(&listed, None).await.unwrap();
    assert_eq!((removed.from, removed.failed.len()), (vec![hive(0)], 0));
    assert!(rig.registry.view().hive(&hive(0)).unwrap().models.is_empty());
    let again = rig.provisioner.remove(&listed, None).await.unwrap();
    assert!(again.from.is_empty() && again.failed.is_empty(), "{again:?}");
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
    let refusal = removed.failed[0].to_string();
    assert!(refusal.contains("box-1") && refusal.contains("w-"), "{refusal}");
    assert_eq!(removed.failed[0].code(), Some(hive_api::ErrorCode::ModelInUse));
    assert_eq!(rig.provisioner.catalog().await.unwrap().len(), 1);
}

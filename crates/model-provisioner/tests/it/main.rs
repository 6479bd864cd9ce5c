//! Flights over scripted hives.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod peers;
mod rig;

use std::{sync::Arc, time::Duration};

use fake_hive::{Act, CallName};
use fleet::{CatalogEntry, CatalogState, MockModelCatalog, ModelCatalog, StoreError};
use model_provisioner::{Flight, Progress, ProvisionError};
use registry_sqlite::memory::MemoryStore;
use rig::{Rig, hive, model, script, soon};
use serde_json::json;

/// Longer than any transfer of these tests.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn land(flight: Flight) -> Result<(), ProvisionError> {
    soon(flight.landed_or(|_| {})).await.map(drop)
}

async fn entry(rig: &Rig) -> CatalogEntry {
    rig.store.of_model(&model()).await.unwrap().remove(0)
}

#[tokio::test]
async fn whoever_asks_there_is_one_transfer_and_the_catalog_has_it() {
    let rig = Rig::start(vec![script(json!({ "download": { "duration_ms": 300 } }))], LONG).await;
    let mut flights = Vec::new();
    for _ in 0..50 {
        flights.push(rig.provisioner.ensure_model_available(&model(), &hive(0)).await);
    }
    // Whoever began it leaves.
    drop(flights.remove(0));
    let mut told = Vec::new();
    let watched = flights.remove(0).landed_or(|step| told.push(step.clone()));
    let resolved = soon(watched).await.unwrap();
    for flight in flights {
        land(flight).await.unwrap();
    }
    assert!(
        told.iter().any(|step| matches!(step, Progress::Transferring { total: Some(_), .. })),
        "{told:?}"
    );
    assert_eq!(rig.count(CallName::Download), 1);
    let entry = entry(&rig).await;
    assert_eq!((&entry.state, entry.resolved.as_ref()), (&CatalogState::Complete, Some(&resolved)));
    assert!(entry.bytes.is_some_and(|bytes| bytes > 0));
    rig.until("the hive reports it", |view| view.hive(&hive(0)).unwrap().has_model(&resolved)).await;
    assert_eq!(rig.provisioner.hives_with(&model()).await.unwrap(), [hive(0)]);
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
    assert_eq!(rig.count(CallName::Download), 1, "what is there is not asked for");
}

#[tokio::test]
async fn hives_that_share_a_store_share_the_transfer() {
    let shared = script(json!({ "machine": { "store_id": "s-1" }, "download": { "duration_ms": 300 } }));
    let rig = Rig::start(vec![shared.clone(), shared], LONG).await;
    let first = rig.provisioner.ensure_model_available(&model(), &hive(0)).await;
    let second = rig.provisioner.ensure_model_available(&model(), &hive(1)).await;
    land(first).await.unwrap();
    land(second).await.unwrap();
    assert_eq!(rig.count(CallName::Download), 1);
}

#[tokio::test]
async fn a_progress_stream_that_breaks_is_taken_up_again() {
    for how in ["rst", "fin"] {
        let cut = json!({ "download": { "duration_ms": 400, "cut_progress": how } });
        let rig = Rig::start(vec![script(cut)], LONG).await;
        land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
        assert!(rig.count(CallName::Progress) >= 2, "{how}");
        assert_eq!(entry(&rig).await.state, CatalogState::Complete);
    }
}

#[tokio::test]
async fn a_hive_that_is_started_anew_is_asked_anew() {
    let rig = Rig::start(vec![script(json!({ "download": { "stall_at": 0.5 } }))], LONG).await;
    let flight = rig.provisioner.ensure_model_available(&model(), &hive(0)).await;
    let mut watched = flight.clone();
    while !matches!(watched.now(), Progress::Transferring { bytes: 1.., .. }) {
        assert!(soon(watched.moved()).await);
    }
    rig.fakes[0].patch(&json!({ "download": { "stall_at": null } })).unwrap();
    rig.fakes[0].act(Act::Restart { launch_id: None, keep_workers: false }).await.unwrap();
    // Either the restart was so quick that the flight goes on, or it is told that the hive was gone.
    match land(flight).await {
        Ok(()) => assert!(rig.count(CallName::Download) >= 2),
        Err(error) => assert!(matches!(error, ProvisionError::HiveGone { .. }), "{error}"),
    }
}

#[tokio::test]
async fn a_transfer_that_does_not_move_is_given_up() {
    let stuck = script(json!({ "download": { "stall_at": 0.5 } }));
    let rig = Rig::start(vec![stuck], Duration::from_secs(2)).await;
    let error = land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Stalled { bytes: 1.., .. }), "{error:?}");
    assert!(matches!(entry(&rig).await.state, CatalogState::Failed { .. }));
    rig.fakes[0].patch(&json!({ "download": { "stall_at": null } })).unwrap();
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
    assert_eq!(entry(&rig).await.state, CatalogState::Complete, "the next one is a flight of its own");
}

#[tokio::test]
async fn a_hive_that_does_not_take_the_order_is_given_up_long_before() {
    let deaf = script(json!({ "calls": { "download": { "answer": { "kind": "drop_request" } } } }));
    let rig = Rig::start(vec![deaf], LONG).await;
    let error = land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Call { .. }), "{error:?}");
    assert!(!error.is_about_the_model(), "another hive may be able");
}

#[tokio::test]
async fn what_a_hive_says_reaches_those_who_wait() {
    use hive_api::ErrorCode as C;
    let rig = Rig::start(vec![script(json!({}))], LONG).await;
    let missing = "hf:missing/b".parse().unwrap();
    let error = land(rig.provisioner.ensure_model_available(&missing, &hive(0)).await).await.unwrap_err();
    assert_eq!(error.code(), Some(C::ModelNotFound), "{error}");
    assert!(error.is_about_the_model());
    for (code, about_the_model) in [("storage_full", false), ("source_unreachable", false)] {
        let fails = json!({ "download": { "fail_at": 0.5, "fail_code": code } });
        rig.fakes[0].patch(&fails).unwrap();
        let error = land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap_err();
        assert_eq!(error.code().map(C::text).as_deref(), Some(code), "{error}");
        assert_eq!(error.is_about_the_model(), about_the_model);
        let CatalogState::Failed { reason } = entry(&rig).await.state else { panic!("it failed") };
        assert_eq!(reason, error.to_string());
    }
}

#[tokio::test]
async fn a_hive_that_is_gone_ends_the_flight() {
    let rig = Rig::start(vec![script(json!({ "download": { "stall_at": 0.5 } }))], LONG).await;
    let flight = rig.provisioner.ensure_model_available(&model(), &hive(0)).await;
    rig.fakes[0].act(Act::Down).await.unwrap();
    let error = land(flight).await.unwrap_err();
    assert!(matches!(error, ProvisionError::HiveGone { .. }), "{error:?}");
    let error = land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap_err();
    assert!(matches!(error, ProvisionError::HiveGone { .. }), "{error:?}");
}

#[tokio::test]
async fn a_catalog_that_cannot_be_written_stops_no_flight() {
    let mut catalog = MockModelCatalog::new();
    catalog.expect_of_model().returning(|_| Err(StoreError::Closed { action: "read" }));
    catalog.expect_pinned().returning(|_| Err(StoreError::Closed { action: "read" }));
    catalog.expect_pin().returning(|_, _| Err(StoreError::Full { action: "write" }));
    catalog.expect_put().returning(|_| Err(StoreError::Full { action: "write" }));
    let store = Arc::new(MemoryStore::new());
    let rig = Rig::with_catalog(vec![script(json!({}))], LONG, store, Arc::new(catalog)).await;
    land(rig.provisioner.ensure_model_available(&model(), &hive(0)).await).await.unwrap();
}

#[tokio::test]
async fn a_queen_that_stops_ends_its_flights_and_not_the_hives() {
    let rig = Rig::start(vec![script(json!({ "download": { "duration_ms": 1000 } }))], LONG).await;
    let flight = rig.provisioner.ensure_model_available(&model(), &hive(0)).await;
    let mut watched = flight.clone();
    while !matches!(watched.now(), Progress::Transferring { .. }) {
        assert!(soon(watched.moved()).await);
    }
    soon(rig.provisioner.close()).await;
    assert!(land(flight).await.is_err());
    rig.until("the hive has it all the same", |view| !view.hive(&hive(0)).unwrap().models.is_empty()).await;
}

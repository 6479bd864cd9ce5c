//! Machines whose owners want them back.

use std::sync::Arc;

use fake_hive::{FakeHive, Options};
use fleet::{Desired, DesiredBy, HivePhase};
use hive_api::client::{Connections, Timeouts};
use hive_manager::OnStop;
use registry_sqlite::memory::MemoryStore;
use serde_json::json;

use crate::{
    machine::Machine,
    rig::{Rig, attached, eventually, script},
};

async fn queen(store: Arc<MemoryStore>) -> Rig {
    let machine = Machine::new(store.clone(), script(json!({})));
    Rig::start(store, machine).await
}

async fn spawn(hive: &FakeHive, key: &str) {
    let request = json!({ "model_ref": "hf:a/b", "idempotency_key": key });
    let request = serde_json::from_value(request).unwrap();
    Connections::new(Timeouts::default()).unwrap().client(hive.endpoint()).spawn(&request).await.unwrap();
}

fn all_are_over(hive: &FakeHive) -> bool {
    hive.workers().iter().all(|worker| worker.state.is_over())
}

#[tokio::test]
async fn a_paused_hive_has_no_workers_until_its_owner_resumes_it() {
    let stored = json!({ "models": { "known": [{ "model_ref": "hf:a/b", "stored": true }] } });
    let hive = FakeHive::start(script(stored), Options::named("box").unwrap()).await.unwrap();
    let id = hive.endpoint().hive_id;
    let store = Arc::new(MemoryStore::new());
    let rig = queen(store.clone()).await;
    rig.manager.register(attached(&hive)).await.unwrap();
    rig.until("box", HivePhase::Online).await;
    spawn(&hive, "one").await;

    assert_eq!(rig.manager.desire(&id, Desired::Paused, DesiredBy::Person).await.unwrap(), Desired::Paused);
    rig.until("box", HivePhase::Draining).await;
    eventually("its worker is stopped", || all_are_over(&hive)).await;
    // Somebody starts one past the queen.
    spawn(&hive, "two").await;
    eventually("that one is stopped, too", || all_are_over(&hive)).await;
    let demanded = rig.manager.desire(&id, Desired::Running, DesiredBy::Placement).await.unwrap();
    assert_eq!(demanded, Desired::Paused, "demand does not undo it");

    // The next queen knows.
    rig.manager.close(OnStop::Keep).await;
    let rig = queen(store).await;
    rig.until("box", HivePhase::Draining).await;
    spawn(&hive, "three").await;
    eventually("the next queen stops it", || all_are_over(&hive)).await;

    rig.manager.desire(&id, Desired::Running, DesiredBy::Person).await.unwrap();
    rig.until("box", HivePhase::Online).await;
    spawn(&hive, "four").await;
    eventually("it is ready", || hive.workers().iter().any(|worker| worker.state.is_ready())).await;
}

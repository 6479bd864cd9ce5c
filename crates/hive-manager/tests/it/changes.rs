//! Registering, changing and removing hives.

use std::sync::Arc;

use fleet::{
    Desired, DesiredBy, EventKind, HiveMode, HivePhase, HiveRegistry, HiveSource, HiveSpec, MockHiveLauncher,
};
use futures_util::{FutureExt, future::join_all};
use hive_manager::{ManagerError, OnStop};
use registry_sqlite::memory::MemoryStore;
use serde_json::json;

use crate::{
    machine::Machine,
    rig::{Rig, attached, eventually, managed, script},
};

async fn with_machine() -> (Rig, Arc<Machine>) {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::new(store.clone(), script(json!({})));
    (Rig::start(store, machine.clone()).await, machine)
}

#[tokio::test]
async fn registering_twice_is_registering_once_and_another_hive_is_a_conflict() {
    let (rig, machine) = with_machine().await;
    let mut spec = managed();
    spec.source = HiveSource::Api;
    let tries = join_all((0..100).map(|_| rig.manager.register(spec.clone()))).await;
    let created = tries.into_iter().map(|created| created.expect("the same hive")).filter(|created| *created);
    assert_eq!(created.count(), 1);
    rig.until("local", HivePhase::Online).await;
    assert_eq!(machine.launched(), 1);
    spec.port += 1;
    let error = rig.manager.register(spec).await.unwrap_err();
    assert!(matches!(error, ManagerError::Conflict { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "hive local is registered already, as local 127.0.0.1:7835; remove it first, or choose another id"
    );
    assert_eq!(rig.events(|e| matches!(e, EventKind::HiveRegistered { .. })).len(), 1);
}

#[tokio::test]
async fn a_hive_of_the_configuration_is_changed_there_only() {
    let store = Arc::new(MemoryStore::new());
    store.sync_config(vec![managed()]).await.unwrap();
    let machine = Machine::new(store.clone(), script(json!({})));
    let rig = Rig::start(store, machine).await;
    let mut spec = managed();
    spec.port += 1;
    assert!(matches!(rig.manager.register(spec).await, Err(ManagerError::Configured { .. })));
    let removed = rig.manager.remove(&managed().id).await;
    assert!(matches!(removed, Err(ManagerError::Configured { .. })));
    rig.until("local", HivePhase::Online).await;
}

#[tokio::test]
async fn what_the_configuration_has_no_more_is_stopped_and_forgotten() {
    for spec in [managed(), crate::rig::elsewhere()] {
        let store = Arc::new(MemoryStore::new());
        store.sync_config(vec![spec.clone()]).await.unwrap();
        let machine = Machine::new(store.clone(), script(json!({})));
        let first = Rig::start(store, machine.clone()).await;
        first.until("local", HivePhase::Online).await;
        first.manager.close(OnStop::Keep).await;
        let Rig { data_dir, store, .. } = first;
        store.sync_config(vec![]).await.unwrap();
        assert!(machine.lives());
        let rig = Rig::over(data_dir, store, machine.clone()).await;
        eventually("it is gone", || !machine.lives() && rig.view("local").is_none()).await;
        assert_eq!(machine.killed(), 0);
        assert!(rig.store.leaving().await.unwrap().is_empty());
        assert!(rig.manager.register(spec).await.unwrap(), "its name is free again");
        rig.until("local", HivePhase::Online).await;
    }
}

#[tokio::test]
async fn a_machine_that_nothing_here_can_start_a_hive_on_is_refused_with_what_to_do() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let rig = Rig::with(dir, store, (Arc::new(MockHiveLauncher::new()), None), crate::rig::settings()).await;
    let mut spec = managed();
    (spec.mode, spec.hostname) = (HiveMode::Network, "box".parse().unwrap());
    let error = rig.manager.register(spec).await.unwrap_err();
    assert!(error.to_string().contains("start rbee-hive on box by hand"), "{error}");
    assert!(rig.manager.rows().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_leave_half_a_change() {
    let (rig, machine) = with_machine().await;
    let mut spec = managed();
    spec.source = HiveSource::Api;
    assert!(rig.manager.register(spec.clone()).now_or_never().is_none(), "it takes more than one look");
    rig.until("local", HivePhase::Online).await;
    assert!(rig.manager.remove(&spec.id).now_or_never().is_none());
    eventually("it is gone", || rig.view("local").is_none()).await;
    assert!(!machine.lives());
    assert!(rig.store.get(&spec.id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_removed_hive_is_ended_and_forgotten_and_may_come_again() {
    let (rig, machine) = with_machine().await;
    let mut spec = managed();
    spec.source = HiveSource::Api;
    rig.manager.register(spec.clone()).await.unwrap();
    rig.until("local", HivePhase::Online).await;
    // Whoever wants it to run while it is being removed comes too late.
    let (removed, again, _) = tokio::join!(
        rig.manager.remove(&spec.id),
        rig.manager.remove(&spec.id),
        rig.manager.desire(&spec.id, Desired::Running, DesiredBy::Person),
    );
    removed.unwrap();
    again.unwrap();
    assert!(!machine.lives() && rig.view("local").is_none());
    assert_eq!(rig.events(|e| matches!(e, EventKind::HiveRemoved { .. })).len(), 1);
    assert!(matches!(rig.manager.remove(&spec.id).await, Err(ManagerError::Unknown { .. })));
    let unknown = rig.manager.desire(&spec.id, Desired::Running, DesiredBy::Person).await;
    assert!(matches!(unknown, Err(ManagerError::Unknown { .. })));
    assert!(rig.manager.register(spec).await.unwrap());
    rig.until("local", HivePhase::Online).await;
}

#[tokio::test]
async fn a_removal_that_was_not_finished_is_finished_by_the_next_queen() {
    let spec = HiveSpec { source: HiveSource::Api, ..managed() };
    let (first, machine) = with_machine().await;
    first.manager.register(spec.clone()).await.unwrap();
    first.until("local", HivePhase::Online).await;
    first.manager.close(OnStop::Keep).await;
    let Rig { data_dir, store, .. } = first;
    // As far as a queen came that was killed behind the first write of the removal.
    assert!(store.leave(&spec.id).await.unwrap());
    let next = Rig::over(data_dir, store, machine.clone()).await;
    assert!(next.manager.rows().await.unwrap().is_empty(), "it is not listed any more");
    eventually("it is gone", || !machine.lives() && next.view("local").is_none()).await;
    assert!(next.store.leaving().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_removed_hive_that_cannot_be_ended_is_ended_by_the_next_queen() {
    let spec = HiveSpec { source: HiveSource::Api, ..crate::rig::elsewhere() };
    let (first, machine) = with_machine().await;
    first.manager.register(spec.clone()).await.unwrap();
    first.until("local", HivePhase::Online).await;
    // Its machine is off.
    machine.fake().act(fake_hive::Act::Down).await.unwrap();
    machine.is_off.store(true, std::sync::atomic::Ordering::SeqCst);
    first.manager.remove(&spec.id).await.unwrap();
    assert!(first.view("local").is_none() && first.manager.rows().await.unwrap().is_empty());
    assert!(machine.lives());
    first.manager.close(OnStop::Keep).await;
    let Rig { data_dir, store, .. } = first;
    machine.is_off.store(false, std::sync::atomic::Ordering::SeqCst);
    machine.fake().act(fake_hive::Act::Up).await.unwrap();
    let next = Rig::over(data_dir, store, machine.clone()).await;
    eventually("it is gone", || !machine.lives() && next.view("local").is_none()).await;
    assert!(next.store.leaving().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_queen_that_stops_takes_no_hive() {
    let (rig, _) = with_machine().await;
    rig.manager.close(OnStop::Keep).await;
    assert!(matches!(rig.manager.register(managed()).await, Err(ManagerError::Stopping)));
    assert!(rig.manager.rows().await.unwrap().is_empty());
}

#[tokio::test]
async fn placement_does_not_undo_what_a_person_decided() {
    let (rig, _) = with_machine().await;
    rig.manager.register(managed()).await.unwrap();
    rig.until("local", HivePhase::Online).await;
    let id = managed().id;
    rig.manager.desire(&id, Desired::Stopped, DesiredBy::Person).await.unwrap();
    rig.until("local", HivePhase::Offline).await;
    let holds = rig.manager.desire(&id, Desired::Running, DesiredBy::Placement).await.unwrap();
    assert_eq!(holds, Desired::Stopped);
    assert_eq!(rig.view("local").unwrap().phase, HivePhase::Offline);
}

#[tokio::test]
async fn an_attached_hive_without_its_token_says_what_is_missing() {
    let rig = Rig::start(Arc::new(MemoryStore::new()), Arc::new(MockHiveLauncher::new())).await;
    let fake = fake_hive::FakeHive::start(script(json!({})), Default::default()).await.unwrap();
    let mut spec = attached(&fake);
    spec.kind = fleet::HiveKind::Attached { token: None, pin: None };
    rig.manager.register(spec).await.unwrap();
    let reason = rig.until("fake", HivePhase::Error).await.unwrap();
    assert!(reason.contains("token is not known"), "{reason}");
}

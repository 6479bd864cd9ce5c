//! Hives that run only while something needs them.

use std::sync::Arc;

use fleet::{
    Desired, DesiredBy, HiveId, HivePhase, HiveRegistry, HiveSource, HiveSpec, HiveStatus, ObservedHive,
    StartPolicy,
};
use hive_manager::OnStop;
use registry_sqlite::memory::MemoryStore;
use serde_json::json;

use crate::{
    machine::Machine,
    rig::{Rig, elsewhere, eventually, managed, script},
};

fn on_demand(spec: HiveSpec) -> HiveSpec {
    HiveSpec { start: StartPolicy::OnDemand, ..spec }
}

fn id() -> HiveId {
    managed().id
}

/// A queen whose configuration has the hive.
async fn configured(spec: HiveSpec) -> (Rig, Arc<Machine>) {
    let store = Arc::new(MemoryStore::new());
    store.sync_config(vec![spec]).await.unwrap();
    let machine = Machine::new(store.clone(), script(json!({})));
    (Rig::start(store, machine.clone()).await, machine)
}

async fn demand(rig: &Rig, desired: Desired) {
    assert_eq!(rig.manager.desire(&id(), desired, DesiredBy::Placement).await.unwrap(), desired);
}

async fn decided(rig: &Rig) -> (Desired, DesiredBy) {
    let row = rig.store.get(&id()).await.unwrap().unwrap();
    (row.desired, row.desired_by)
}

#[tokio::test]
async fn it_waits_for_demand_says_so_and_comes_and_goes_with_it() {
    for spec in [on_demand(managed()), on_demand(elsewhere())] {
        let (rig, machine) = configured(spec).await;
        eventually("it says why it waits", || rig.view("local").unwrap().reason.is_some()).await;
        let waiting = rig.view("local").unwrap();
        assert_eq!((waiting.phase, waiting.on_demand), (HivePhase::Offline, true));
        assert!(waiting.reason.as_ref().unwrap().contains("when a request needs it"), "{:?}", waiting.reason);
        assert_eq!(machine.launched(), 0);
        demand(&rig, Desired::Running).await;
        assert_eq!(rig.until("local", HivePhase::Online).await, None);
        demand(&rig, Desired::Stopped).await;
        rig.until("local", HivePhase::Offline).await;
        assert_eq!((machine.launched(), machine.killed(), machine.lives()), (1, 0, false));
        let gone = rig.view("local").unwrap();
        assert!(gone.on_demand && gone.capabilities.is_some(), "it is known what could be started there");
    }
}

#[tokio::test]
async fn one_that_is_registered_over_the_api_waits_too() {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::new(store.clone(), script(json!({})));
    let rig = Rig::start(store, machine.clone()).await;
    let spec = HiveSpec { source: HiveSource::Api, ..managed() };
    assert!(rig.manager.register(on_demand(spec.clone())).await.unwrap());
    eventually("it waits", || rig.view("local").unwrap().reason.is_some()).await;
    assert_eq!(machine.launched(), 0);
    // Whoever registers it as one that always runs need not wait for the next queen.
    assert!(!rig.manager.register(spec.clone()).await.unwrap());
    rig.until("local", HivePhase::Online).await;
    assert!(!rig.view("local").unwrap().on_demand);
    assert!(!rig.manager.register(on_demand(spec)).await.unwrap());
    assert!(rig.view("local").unwrap().on_demand);
}

#[tokio::test]
async fn what_a_person_decides_is_not_demands_any_more() {
    let (rig, machine) = configured(on_demand(managed())).await;
    rig.manager.desire(&id(), Desired::Running, DesiredBy::Person).await.unwrap();
    rig.until("local", HivePhase::Online).await;
    assert!(!rig.view("local").unwrap().on_demand);
    rig.manager.desire(&id(), Desired::Stopped, DesiredBy::Person).await.unwrap();
    assert_eq!(rig.until("local", HivePhase::Offline).await, None);
    let holds = rig.manager.desire(&id(), Desired::Running, DesiredBy::Placement).await.unwrap();
    assert_eq!((holds, machine.launched()), (Desired::Stopped, 1));
}

#[tokio::test]
async fn the_next_queen_takes_over_what_runs() {
    for spec in [on_demand(managed()), on_demand(elsewhere())] {
        let (first, machine) = configured(spec).await;
        demand(&first, Desired::Running).await;
        first.until("local", HivePhase::Online).await;
        first.manager.close(OnStop::Keep).await;
        let Rig { data_dir, store, .. } = first;
        let second = Rig::over(data_dir, store, machine.clone()).await;
        second.until("local", HivePhase::Online).await;
        assert_eq!((machine.launched(), machine.killed()), (1, 0));
        assert_eq!(decided(&second).await, (Desired::Running, DesiredBy::Placement));
    }
}

#[tokio::test]
async fn the_next_queen_does_not_start_what_an_earlier_one_needed() {
    for spec in [on_demand(managed()), on_demand(elsewhere())] {
        let (first, machine) = configured(spec).await;
        demand(&first, Desired::Running).await;
        first.until("local", HivePhase::Online).await;
        first.manager.close(OnStop::Stop(std::time::Duration::from_millis(100))).await;
        let Rig { data_dir, store, .. } = first;
        assert!(!machine.lives());
        let second = Rig::over(data_dir, store, machine.clone()).await;
        let reason = second.until("local", HivePhase::Offline).await.unwrap();
        assert!(reason.contains("when a request needs it"), "{reason}");
        assert_eq!(machine.launched(), 1);
        assert_eq!(decided(&second).await, (Desired::Stopped, DesiredBy::Placement));
        demand(&second, Desired::Running).await;
        second.until("local", HivePhase::Online).await;
        assert_eq!(machine.launched(), 2);
    }
}

#[tokio::test]
async fn what_an_earlier_queen_saw_of_a_machine_is_known_before_it_runs_again() {
    let (first, machine) = configured(on_demand(managed())).await;
    demand(&first, Desired::Running).await;
    first.until("local", HivePhase::Online).await;
    let seen = first.view("local").unwrap().capabilities.clone();
    assert!(seen.is_some());
    let observed = ObservedHive { status: HiveStatus::Online, last_seen: None, capabilities: seen.clone() };
    first.store.observe(&id(), observed).await.unwrap();
    demand(&first, Desired::Stopped).await;
    first.until("local", HivePhase::Offline).await;
    first.manager.close(OnStop::Keep).await;
    let Rig { data_dir, store, .. } = first;
    let second = Rig::over(data_dir, store, machine).await;
    assert_eq!(second.view("local").unwrap().capabilities, seen);
}

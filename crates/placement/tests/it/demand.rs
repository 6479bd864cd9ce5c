//! Hives that run only while something needs them. An attached one stands in for them: it is used or not used.

use std::time::Duration;

use fake_hive::CallName;
use fleet::{Desired, DesiredBy, HivePhase, HiveRegistry, HiveSpec, StartPolicy};
use placement::Settings;
use serde_json::json;

use crate::rig::{Rig, calls, hive, model, script};

fn quick() -> Settings {
    let ms = Duration::from_millis;
    Settings {
        worker_idle: ms(400),
        hive_idle: ms(400),
        round: ms(50),
        round_least: ms(10),
        ..Settings::default()
    }
}

/// The hive of this position is there on demand from now on, and demand has not come.
async fn rests(rig: &Rig, at: usize) {
    let endpoint = rig.fakes[at].endpoint();
    let mut spec = HiveSpec::local(endpoint.hive_id, endpoint.host, endpoint.port);
    spec.kind = fleet::HiveKind::Attached { token: Some(endpoint.token), pin: None };
    spec.start = StartPolicy::OnDemand;
    rig.manager.register(spec).await.unwrap();
    rig.manager.desire(&hive(at), Desired::Stopped, DesiredBy::Placement).await.unwrap();
    rig.until("it rests", |view| {
        let hive = view.hive(&hive(at)).unwrap();
        hive.on_demand && hive.phase == HivePhase::Offline
    })
    .await;
}

#[tokio::test]
async fn a_request_wakes_a_hive_and_without_work_it_rests_again() {
    let rig = Rig::start(vec![script(json!({}))], quick()).await;
    rests(&rig, 0).await;
    rig.ensure().await.unwrap();
    assert_eq!(rig.registry.view().hive(&hive(0)).unwrap().phase, HivePhase::Online);
    let lease = rig.registry.view().serving(&model())[0].lease().unwrap();
    rig.placement.look_after();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(rig.registry.view().serving(&model()).len(), 1, "it is used");
    drop(lease);
    rig.until("it rests again", |view| view.hive(&hive(0)).unwrap().phase == HivePhase::Offline).await;
    let row = rig.store.get(&hive(0)).await.unwrap().unwrap();
    assert_eq!((row.desired, row.desired_by), (Desired::Stopped, DesiredBy::Placement));
    rig.ensure().await.unwrap();
}

#[tokio::test]
async fn a_hive_that_runs_is_asked_before_one_is_woken() {
    let rig = Rig::start(vec![script(json!({})), script(json!({}))], quick()).await;
    rests(&rig, 0).await;
    rig.ensure().await.unwrap();
    assert_eq!((calls(&rig.fakes[0], CallName::Spawn), calls(&rig.fakes[1], CallName::Spawn)), (0, 1));
}

#[tokio::test]
async fn one_that_a_person_stopped_or_started_is_left_alone() {
    let rig = Rig::start(vec![script(json!({}))], quick()).await;
    rests(&rig, 0).await;
    rig.manager.desire(&hive(0), Desired::Stopped, DesiredBy::Person).await.unwrap();
    rig.until("nobody may wake it", |view| !view.hive(&hive(0)).unwrap().on_demand).await;
    assert!(rig.ensure().await.is_err());
    rig.manager.desire(&hive(0), Desired::Running, DesiredBy::Person).await.unwrap();
    rig.until("it is online", |view| view.hive(&hive(0)).unwrap().phase == HivePhase::Online).await;
    rig.placement.look_after();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(rig.registry.view().hive(&hive(0)).unwrap().phase, HivePhase::Online);
}

#[tokio::test]
async fn of_several_that_rest_only_one_is_woken() {
    let slow = || script(json!({ "calls": { "health": { "delay_ms": 400 } } }));
    let rig = Rig::start(vec![slow(), slow(), slow()], quick()).await;
    for at in 0..3 {
        rests(&rig, at).await;
    }
    rig.ensure().await.unwrap();
    let view = rig.registry.view();
    let awake = view.hives().filter(|hive| hive.phase != HivePhase::Offline).count();
    assert_eq!(awake, 1);
}

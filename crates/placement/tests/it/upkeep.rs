//! Workers that nobody asked for, or asks for any more.

use std::time::Duration;

use fake_hive::{Act, CallName};
use fleet::HivePhase;
use placement::{ModelSettings, Models, Settings};
use scheduler::{ModelPolicy, UpkeepTimes};
use serde_json::json;

use crate::rig::{Rig, calls, end, eventually, hive, model, script};

/// A day of it takes a second.
fn quick() -> Settings {
    let ms = Duration::from_millis;
    let upkeep =
        UpkeepTimes { lost: ms(600), pressed: ms(300), slack: ms(600), again: ms(100), ..Default::default() };
    Settings { upkeep, round: ms(50), round_least: ms(10), ..Settings::default() }
}

fn wanted(policy: ModelPolicy) -> Models {
    let settings = ModelSettings { policy, context: Some(4096), slots: Some(3) };
    Models { named: [(model(), settings)].into() }
}

fn policy() -> ModelPolicy {
    ModelPolicy { pinned: false, idle: Duration::from_secs(900), least: 0, most: 8 }
}

#[tokio::test]
async fn a_pinned_model_is_loaded_unasked_as_its_owner_wants_it_and_stays() {
    let pinned = ModelPolicy { pinned: true, idle: Duration::from_millis(1), ..policy() };
    let rig = Rig::with_models(vec![script(json!({}))], quick(), wanted(pinned)).await;
    rig.placement.look_after();
    rig.until("it is loaded", |view| !view.serving(&model()).is_empty()).await;
    let view = rig.registry.view();
    let record = &view.serving(&model())[0].record;
    assert_eq!((record.context, record.slots), (4096, 3));
    // Its hive is restarted, and it is there again.
    rig.fakes[0].act(Act::Restart { launch_id: None, keep_workers: false }).await.unwrap();
    eventually(|| rig.count(CallName::Spawn) == 2).await;
    rig.until("it is loaded again", |view| !view.serving(&model()).is_empty()).await;
    assert_eq!(rig.count(CallName::StopWorker), 0);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_not_tried_without_a_pause() {
    let fails = json!({ "worker": { "load": { "kind": "fails", "code": "out_of_memory" } } });
    let settings = Settings { remember: Duration::ZERO, ..quick() };
    let pinned = ModelPolicy { pinned: true, ..policy() };
    let rig = Rig::with_models(vec![script(fails)], settings, wanted(pinned)).await;
    rig.placement.look_after();
    eventually(|| rig.count(CallName::Spawn) == 3).await;
    rig.fakes[0].patch(&json!({ "worker": null })).unwrap();
    rig.until("it is loaded in the end", |view| !view.serving(&model()).is_empty()).await;
}

#[tokio::test]
async fn a_lasting_queue_brings_a_worker_on_another_hive_and_its_end_takes_one_away() {
    let rig = Rig::start(vec![script(json!({})), script(json!({}))], quick()).await;
    rig.ensure().await.unwrap();
    rig.placement.look_after();
    let leases: Vec<_> = {
        let view = rig.registry.view();
        std::iter::from_fn(|| view.serving(&model())[0].lease()).collect()
    };
    let waits = rig.placement.waits(&model(), None, None);
    rig.until("there are two", |view| view.serving(&model()).len() == 2).await;
    assert_eq!((calls(&rig.fakes[0], CallName::Spawn), calls(&rig.fakes[1], CallName::Spawn)), (1, 1));
    drop((leases, waits));
    rig.until("there is one", |view| view.serving(&model()).len() == 1).await;
    assert_eq!(rig.count(CallName::Spawn), 2);
}

#[tokio::test]
async fn a_queue_that_outlasts_a_start_is_worth_one_at_once() {
    // Without what is expected of it, a queue would have to last for a minute.
    let upkeep =
        UpkeepTimes { pressed: Duration::from_secs(60), sure: Duration::from_millis(100), ..quick().upkeep };
    let rig = Rig::start(vec![script(json!({})), script(json!({}))], Settings { upkeep, ..quick() }).await;
    rig.ensure().await.unwrap();
    rig.placement.look_after();
    let _leases: Vec<_> = {
        let view = rig.registry.view();
        std::iter::from_fn(|| view.serving(&model())[0].lease()).collect()
    };
    let _waits = rig.placement.waits(&model(), Some(Duration::from_secs(30)), None);
    rig.until("there are two", |view| view.serving(&model()).len() == 2).await;
}

/// Which of the two hives without a worker gets the second one, where the first stands in `regions[0]` and the second in the
/// other, and somebody waits who insists on `only`, where the first worker is.
async fn grows_in(regions: [&str; 2], only: Option<&str>) -> String {
    let rig = Rig::start(vec![script(json!({})), script(json!({})), script(json!({}))], quick()).await;
    rig.ensure().await.unwrap();
    let first = rig.registry.view().serving(&model())[0].hive_id.clone();
    rig.registry.writer(first.clone()).region(only);
    let others = (0..3).map(hive).filter(|id| *id != first);
    for (id, region) in others.zip(regions) {
        rig.registry.writer(id).region(Some(region));
    }
    rig.placement.look_after();
    let _leases: Vec<_> = {
        let view = rig.registry.view();
        std::iter::from_fn(|| view.serving(&model())[0].lease()).collect()
    };
    let _waits = rig.placement.waits(&model(), None, only.map(Into::into).as_ref());
    rig.until("there are two", |view| view.serving(&model()).len() == 2).await;
    let view = rig.registry.view();
    let serving = view.serving(&model());
    let second = serving.iter().find(|worker| worker.hive_id != first).unwrap();
    view.hive(&second.hive_id).unwrap().region.as_deref().unwrap().to_owned()
}

#[tokio::test]
async fn a_queue_grows_where_its_requests_insist_on_and_else_in_the_queens_region() {
    for regions in [["home", "attic"], ["attic", "home"]] {
        assert_eq!(grows_in(regions, Some("attic")).await, "attic");
        assert_eq!(grows_in(regions, None).await, "home");
    }
}

#[tokio::test]
async fn nobody_has_to_go_for_a_replica() {
    const GIB: u64 = 1 << 30;
    let card = |name: &str| {
        let device = json!({
            "kind": "cuda", "index": 0, "name": name, "memory_total": 24 * GIB, "memory_free": 24 * GIB
        });
        let of = |name: &str| json!({ "model_ref": name, "stored": true, "bytes": 15 * GIB, "memory_bytes": 15 * GIB });
        script(
            json!({ "machine": { "devices": [device] }, "models": { "known": [of("hf:a/b"), of("hf:c/d")] } }),
        )
    };
    let rig = Rig::start(vec![card("one"), card("two")], quick()).await;
    let other = "hf:c/d".parse().unwrap();
    rig.ensure().await.unwrap();
    end(rig.placement.ensure_worker(&other)).await.unwrap();
    rig.placement.look_after();
    let view = rig.registry.view();
    let _leases: Vec<_> = std::iter::from_fn(|| view.serving(&model())[0].lease()).collect();
    let _waits = rig.placement.waits(&model(), None, None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((rig.count(CallName::Spawn), rig.count(CallName::StopWorker)), (2, 0));
}

#[tokio::test]
async fn a_pinned_model_of_a_lost_hive_is_placed_elsewhere() {
    let pinned = ModelPolicy { pinned: true, ..policy() };
    let rig = Rig::with_models(vec![script(json!({})), script(json!({}))], quick(), wanted(pinned)).await;
    rig.placement.look_after();
    rig.until("it is loaded", |view| !view.serving(&model()).is_empty()).await;
    let home = rig.registry.view().serving(&model())[0].hive_id.clone();
    let at = usize::from(home == hive(1));
    rig.fakes[at].act(Act::Down).await.unwrap();
    rig.until("its hive is lost", |view| view.hive(&home).unwrap().phase == HivePhase::Unreachable).await;
    rig.until("it is loaded elsewhere", |view| !view.serving(&model()).is_empty()).await;
    assert_eq!(calls(&rig.fakes[1 - at], CallName::Spawn), 1);
}

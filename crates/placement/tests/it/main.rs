//! Cold starts over scripted hives.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod demand;
mod memory;
mod rig;
mod upkeep;

use std::time::{Duration, Instant};

use fake_hive::{Act, CallName};
use fleet::HivePhase;
use placement::{PlacementError, Settings, Stage};
use registry_ram::FleetView;
use rig::{Rig, calls, end, eventually, hive, model, script, soon};
use serde_json::json;

#[tokio::test]
async fn whoever_asks_there_is_one_cold_start() {
    let rig = Rig::start(vec![script(json!({})), script(json!({}))], Settings::default()).await;
    let waiters: Vec<_> = (0..100).map(|_| rig.placement.ensure_worker(&model())).collect();
    for waiter in waiters {
        end(waiter).await.unwrap();
    }
    assert_eq!(rig.count(CallName::Spawn), 1);
    assert_eq!(rig.registry.view().serving(&model()).len(), 1);
    rig.ensure().await.unwrap();
    assert_eq!(rig.count(CallName::Spawn), 1, "what is there is not started");
}

#[tokio::test]
async fn with_nobody_waiting_a_transfer_finishes_and_no_worker_is_started() {
    let away = json!({ "models": { "known": [] }, "download": { "duration_ms": 300 } });
    let rig = Rig::start(vec![script(away)], Settings::default()).await;
    let first = rig.placement.ensure_worker(&model());
    eventually(|| rig.count(CallName::Download) == 1).await;
    drop(first);
    rig.until("the model is there", |view| !view.hive(&hive(0)).unwrap().models.is_empty()).await;
    soon(rig.placement.close(|_| true)).await;
    assert_eq!((rig.count(CallName::Download), rig.count(CallName::Spawn)), (1, 0));
}

#[tokio::test]
async fn whoever_comes_while_the_first_one_leaves_is_served() {
    let away = json!({ "models": { "known": [] }, "download": { "duration_ms": 200 } });
    let rig = Rig::start(vec![script(away)], Settings::default()).await;
    let first = rig.placement.ensure_worker(&model());
    eventually(|| rig.count(CallName::Download) == 1).await;
    drop(first);
    rig.ensure().await.unwrap();
    assert_eq!((rig.count(CallName::Download), rig.count(CallName::Spawn)), (1, 1));
}

#[tokio::test]
async fn a_worker_that_is_coming_is_waited_for() {
    let rig = Rig::start(vec![script(json!({ "worker": { "load_ms": 500 } }))], Settings::default()).await;
    rig.spawn_on(0).await;
    rig.until_coming().await;
    let mut waiter = rig.placement.ensure_worker(&model());
    let mut stages = Vec::new();
    soon(async {
        while !matches!(waiter.now(), Stage::Ready) {
            stages.push(waiter.now());
            waiter.moved().await;
        }
    })
    .await;
    assert!(stages.iter().any(|stage| matches!(stage, Stage::Loading(_))), "{stages:?}");
    assert_eq!(rig.count(CallName::Spawn), 1);
}

#[tokio::test]
async fn a_worker_that_was_coming_where_nobody_answers_is_not_waited_for() {
    let slow = script(json!({ "worker": { "load_ms": 60_000 } }));
    let rig = Rig::start(vec![slow, script(json!({}))], Settings::default()).await;
    rig.spawn_on(0).await;
    rig.until_coming().await;
    rig.fakes[0].act(Act::Down).await.unwrap();
    let lost = |view: &registry_ram::FleetView| view.hive(&hive(0)).unwrap().phase == HivePhase::Unreachable;
    rig.until("the hive is lost", lost).await;
    rig.ensure().await.unwrap();
    assert_eq!(calls(&rig.fakes[1], CallName::Spawn), 1);
}

#[tokio::test]
async fn a_hive_that_is_lost_during_the_load_is_replaced_by_another() {
    let slow = script(json!({ "worker": { "load_ms": 60_000 } }));
    let rig = Rig::start(vec![slow, script(json!({}))], Settings::default()).await;
    let waiter = rig.placement.ensure_worker(&model());
    rig.until_coming().await;
    rig.fakes[0].act(Act::Restart { launch_id: None, keep_workers: false }).await.unwrap();
    end(waiter).await.unwrap();
    assert_eq!(calls(&rig.fakes[1], CallName::Spawn), 1);
}

#[tokio::test]
async fn a_failure_is_told_to_all_and_remembered_for_a_moment() {
    let fails = json!({ "worker": { "load": { "kind": "fails", "code": "model_invalid" } } });
    let settings = Settings { remember: Duration::from_millis(800), ..Settings::default() };
    let rig = Rig::start(vec![script(fails.clone()), script(fails)], settings).await;
    let waiters: Vec<_> = (0..10).map(|_| rig.placement.ensure_worker(&model())).collect();
    for waiter in waiters {
        let error = end(waiter).await.unwrap_err();
        assert!(matches!(error, PlacementError::WorkerFailed { .. }), "{error}");
    }
    assert!(rig.ensure().await.is_err());
    assert_eq!(rig.count(CallName::Spawn), 2, "a broken model is tried once more, and not at once again");
    rig.fakes.iter().for_each(|fake| fake.patch(&json!({ "worker": null })).unwrap());
    let began = Instant::now();
    while rig.ensure().await.is_err() {
        assert!(began.elapsed() < rig::PATIENCE, "it is tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rig.count(CallName::Spawn), 3);
}

#[tokio::test]
async fn another_hive_is_tried_when_the_first_one_is_at_fault() {
    for fault in [
        json!({ "worker": { "load": { "kind": "fails", "code": "out_of_memory" } } }),
        json!({ "worker": { "load": { "kind": "fails", "code": "exited_while_loading" } } }),
        json!({ "calls": { "spawn": { "answer": { "kind": "error", "code": "insufficient_memory" } } } }),
        json!({ "calls": { "spawn": { "answer": { "kind": "garbage", "which": "html" } } } }),
    ] {
        let rig = Rig::start(vec![script(fault.clone()), script(json!({}))], Settings::default()).await;
        assert!(rig.ensure().await.is_ok(), "{fault}");
        assert!(calls(&rig.fakes[0], CallName::Spawn) >= 1, "{fault}");
        assert_eq!(calls(&rig.fakes[1], CallName::Spawn), 1, "{fault}");
    }
}

#[tokio::test]
async fn a_file_is_sought_on_every_machine() {
    let there = json!({ "models": { "known": [{ "model_ref": "file:/models/x.gguf" }] } });
    let rig = Rig::start(vec![script(json!({})), script(there)], Settings::default()).await;
    let ensure = |name: &str| end(rig.placement.ensure_worker(&name.parse().unwrap()));
    ensure("file:/models/x.gguf").await.unwrap();
    assert_eq!(calls(&rig.fakes[1], CallName::Spawn), 1);
    let error = ensure("file:/models/nothing.gguf").await.unwrap_err().to_string();
    assert!(error.contains("nothing.gguf") && error.contains("hive box-"), "{error}");
}

#[tokio::test]
async fn when_every_hive_failed_the_last_cause_is_told() {
    let fails = json!({ "worker": { "load": { "kind": "fails", "code": "out_of_memory" } } });
    let rig = Rig::start(vec![script(fails.clone()), script(fails)], Settings::default()).await;
    let error = rig.ensure().await.unwrap_err();
    assert!(matches!(error, PlacementError::WorkerFailed { .. }), "{error}");
    assert_eq!(rig.count(CallName::Spawn), 2);
}

#[tokio::test]
async fn with_no_hive_that_could_each_one_is_named() {
    let rig = Rig::start(vec![script(json!({ "machine": { "engines": [] } }))], Settings::default()).await;
    let error = rig.ensure().await.unwrap_err();
    assert_eq!(error.to_string(), "no hive can start a worker for hf:a/b: box-0: it has no inference engine");
}

#[tokio::test]
async fn a_queen_that_has_just_begun_learns_first_what_runs() {
    let slow = script(json!({ "calls": { "health": { "delay_ms": 400 } } }));
    let rig = Rig::just_begun(vec![slow], Settings::default()).await;
    rig.spawn_on(0).await;
    assert_eq!(rig.registry.view().hive(&hive(0)).unwrap().phase, HivePhase::Starting);
    rig.ensure().await.unwrap();
    assert_eq!(rig.count(CallName::Spawn), 1, "the one that an earlier queen asked for");
}

#[tokio::test]
async fn a_queen_that_has_just_begun_waits_for_a_hive_that_did_not_answer_at_first() {
    let lost = json!({ "calls": { "health": { "times": 3, "answer": { "kind": "drop_reply" } } } });
    let rig = Rig::just_begun(vec![script(lost), script(json!({}))], Settings::default()).await;
    rig.spawn_on(0).await;
    let is_unknown = |view: &FleetView| {
        let phase = |at| view.hive(&hive(at)).map(|hive| hive.phase);
        (phase(0), phase(1)) == (Some(HivePhase::Unreachable), Some(HivePhase::Online))
    };
    rig.until("one has answered, and one has not", is_unknown).await;
    rig.ensure().await.unwrap();
    assert_eq!(calls(&rig.fakes[1], CallName::Spawn), 0, "it runs on the other one");
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_starts_one_worker() {
    let lossy = json!({ "calls": { "spawn": { "times": 1, "answer": { "kind": "drop_reply" } } } });
    let rig = Rig::start(vec![script(lossy)], Settings::default()).await;
    rig.ensure().await.unwrap();
    assert_eq!(rig.count(CallName::Spawn), 2);
    assert_eq!(rig.fakes[0].workers().len(), 1);
}

#[tokio::test]
async fn a_load_that_does_not_move_is_given_up_and_its_worker_stopped() {
    let stuck = json!({ "worker": { "load": { "kind": "never", "stuck_at": 0.5 } } });
    let settings = Settings { load_stall: Duration::from_millis(400), ..Settings::default() };
    let rig = Rig::start(vec![script(stuck), script(json!({}))], settings).await;
    rig.ensure().await.unwrap();
    assert_eq!(calls(&rig.fakes[0], CallName::StopWorker), 1);
    assert_eq!(calls(&rig.fakes[1], CallName::Spawn), 1);
}

#[tokio::test]
async fn a_joined_worker_that_does_not_move_is_not_joined_again() {
    let stuck = json!({ "worker": { "load": { "kind": "never", "stuck_at": 0.5 } } });
    let settings = Settings { load_stall: Duration::from_millis(400), ..Settings::default() };
    let rig = Rig::start(vec![script(stuck), script(json!({}))], settings).await;
    rig.spawn_on(0).await;
    rig.until_coming().await;
    rig.ensure().await.unwrap();
    assert_eq!(calls(&rig.fakes[1], CallName::Spawn), 1);
}

#[tokio::test]
async fn a_worker_that_was_started_is_stopped_on_a_hive_that_lasts() {
    let rig = Rig::start(vec![script(json!({}))], Settings::default()).await;
    rig.ensure().await.unwrap();
    soon(rig.placement.close(|_| true)).await;
    assert_eq!(rig.count(CallName::StopWorker), 1);
    let rig = Rig::start(vec![script(json!({}))], Settings::default()).await;
    rig.ensure().await.unwrap();
    soon(rig.placement.close(|_| false)).await;
    assert_eq!(rig.count(CallName::StopWorker), 0, "its hive ends it");
}

#[tokio::test]
async fn a_stop_in_the_middle_of_an_order_leaves_no_worker_behind() {
    let slow = json!({ "calls": { "spawn": { "delay_ms": 300 } } });
    let rig = Rig::start(vec![script(slow)], Settings::default()).await;
    let waiter = rig.placement.ensure_worker(&model());
    eventually(|| rig.count(CallName::Spawn) == 1).await;
    rig.placement.cancel();
    let error = end(waiter).await.unwrap_err();
    assert!(matches!(error, PlacementError::Stopping), "{error}");
    soon(rig.placement.close(|_| true)).await;
    assert_eq!(rig.count(CallName::StopWorker), 1);
}

#[tokio::test]
async fn damaged_files_are_withdrawn_and_fetched_anew() {
    let damaged = json!({
        "models": { "known": [] }, "download": { "corrupt_unnoticed": true }, "worker": { "load_ms": 1000 }
    });
    let rig = Rig::start(vec![script(damaged)], Settings::default()).await;
    let waiter = rig.placement.ensure_worker(&model());
    eventually(|| rig.count(CallName::Spawn) == 1).await;
    rig.fakes[0].patch(&json!({ "download": { "corrupt_unnoticed": false } })).unwrap();
    end(waiter).await.unwrap();
    assert_eq!((rig.count(CallName::DeleteModel), rig.count(CallName::Download)), (1, 2));
}

#[tokio::test]
async fn what_a_hive_was_said_to_have_and_has_no_more_is_noted_and_fetched() {
    let gone = json!({ "calls": { "spawn": {
        "answer": { "kind": "error", "code": "model_not_found" }, "times": 1
    } } });
    let rig = Rig::start(vec![script(gone)], Settings::default()).await;
    rig.ensure().await.unwrap();
    assert_eq!((rig.count(CallName::Spawn), rig.count(CallName::Download)), (2, 1));
}

#[tokio::test]
async fn what_no_engine_reads_is_not_fetched_over_and_over() {
    let damaged = json!({ "models": { "known": [] }, "download": { "corrupt_unnoticed": true } });
    let settings = Settings { remember: Duration::ZERO, ..Settings::default() };
    let rig = Rig::start(vec![script(damaged)], settings).await;
    for _ in 0..3 {
        let error = rig.ensure().await.unwrap_err();
        assert!(error.to_string().contains("bad magic"), "{error}");
    }
    assert_eq!(rig.count(CallName::Download), 2);
}

//! Hives that the manager starts and ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fake_hive::CallName;
use fleet::{
    Desired, DesiredBy, EventKind, HiveExit, HiveId, HivePhase, LaunchError, LaunchJournal, LaunchStep,
    MockHiveLauncher,
};
use hive_manager::{ManagerError, OnStop};
use registry_sqlite::memory::MemoryStore;
use serde_json::json;

use crate::{
    machine::Machine,
    rig::{Rig, calls, eventually, managed, script, soon},
};

fn local() -> HiveId {
    "local".parse().unwrap()
}

async fn start(patch: serde_json::Value) -> (Rig, Arc<Machine>) {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::new(store.clone(), script(patch));
    let rig = Rig::start(store, machine.clone()).await;
    assert!(rig.manager.register(managed()).await.unwrap());
    (rig, machine)
}

async fn online(patch: serde_json::Value) -> (Rig, Arc<Machine>) {
    let (rig, machine) = start(patch).await;
    rig.until("local", HivePhase::Online).await;
    (rig, machine)
}

async fn want(rig: &Rig, desired: Desired) {
    assert_eq!(rig.manager.desire(&local(), desired, DesiredBy::Person).await.unwrap(), desired);
}

#[tokio::test]
async fn a_launch_is_committed_before_the_launcher_is_asked() {
    let (rig, machine) = online(json!({})).await;
    assert_eq!(*machine.committed.lock().unwrap(), [Some(LaunchStep::Intended)]);
    let open = rig.store.open(&local()).await.unwrap();
    assert_eq!(open.iter().map(|l| l.step).collect::<Vec<_>>(), [LaunchStep::Healthy]);
    assert!(open[0].facts.process.is_some());
}

#[tokio::test]
async fn a_hive_that_runs_already_is_taken_over() {
    let (first, machine) = online(json!({})).await;
    first.manager.close(OnStop::Keep).await;
    assert!(machine.lives());
    // What a queen that was killed in the middle of a launch left behind.
    first.store.intend("l-never".parse().unwrap(), local()).await.unwrap();
    let Rig { data_dir, store, .. } = first;
    let second = Rig::over(data_dir, store, machine.clone()).await;
    second.until("local", HivePhase::Online).await;
    assert_eq!((machine.launched(), machine.killed()), (1, 0));
    assert_eq!(second.events(|e| matches!(e, EventKind::HiveAdopted { .. })).len(), 1);
    let open = second.store.open(&local()).await.unwrap();
    assert_eq!(open.len(), 1, "the launch that never was is over");
    assert_eq!(Some(&open[0].launch_id), second.view("local").unwrap().launch_id());
}

#[tokio::test]
async fn finding_the_same_launch_again_is_no_adoption() {
    let (rig, machine) = online(json!({})).await;
    let launch = rig.view("local").unwrap().launch_id().cloned();
    machine.fake().patch(&json!({ "claims": { "hive_id": "impostor" } })).unwrap();
    machine.fake().act(fake_hive::Act::CutAll { how: Default::default() }).await.unwrap();
    rig.until("local", HivePhase::Error).await;
    machine.fake().patch(&json!({ "claims": { "hive_id": null } })).unwrap();
    rig.until("local", HivePhase::Online).await;
    assert_eq!(rig.view("local").unwrap().launch_id().cloned(), launch);
    assert_eq!(machine.launched(), 1);
    assert!(rig.events(|e| matches!(e, EventKind::HiveAdopted { .. })).is_empty());
}

#[tokio::test]
async fn a_crash_is_followed_by_a_restart_in_another_launch() {
    let (rig, machine) = online(json!({})).await;
    let first = rig.view("local").unwrap();
    machine.crash().await;
    soon("the loss", first.lost.cancelled()).await;
    eventually("it is started again", || machine.launched() == 2).await;
    rig.until("local", HivePhase::Online).await;
    assert_ne!(rig.view("local").unwrap().launch_id(), first.launch_id());
    let open = rig.store.open(&local()).await.unwrap();
    assert_eq!(open.len(), 1, "the launch that crashed is over");
}

#[tokio::test]
async fn a_hive_that_crashes_again_and_again_is_given_up_until_somebody_asks() {
    let (rig, machine) = start(json!({})).await;
    for crash in 1..=5 {
        eventually("it runs", || machine.launched() == crash && machine.lives()).await;
        rig.until("local", HivePhase::Online).await;
        machine.crash().await;
    }
    let reason = rig.until("local", HivePhase::Error).await.unwrap();
    assert_eq!(
        reason,
        "its process ended with exit code 3; last line: last words; not restarted after 5 crashes"
    );
    assert_eq!(machine.launched(), 5);
    want(&rig, Desired::Running).await;
    rig.until("local", HivePhase::Online).await;
    assert_eq!(machine.launched(), 6);
}

#[tokio::test]
async fn a_hive_that_ends_before_it_listens_counts_as_a_crash() {
    let mut launcher = MockHiveLauncher::new();
    launcher.expect_discover().returning(|_| Ok(None));
    launcher.expect_launch().times(5).returning(|order, _| {
        let exit = HiveExit { code: Some(78), signal: None, log_tail: vec!["no such option".to_owned()] };
        Err(LaunchError::Exited { hive_id: order.spec.id.clone(), exit })
    });
    let rig = Rig::start(Arc::new(MemoryStore::new()), Arc::new(launcher)).await;
    rig.manager.register(managed()).await.unwrap();
    let reason = rig.until("local", HivePhase::Error).await.unwrap();
    assert!(reason.contains("exit code 78; last line: no such option; not restarted"), "{reason}");
    assert!(rig.store.open(&local()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_binary_is_told_and_not_tried_again() {
    let mut launcher = MockHiveLauncher::new();
    launcher.expect_discover().returning(|_| Ok(None));
    launcher.expect_launch().times(1).returning(|order, _| {
        let tried = vec!["/opt/rbee-hive".into()];
        Err(LaunchError::BinaryMissing { hive_id: order.spec.id.clone(), tried })
    });
    let rig = Rig::start(Arc::new(MemoryStore::new()), Arc::new(launcher)).await;
    rig.manager.register(managed()).await.unwrap();
    let reason = rig.until("local", HivePhase::Error).await.unwrap();
    assert_eq!(reason, "no rbee-hive binary for hive local: looked for /opt/rbee-hive");
    rig.manager.close(OnStop::Stop(Duration::ZERO)).await;
}

#[tokio::test]
async fn a_stop_asks_and_waits() {
    let (rig, machine) = online(json!({})).await;
    want(&rig, Desired::Stopped).await;
    rig.until("local", HivePhase::Offline).await;
    assert!(!machine.lives());
    assert_eq!((calls(&machine.fake(), CallName::Shutdown), machine.killed()), (1, 0));
    assert!(rig.store.open(&local()).await.unwrap().is_empty());
    want(&rig, Desired::Running).await;
    rig.until("local", HivePhase::Online).await;
    assert_eq!(machine.launched(), 2);
}

#[tokio::test]
async fn a_hive_that_does_not_stop_is_ended_by_force_within_its_time() {
    for deaf in [
        json!({ "stop": { "ignore_shutdown": true } }),
        json!({ "calls": { "shutdown": { "answer": { "kind": "hang" } } } }),
        json!({ "calls": { "shutdown": { "answer": { "kind": "drop_request" } } } }),
    ] {
        let (rig, machine) = online(deaf.clone()).await;
        let began = Instant::now();
        want(&rig, Desired::Stopped).await;
        rig.until("local", HivePhase::Offline).await;
        assert_eq!(machine.killed(), 1, "{deaf}");
        assert!(!machine.lives());
        assert!(began.elapsed() < Duration::from_secs(4), "{deaf}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_stop_during_a_launch_stops_what_was_launched() {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::new(store.clone(), script(json!({})));
    machine.permits.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let rig = Rig::start(store, machine.clone()).await;
    rig.manager.register(managed()).await.unwrap();
    eventually("it is being launched", || machine.launched() == 1).await;
    want(&rig, Desired::Stopped).await;
    machine.permits.add_permits(1);
    eventually("it came and went", || {
        rig.view("local").is_some_and(|hive| hive.phase == HivePhase::Offline) && !machine.lives()
    })
    .await;
    assert!(rig.store.open(&local()).await.unwrap().is_empty());
    assert_eq!(machine.launched(), 1);
}

#[tokio::test]
async fn closing_ends_the_hive_and_closing_again_does_not_wait() {
    let (rig, machine) = online(json!({ "stop": { "ignore_shutdown": true } })).await;
    let began = Instant::now();
    let first = rig.manager.close(OnStop::Stop(Duration::from_secs(60)));
    let second = async {
        rig.until("local", HivePhase::Stopping).await;
        rig.manager.close(OnStop::Stop(Duration::ZERO)).await;
    };
    soon("the end", async { tokio::join!(first, second) }).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(machine.killed(), 1);
    assert!(!machine.lives());
}

#[tokio::test]
async fn closing_keeps_the_grace_of_a_stop_that_is_under_way() {
    let (rig, machine) = online(json!({ "stop": { "ignore_shutdown": true } })).await;
    want(&rig, Desired::Stopped).await;
    rig.until("local", HivePhase::Stopping).await;
    // The stop's own grace and force decide; the longer one of the closing changes nothing.
    soon("the end", rig.manager.close(OnStop::Stop(Duration::from_secs(60)))).await;
    assert_eq!(machine.killed(), 1);
}

#[tokio::test]
async fn a_drained_hive_runs_and_is_not_offered() {
    let (rig, machine) = online(json!({})).await;
    want(&rig, Desired::Drained).await;
    rig.until("local", HivePhase::Draining).await;
    assert!(machine.lives());
    want(&rig, Desired::Running).await;
    rig.until("local", HivePhase::Online).await;
    assert_eq!((machine.launched(), machine.killed()), (1, 0));
}

#[tokio::test]
async fn a_hive_that_cannot_be_looked_for_does_not_count_as_stopped() {
    let mut launcher = MockHiveLauncher::new();
    launcher.expect_discover().returning(|spec| {
        let (action, path) = ("read", "/hive.json".into());
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        Err(LaunchError::Io { hive_id: spec.id.clone(), action, path, source })
    });
    let rig = Rig::start(Arc::new(MemoryStore::new()), Arc::new(launcher)).await;
    rig.manager.register(managed()).await.unwrap();
    rig.until("local", HivePhase::Error).await;
    rig.manager.close(OnStop::Stop(Duration::ZERO)).await;
    let reason = rig.until("local", HivePhase::Error).await.unwrap();
    assert!(reason.starts_with("could not look for it: hive local: could not read /hive.json"), "{reason}");
}

#[tokio::test]
async fn the_log_of_a_hive_that_does_not_answer_is_read_by_its_launcher() {
    let (rig, machine) = online(json!({})).await;
    rig.manager.logs(&local(), None, 1).await.unwrap();
    assert_eq!(calls(&machine.fake(), CallName::Logs), 1, "one that answers is asked itself");
    want(&rig, Desired::Stopped).await;
    rig.until("local", HivePhase::Offline).await;
    assert_eq!(rig.manager.logs(&local(), None, 2).await.unwrap(), ["what the launcher reads"; 2]);
    let worker = "w-1".parse().unwrap();
    let error = rig.manager.logs(&local(), Some(&worker), 2).await.unwrap_err();
    assert!(matches!(error, ManagerError::NoLog { .. }), "{error}");
}

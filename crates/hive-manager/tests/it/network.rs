//! Hives of other machines that the manager starts and ends.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use fake_hive::Act;
use fleet::{
    Desired, DesiredBy, EventKind, HiveId, HiveLauncher, HivePhase, LaunchError, LaunchJournal, LaunchStage,
    LaunchStep, MockHiveLauncher,
};
use hive_manager::OnStop;
use registry_sqlite::memory::MemoryStore;
use serde_json::json;

use crate::{
    machine::Machine,
    rig::{Rig, elsewhere, eventually, script, soon},
};

fn id() -> HiveId {
    elsewhere().id
}

async fn online() -> (Rig, Arc<Machine>) {
    let store = Arc::new(MemoryStore::new());
    let machine = Machine::new(store.clone(), script(json!({})));
    let rig = Rig::start(store, machine.clone()).await;
    assert!(rig.manager.register(elsewhere()).await.unwrap());
    rig.until("local", HivePhase::Online).await;
    (rig, machine)
}

fn failed(stage: LaunchStage, why: &'static str) -> LaunchError {
    LaunchError::Remote { hive_id: id(), host: elsewhere().hostname, stage, retry: true, source: why.into() }
}

#[tokio::test]
async fn what_it_takes_to_reach_it_again_is_in_the_journal() {
    let (rig, machine) = online().await;
    let open = rig.store.open(&id()).await.unwrap();
    assert_eq!(open[0].step, LaunchStep::Healthy);
    assert_eq!(open[0].facts.tls_fingerprint, machine.fake().endpoint().pin);
    assert!(open[0].facts.tls_fingerprint.is_some() && open[0].facts.port.is_some());
}

#[tokio::test]
async fn the_next_queen_takes_it_over_without_ssh() {
    let (first, machine) = online().await;
    first.manager.close(OnStop::Keep).await;
    let Rig { data_dir, store, .. } = first;
    let mut no_ssh = MockHiveLauncher::new();
    no_ssh.expect_address().returning(|spec| spec.hostname.clone());
    no_ssh.expect_exited().returning(|_, _| Box::pin(std::future::pending()));
    let second = Rig::over(data_dir, store, Arc::new(no_ssh)).await;
    second.until("local", HivePhase::Online).await;
    assert!(machine.lives());
    assert_eq!(second.events(|e| matches!(e, EventKind::HiveAdopted { .. })).len(), 1);
}

#[tokio::test]
async fn one_that_is_gone_is_started_again_in_another_launch() {
    let (rig, machine) = online().await;
    let first = rig.view("local").unwrap();
    machine.crash().await;
    soon("the loss", first.lost.cancelled()).await;
    eventually("it is started again", || machine.launched() == 2).await;
    rig.until("local", HivePhase::Online).await;
    assert_ne!(rig.view("local").unwrap().launch_id(), first.launch_id());
    assert_eq!(rig.store.open(&id()).await.unwrap().len(), 1, "the launch that is gone is over");
}

#[tokio::test]
async fn one_that_is_gone_again_and_again_is_given_up_until_somebody_asks() {
    let (rig, machine) = online().await;
    for crash in 1..=5 {
        eventually("it runs", || machine.launched() == crash && machine.lives()).await;
        rig.until("local", HivePhase::Online).await;
        machine.crash().await;
    }
    let reason = rig.until("local", HivePhase::Error).await.unwrap();
    assert_eq!(reason, "its process ended; not restarted after 5 crashes");
    assert_eq!((machine.launched(), machine.killed()), (5, 0));
    rig.manager.desire(&id(), Desired::Running, DesiredBy::Person).await.unwrap();
    rig.until("local", HivePhase::Online).await;
    assert_eq!(machine.launched(), 6);
}

#[tokio::test]
async fn one_that_does_not_answer_is_never_started_twice_and_comes_back_by_itself() {
    let (rig, machine) = online().await;
    let launch = rig.view("local").unwrap().launch_id().cloned();
    machine.fake().act(Act::Down).await.unwrap();
    let reason = rig.until("local", HivePhase::Unreachable).await.unwrap();
    let looks = || machine.looks.load(Ordering::SeqCst);
    let before = looks();
    eventually("it is looked for", || looks() > before + 1).await;
    assert!(reason.starts_with("off since ") || reason.contains("refused"), "{reason}");
    machine.fake().act(Act::Up).await.unwrap();
    rig.until("local", HivePhase::Online).await;
    assert_eq!(rig.view("local").unwrap().launch_id().cloned(), launch);
    assert_eq!((machine.launched(), machine.killed()), (1, 0));
}

#[tokio::test]
async fn a_machine_that_is_off_is_told_so_and_its_greeting_starts_the_next_attempt() {
    let (attempts, greets) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let mut launcher = MockHiveLauncher::new();
    let counted = attempts.clone();
    launcher.expect_discover().returning(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Err(failed(LaunchStage::Connect, "connection timed out"))
    });
    let greeting = greets.clone();
    launcher.expect_greets().returning(move |_| greeting.load(Ordering::SeqCst));
    let store = Arc::new(MemoryStore::new());
    let settings =
        hive_manager::Settings { retry_max: std::time::Duration::from_secs(3600), ..crate::rig::settings() };
    let none = Arc::new(MockHiveLauncher::new());
    let launchers = (none as Arc<dyn HiveLauncher>, Some(Arc::new(launcher) as Arc<dyn HiveLauncher>));
    let rig = Rig::with(tempfile::tempdir().unwrap(), store, launchers, settings).await;
    assert!(rig.manager.register(elsewhere()).await.unwrap());
    let reason = rig.until("local", HivePhase::Unreachable).await.unwrap();
    assert!(reason.starts_with("off since ") && reason.contains("retried every 3600 s"), "{reason}");
    assert!(
        reason.ends_with("last: hive local: could not connect to 127.0.0.1: connection timed out"),
        "{reason}"
    );
    // The pauses double, so that after some time only a greeting can be the reason for another attempt.
    let tried = || attempts.load(Ordering::SeqCst);
    eventually("the pause is long", || tried() >= 6).await;
    greets.store(true, Ordering::SeqCst);
    let before = tried();
    eventually("the greeting is followed", || tried() > before).await;
    rig.manager.close(OnStop::Stop(std::time::Duration::ZERO)).await;
}

#[tokio::test]
async fn what_helps_against_a_firewall_stays_said() {
    let (first, machine) = online().await;
    first.manager.close(OnStop::Keep).await;
    let running = fleet::RunningHive {
        launch_id: "l-7".parse().unwrap(),
        process: fleet::ProcessIdentity { pid: 7, start_time: 9, boot_id: "b".to_owned() },
        port: 1,
        tls_fingerprint: machine.fake().endpoint().pin,
    };
    let started = Arc::new(AtomicBool::new(false));
    let mut launcher = MockHiveLauncher::new();
    let is_there = started.clone();
    launcher
        .expect_discover()
        .returning(move |_| Ok(is_there.load(Ordering::SeqCst).then(|| running.clone())));
    launcher.expect_launch().times(1).returning(move |_, _| {
        started.store(true, Ordering::SeqCst);
        Err(failed(LaunchStage::Reach, "port 1 is closed. This lets it through:\n  sudo ufw allow 1/tcp"))
    });
    launcher.expect_exited().returning(|_, _| Box::pin(std::future::pending()));
    launcher.expect_address().returning(|spec| spec.hostname.clone());
    launcher.expect_kill().returning(|_, _| Ok(1));
    let rig = Rig::start(Arc::new(MemoryStore::new()), Arc::new(launcher)).await;
    assert!(rig.manager.register(elsewhere()).await.unwrap());
    rig.until("local", HivePhase::Unreachable).await;
    eventually("it was found and does not answer", || {
        let reason = rig.view("local").and_then(|hive| hive.reason.clone()).unwrap_or_default();
        reason.starts_with("off since") && reason.contains("ufw allow")
    })
    .await;
}

#[tokio::test]
async fn stopping_asks_it_and_sees_it_go() {
    let (rig, machine) = online().await;
    rig.manager.close(OnStop::Stop(std::time::Duration::from_secs(5))).await;
    assert!(!machine.lives());
    assert_eq!(machine.killed(), 0);
    assert!(rig.store.open(&id()).await.unwrap().is_empty());
}

#[tokio::test]
async fn one_that_does_not_stop_is_ended_by_force() {
    let (rig, machine) = online().await;
    machine.fake().patch(&json!({ "stop": { "ignore_shutdown": true } })).unwrap();
    soon("the end", rig.manager.close(OnStop::Stop(std::time::Duration::from_millis(100)))).await;
    assert_eq!(machine.killed(), 1);
    assert!(!machine.lives());
}

#[tokio::test]
async fn stopping_what_was_never_started_asks_nobody() {
    let mut launcher = MockHiveLauncher::new();
    launcher.expect_discover().times(0..).returning(|_| Err(failed(LaunchStage::Connect, "off")));
    launcher.expect_greets().returning(|_| false);
    let rig = Rig::start(Arc::new(MemoryStore::new()), Arc::new(launcher)).await;
    assert!(rig.manager.register(elsewhere()).await.unwrap());
    rig.until("local", HivePhase::Unreachable).await;
    rig.manager.desire(&id(), Desired::Stopped, DesiredBy::Person).await.unwrap();
    assert_eq!(rig.until("local", HivePhase::Offline).await, None);
}

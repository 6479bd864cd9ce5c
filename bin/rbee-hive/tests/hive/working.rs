//! Workers of a hive, from spawn to end.

use std::time::Duration;

use fleet::{FailureCode, WorkerState, WorkerStateName};
use futures_util::StreamExt;
use hive_api::{ErrorCode, StopWorkerRequest, WatchEvent};
use tokio::time::Instant;

use crate::{
    engine,
    harness::{Machine, identity, until, within},
};

#[tokio::test]
async fn every_change_comes_over_the_watch_without_a_gap() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let mut watch = running.client.watch().await.unwrap();
    let Some(Ok(WatchEvent::Snapshot(snapshot))) = watch.next().await else { panic!("no snapshot") };
    assert_eq!(snapshot.capabilities.engines[0].name, "quick");
    let reply = running.client.spawn(&machine.request("quick", "k")).await.unwrap();
    let (mut rev, mut states) = (snapshot.rev, Vec::new());
    within("the worker is ready and stops", async {
        while let Some(event) = watch.next().await {
            let event = event.unwrap();
            assert!(event.rev() == rev || event.rev() == rev + 1, "{} after {rev}", event.rev());
            assert_eq!(event.rev() == rev, matches!(event, WatchEvent::Beat(_)));
            rev = event.rev();
            let WatchEvent::Worker(worker) = event else { continue };
            if states.last() != Some(&worker.state.name()) {
                states.push(worker.state.name());
            }
            match worker.state.name() {
                WorkerStateName::Ready if states.last() == Some(&WorkerStateName::Ready) => {
                    running
                        .client
                        .stop_worker(&reply.worker_id, &StopWorkerRequest::default())
                        .await
                        .unwrap();
                }
                WorkerStateName::Stopped => return,
                _ => {}
            }
        }
    })
    .await;
    use WorkerStateName as N;
    assert_eq!(states, [N::Starting, N::Loading, N::Ready, N::Draining, N::Stopping, N::Stopped]);
}

#[tokio::test]
async fn one_key_is_one_worker_however_often_and_fast_it_is_asked() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let request = machine.request("quick", "same");
    let replies = futures_util::future::join_all((0..20).map(|_| running.client.spawn(&request))).await;
    let first = replies[0].as_ref().unwrap().worker_id.clone();
    assert!(replies.iter().all(|reply| reply.as_ref().unwrap().worker_id == first));
    assert_eq!(running.client.workers().await.unwrap().workers.len(), 1);
}

#[tokio::test]
async fn a_worker_is_ready_within_100_ms_of_its_engine() {
    let machine = Machine::new(&engine::entry("slow", &[("LOAD_MS", "400")]));
    let running = machine.launch("l-1").await;
    let begun = Instant::now();
    machine.ready_worker(&running, "slow").await;
    // The scripted engine counts from its own start, a few milliseconds after the request.
    let over = begun.elapsed().saturating_sub(Duration::from_millis(400));
    assert!(over < Duration::from_millis(100), "{over:?} beyond the load itself");
}

#[tokio::test]
async fn an_engines_failure_is_told_with_its_kind_and_last_words() {
    let out_of_memory = engine::entry("oom", &[("LAST_WORDS", "cudaMalloc failed: out of memory")]);
    let machine = Machine::new(&out_of_memory);
    let running = machine.launch("l-1").await;
    let reply = running.client.spawn(&machine.request("oom", "k")).await.unwrap();
    let record = running.worker_in(&reply.worker_id, WorkerStateName::Failed).await;
    let WorkerState::Failed { code, log_tail } = record.state else { panic!("it failed") };
    assert_eq!(code, FailureCode::OutOfMemory);
    assert!(log_tail.iter().any(|line| line.contains("cudaMalloc")), "{log_tail:?}");
    assert_eq!(record.pid, None);
}

#[tokio::test]
async fn an_engine_that_is_not_installed_is_refused_with_what_to_install() {
    let machine = Machine::new("[[engine]]\nname = \"gone\"\ncommand = [\"/nowhere/engine\", \"{port}\"]\n");
    let running = machine.launch("l-1").await;
    let error = running.client.spawn(&machine.request("gone", "k")).await.expect_err("is refused");
    let refused = error.refused().expect("the hive says so");
    assert_eq!(refused.code, ErrorCode::EngineUnavailable);
    assert!(refused.message.contains("/nowhere/engine"), "{refused}");
    let notices = running.client.capabilities().await.unwrap().capabilities.notices;
    assert!(notices.iter().any(|notice| notice.code == "engine_missing"), "{notices:?}");
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_by_kind() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let code = async |request: hive_api::SpawnRequest| {
        let error = running.client.spawn(&request).await.expect_err("is refused");
        error.refused().expect("the hive says so").code
    };
    let wanted = machine.request("quick", "k");
    let missing = format!("file:{}", machine.hive_dir().join("models/none.gguf").display());
    let forbidden =
        hive_api::SpawnRequest { model_ref: "file:/etc/hostname".parse().unwrap(), ..wanted.clone() };
    let missing = hive_api::SpawnRequest { model_ref: missing.parse().unwrap(), ..wanted.clone() };
    let not_here = hive_api::SpawnRequest { model_ref: "hf:a/b".parse().unwrap(), ..wanted.clone() };
    let no_engine = hive_api::SpawnRequest { engine: Some("ollama".into()), ..wanted.clone() };
    let no_device = hive_api::SpawnRequest { device: Some("cuda:9".parse().unwrap()), ..wanted };
    assert_eq!(code(forbidden).await, ErrorCode::InvalidRequest);
    assert_eq!(code(missing).await, ErrorCode::ModelNotFound);
    assert_eq!(code(not_here).await, ErrorCode::ModelNotFound);
    assert_eq!(code(no_engine).await, ErrorCode::EngineUnavailable);
    assert_eq!(code(no_device).await, ErrorCode::EngineUnavailable);
    assert_eq!(running.client.workers().await.unwrap().workers, []);
}

#[tokio::test]
async fn a_worker_that_never_loads_is_given_up() {
    let machine =
        Machine::new(&format!("load_stall_s = 1\n{}", engine::entry("stuck", &[("LOAD_MS", "999999")])));
    let running = machine.launch("l-1").await;
    let reply = running.client.spawn(&machine.request("stuck", "k")).await.unwrap();
    let loading = running.worker_in(&reply.worker_id, WorkerStateName::Loading).await;
    let engine = identity(loading.pid.expect("a process"));
    let record = running.worker_in(&reply.worker_id, WorkerStateName::Failed).await;
    assert!(matches!(record.state, WorkerState::Failed { code: FailureCode::LoadTimeout, .. }));
    assert!(!process::is_alive(&engine));
}

#[tokio::test]
async fn a_worker_that_dies_is_reported_at_once() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let engine =
        process::Process::open(&identity(worker.pid.expect("a process"))).unwrap().expect("it lives");
    let killed = Instant::now();
    engine.signal(process::Signal::KILL).unwrap();
    let record = running.worker_in(&worker.worker_id, WorkerStateName::Failed).await;
    assert!(killed.elapsed() < Duration::from_millis(500), "{:?}", killed.elapsed());
    assert!(matches!(record.state, WorkerState::Failed { code: FailureCode::Crashed, .. }));
    let again = running.client.stop_worker(&worker.worker_id, &StopWorkerRequest::default()).await.unwrap();
    assert_eq!(again.state, record.state, "stopping what is over changes nothing");
}

#[tokio::test]
async fn a_worker_that_ignores_the_request_is_ended_by_force() {
    let machine = Machine::new(&engine::entry("stubborn", &[("IGNORES_TERM", "1")]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "stubborn").await;
    let engine = identity(worker.pid.expect("a process"));
    running.client.stop_worker(&worker.worker_id, &StopWorkerRequest { grace_ms: Some(0) }).await.unwrap();
    running.worker_in(&worker.worker_id, WorkerStateName::Stopped).await;
    assert!(!process::is_alive(&engine));
}

#[tokio::test]
async fn a_worker_leaves_neither_zombie_nor_journal_entry() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    for round in 0..5 {
        let reply = running.client.spawn(&machine.request("quick", &round.to_string())).await.unwrap();
        let worker = running.worker_in(&reply.worker_id, WorkerStateName::Ready).await;
        let request = StopWorkerRequest { grace_ms: Some(0) };
        running.client.stop_worker(&worker.worker_id, &request).await.unwrap();
        running.worker_in(&worker.worker_id, WorkerStateName::Stopped).await;
        let path = format!("/proc/{}", worker.pid.expect("a process"));
        assert!(!std::path::Path::new(&path).exists(), "a zombie is left");
    }
    let journal = std::fs::read_to_string(machine.hive_dir().join("workers.json")).unwrap();
    assert!(!journal.contains("worker_id"), "{journal}");
}

#[tokio::test]
async fn the_logs_of_hive_and_worker_can_be_read() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let own = running.client.logs(None, 100).await.unwrap().lines;
    assert!(own.iter().any(|line| line.contains("listening")), "{own:?}");
    let lines = running.client.logs(Some(&worker.worker_id), 100).await.unwrap().lines;
    assert!(lines.iter().any(|line| line.contains("running 1 test")), "{lines:?}");
    assert!(own.iter().all(|line| !line.contains(running.token.reveal())), "the token is in the log");
}

#[tokio::test]
async fn busy_slots_show_on_the_record() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let url = format!("{}/v1/completions?events=1000000&delay_ms=20", worker.url);
    let mut open = running.http(reqwest::Method::POST, &url).send().await.unwrap();
    open.chunk().await.unwrap().expect("it streams");
    let busy = async |wanted: u32| {
        within(&format!("{wanted} slots are busy"), async {
            while running.client.workers().await.unwrap().workers[0].slots_busy != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    busy(1).await;
    drop(open);
    busy(0).await;
    until("the engine learns that nobody waits", || {
        let log = machine.hive_dir().join(format!("logs/{}.log", worker.worker_id));
        process::tail(&log, 100).iter().any(|line| line == "cancelled")
    })
    .await;
}

#[tokio::test]
async fn a_context_that_nobody_names_is_the_largest_that_fits_or_the_owners() {
    for (toml, usual) in [("", None), ("context = 100\n", Some(100))] {
        let machine = Machine::new(&format!("{toml}{}", engine::entry("quick", &[])));
        let running = machine.launch("l-1").await;
        let known = running.client.inspect(&machine.model()).await.unwrap().context_max;
        let open = hive_api::SpawnRequest { context: None, ..machine.request("quick", "k") };
        let worker = running.client.spawn(&open).await.unwrap().worker_id;
        let worker = running.worker_in(&worker, fleet::WorkerStateName::Ready).await;
        // A small model knows less than what would fit.
        assert_eq!(worker.context, usual.unwrap_or(known), "of {known}");
    }
}

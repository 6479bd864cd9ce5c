//! How a hive starts and ends.

use std::{process::Command, sync::Arc, time::Duration};

use fleet::{HiveLauncher, LaunchError, WorkerStateName};
use hive_api::{ErrorCode, ShutdownRequest};
use tokio::time::Instant;

use crate::{
    engine,
    harness::{BINARY, Machine, Observer, Running, identity, until, within},
};

#[tokio::test]
async fn a_launched_hive_answers_for_its_launch_and_ends_when_asked() {
    let machine = Machine::new("");
    let order = machine.order("l-1");
    let observer = Arc::new(Observer::default());
    let hive = machine.launcher.launch(&order, Arc::<Observer>::clone(&observer)).await.expect("starts");
    assert_eq!(*observer.0.lock().unwrap(), std::slice::from_ref(&hive.process));
    let command_line = std::fs::read(format!("/proc/{}/cmdline", hive.process.pid)).unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", hive.process.pid)).unwrap();
    for text in [command_line, environment] {
        assert!(!String::from_utf8_lossy(&text).contains(order.token.reveal()), "the token is a secret");
    }
    assert_eq!(machine.launcher.discover(&machine.spec).await.unwrap(), Some(hive.clone()));
    let running = machine.running(hive, order.token);
    running.client.shutdown(&ShutdownRequest::default()).await.unwrap();
    let exit = within("the hive ends", machine.launcher.exited(&machine.spec, &running.hive)).await;
    assert_eq!((exit.code, exit.signal), (Some(0), None), "{:?}", exit.log_tail);
    assert!(!machine.hive_dir().join("hive.json").exists());
    assert_eq!(machine.launcher.discover(&machine.spec).await.unwrap(), None);
}

#[tokio::test]
async fn the_end_of_a_hive_is_noticed_within_100_ms() {
    let machine = Machine::new("");
    let running = machine.launch("l-1").await;
    let exited = machine.launcher.exited(&machine.spec, &running.hive);
    let process = process::Process::open(&running.hive.process).unwrap().expect("it lives");
    let killed = Instant::now();
    process.signal(process::Signal::KILL).unwrap();
    let exit = within("the end is seen", exited).await;
    assert!(killed.elapsed() < Duration::from_millis(100), "{:?}", killed.elapsed());
    assert_eq!(exit.signal, Some(9));
    assert!(process::of(running.hive.process.pid).unwrap().is_none(), "no zombie is left");
}

#[tokio::test]
async fn a_second_hive_of_a_directory_is_refused_and_told_who_holds_it() {
    let machine = Machine::new("");
    let running = machine.launch("l-1").await;
    let Err(LaunchError::Exited { exit, .. }) = machine.try_launch("l-2").await else { panic!("it started") };
    assert_eq!(exit.code, Some(73));
    let holder = format!("pid {}", running.hive.process.pid);
    assert!(exit.log_tail.iter().any(|line| line.contains(&holder)), "{:?}", exit.log_tail);
    assert!(process::is_alive(&running.hive.process));
    running.client.workers().await.expect("the first one is untouched");
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_owner_within_a_second() {
    let mut machine = Machine::new("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    machine.spec.port = taken.local_addr().unwrap().port();
    let begun = Instant::now();
    let Err(LaunchError::Exited { exit, .. }) = machine.try_launch("l-1").await else { panic!("it started") };
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(exit.code, Some(69));
    let words = exit.log_tail.join("\n");
    assert!(words.contains(&format!("port {}", machine.spec.port)), "{words}");
    assert!(words.contains(&format!("pid {}", std::process::id())), "{words}");
}

#[tokio::test]
async fn a_wrong_configuration_names_every_fault_before_anything_listens() {
    let machine = Machine::new("context = 0\nslots = 0\n");
    let Err(LaunchError::Exited { exit, .. }) = machine.try_launch("l-1").await else { panic!("it started") };
    assert_eq!(exit.code, Some(78));
    let words = exit.log_tail.join("\n");
    assert!(words.contains("context") && words.contains("slots"), "{words}");
}

#[tokio::test]
async fn a_missing_program_is_told_with_every_place() {
    let machine = Machine::new("");
    let mut settings = local_lifecycle::Settings::new(machine.dir());
    settings.binary = Some("/nowhere/rbee-hive".into());
    let launcher = local_lifecycle::LocalLauncher::new(settings).unwrap();
    let launched = launcher.launch(&machine.order("l-1"), Arc::new(Observer::default())).await;
    assert!(matches!(launched, Err(LaunchError::BinaryMissing { tried, .. }) if tried.len() == 1));
}

#[tokio::test]
async fn workers_outlive_a_killed_hive_and_its_successor_adopts_them() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let first = machine.launch("l-1").await;
    let worker = machine.ready_worker(&first, "quick").await;
    let engine = identity(worker.pid.expect("a process"));
    let hive = process::Process::open(&first.hive.process).unwrap().expect("it lives");
    hive.kill().await.unwrap();
    assert!(process::is_alive(&engine));

    let second = machine.launch("l-2").await;
    let adopted = second.worker_in(&worker.worker_id, WorkerStateName::Ready).await;
    assert_eq!((adopted.pid, adopted.launch_id.as_str()), (worker.pid, "l-2"));
    assert_eq!(adopted.model_ref, worker.model_ref);
    let url = format!("{}/v1/completions?events=2&delay_ms=0", adopted.url);
    let answer = second.http(reqwest::Method::POST, &url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "data: 0\n\ndata: 1\n\n");
    let stale = second.http(reqwest::Method::POST, &url).header(hive_api::LAUNCH_HEADER, "l-1");
    let request = stale.build().unwrap();
    let mut request = request;
    request.headers_mut().insert(hive_api::LAUNCH_HEADER, "l-1".parse().unwrap());
    let refused =
        http_client::builder(http_client::Trust::Nobody).build().unwrap().execute(request).await.unwrap();
    assert_eq!(refused.status(), ErrorCode::StaleLaunch.status());

    second.client.shutdown(&ShutdownRequest { grace_ms: Some(0) }).await.unwrap();
    within("the hive ends", machine.launcher.exited(&machine.spec, &second.hive)).await;
    assert!(!process::is_alive(&engine), "an ordered stop ends adopted workers too");
}

#[tokio::test]
async fn a_forced_end_takes_the_workers_along_and_nothing_else() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let engine = identity(worker.pid.expect("a process"));
    let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
    assert_eq!(machine.launcher.kill(&machine.spec, &running.hive).await.unwrap(), 2);
    assert!(!process::is_alive(&engine) && !process::is_alive(&running.hive.process));
    assert!(process::of(bystander.id()).unwrap().is_some());
    assert_eq!(machine.launcher.kill(&machine.spec, &running.hive).await.unwrap(), 0, "it is idempotent");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn an_engine_whose_process_was_not_written_down_in_time_is_found_by_its_mark() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let engine = identity(worker.pid.expect("a process"));
    let hive = process::Process::open(&running.hive.process).unwrap().expect("it lives");
    hive.kill().await.unwrap();
    // As it would be had the hive been killed between starting the engine and writing down its process.
    let path = machine.hive_dir().join("workers.json");
    let mut journal: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    journal["workers"][0].as_object_mut().unwrap().remove("process").expect("it was written");
    std::fs::write(&path, journal.to_string()).unwrap();
    let second = machine.launch("l-2").await;
    let adopted = second.worker_in(&worker.worker_id, WorkerStateName::Ready).await;
    assert_eq!(adopted.pid, worker.pid);
    assert_eq!(machine.launcher.kill(&machine.spec, &second.hive).await.unwrap(), 2);
    assert!(!process::is_alive(&engine));
}

#[tokio::test]
async fn a_hive_killed_at_any_moment_of_a_spawn_leaves_no_worker_to_nobody() {
    let machine = Machine::new(&engine::entry("quick", &[("LOAD_MS", "20")]));
    let mut running = machine.launch("l-0").await;
    for round in 1..=12_u64 {
        let request = machine.request("quick", &format!("k-{round}"));
        let spawning = running.client.spawn(&request);
        let hive = process::Process::open(&running.hive.process).unwrap().expect("it lives");
        let killing = async {
            tokio::time::sleep(Duration::from_millis(round * 3)).await;
            hive.kill().await.unwrap();
        };
        // Whether the answer still comes is left to chance; what was started must be known either way.
        let _ = tokio::join!(spawning, killing);
        running = machine.launch(&format!("l-{round}")).await;
        let known: Vec<_> =
            running.client.workers().await.unwrap().workers.iter().filter_map(|worker| worker.pid).collect();
        let mut there = engines_of(&machine);
        there.sort_unstable();
        let mut known = known;
        known.sort_unstable();
        assert_eq!(known, there, "round {round}");
    }
    machine.launcher.kill(&machine.spec, &running.hive).await.unwrap();
    assert_eq!(engines_of(&machine), Vec::<u32>::new());
}

/// The pids of all living engines that serve this machine's model.
fn engines_of(machine: &Machine) -> Vec<u32> {
    let name = format!("SCRIPTED_NAME={}", machine.model());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let serves = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&b| b == 0).any(|variable| variable == name.as_bytes())
    };
    pids.filter(serves).filter(|&pid| process::of(pid).unwrap().is_some()).collect()
}

#[tokio::test]
async fn a_hive_keeps_the_contract() {
    let machine = Machine::new("");
    let running = machine.launch("l-1").await;
    let url = running.client.endpoint().base_url();
    let mut target = hive_conformance::Target::at(&url, running.token.clone()).unwrap();
    target.patience = crate::harness::BOUND;
    let results = hive_conformance::run(&target).await;
    let failed: Vec<_> =
        results.iter().filter(|result| result.outcome == hive_conformance::Outcome::Failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(
        results.iter().filter(|result| result.outcome == hive_conformance::Outcome::Passed).count() >= 15
    );
}

#[tokio::test]
async fn reaping_under_a_living_hive_is_refused() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let reaped = Command::new(BINARY).arg("reap").arg("--data-dir").arg(machine.hive_dir()).output().unwrap();
    assert_eq!(reaped.status.code(), Some(73));
    assert!(process::is_alive(&identity(worker.pid.expect("a process"))));
}

#[tokio::test]
async fn a_signal_ends_hive_and_workers_and_a_second_one_hurries() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let engine = identity(worker.pid.expect("a process"));
    let url = format!("{}/v1/completions?events=1000000&delay_ms=50", worker.url);
    let mut endless = running.http(reqwest::Method::POST, &url).send().await.unwrap();
    endless.chunk().await.unwrap().expect("it streams");
    let hive = process::Process::open(&running.hive.process).unwrap().expect("it lives");
    hive.signal(process::Signal::TERM).unwrap();
    running.worker_in(&worker.worker_id, WorkerStateName::Draining).await;
    endless.chunk().await.unwrap().expect("a draining worker finishes what it has");
    let hurried = Instant::now();
    hive.signal(process::Signal::INT).unwrap();
    let exit = within("the hive ends", machine.launcher.exited(&machine.spec, &running.hive)).await;
    assert!(hurried.elapsed() < Duration::from_secs(3), "{:?}", hurried.elapsed());
    assert_eq!(exit.code, Some(0), "{:?}", exit.log_tail);
    assert!(!process::is_alive(&engine));
}

#[tokio::test]
async fn a_hive_that_its_queen_forgot_ends_itself_and_its_workers() {
    let machine = Machine::new(&format!("orphan_lease_s = 1\n{}", engine::entry("quick", &[])));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let engine = identity(worker.pid.expect("a process"));
    let exit = within("the hive ends", machine.launcher.exited(&machine.spec, &running.hive)).await;
    assert_eq!(exit.code, Some(0), "{:?}", exit.log_tail);
    assert!(!process::is_alive(&engine));
}

#[tokio::test]
async fn a_hive_started_by_hand_leaves_its_token_and_is_never_forgotten() {
    let machine = Machine::new("orphan_lease_s = 1\n");
    let mut hive = Command::new(BINARY)
        .args(["--port", "0", "--data-dir"])
        .arg(machine.hive_dir())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the hive announces itself", || machine.hive_dir().join("hive.json").exists()).await;
    let text = std::fs::read_to_string(machine.hive_dir().join("hive.json")).unwrap();
    let file = hive_api::HiveFile::parse(&text).unwrap();
    let token = std::fs::read_to_string(machine.hive_dir().join("token")).unwrap().trim().parse().unwrap();
    assert_eq!(file.tls_fingerprint, None, "it listens on loopback");
    let running = machine.running(file.into(), token);
    running.client.workers().await.expect("the token opens it");
    let begun = Instant::now();
    until("more than its lease passes", || begun.elapsed() > Duration::from_millis(1500)).await;
    running.client.workers().await.expect("it is still there");
    running.client.shutdown(&ShutdownRequest::default()).await.unwrap();
    until("it ends", || hive.try_wait().unwrap().is_some()).await;
}

/// Starts a hive by hand on every address of the machine.
async fn beyond_loopback(machine: &Machine, more: &[&str]) -> (std::process::Child, Running, String) {
    let log = machine.dir().join("log");
    let hive = Command::new(BINARY)
        .args(["--port", "0", "--host", "0.0.0.0", "--data-dir"])
        .arg(machine.hive_dir())
        .args(more)
        .stderr(std::fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("it starts");
    until("the hive says that it listens", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("register it with the token"))
    })
    .await;
    let text = std::fs::read_to_string(machine.hive_dir().join("hive.json")).expect("a file");
    let token = std::fs::read_to_string(machine.hive_dir().join("token"))
        .expect("a file")
        .trim()
        .parse()
        .expect("a token");
    let running = machine.running(hive_api::HiveFile::parse(&text).expect("a hive file").into(), token);
    (hive, running, std::fs::read_to_string(&log).expect("a file"))
}

async fn ends(mut hive: std::process::Child, running: &Running) {
    running.client.shutdown(&ShutdownRequest::default()).await.expect("it obeys");
    until("it ends", || hive.try_wait().expect("a child").is_some()).await;
}

#[tokio::test]
async fn beyond_loopback_a_hive_serves_tls_with_a_new_certificate_at_each_start() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (hive, running, log) = beyond_loopback(&machine, &[]).await;
        let pin = running.hive.tls_fingerprint.expect("it has a certificate");
        assert!(log.contains(&pin.to_string()), "it says its fingerprint: {log}");
        seen.push(pin);
        let worker = machine.ready_worker(&running, "quick").await;
        assert!(worker.url.starts_with("https://"), "{}", worker.url);
        // Requests go through it as they go through any other.
        let url = format!("{}/v1/workers/{}/proxy", running.client.endpoint().base_url(), worker.worker_id);
        let url = format!("{url}/v1/completions?events=2&delay_ms=0");
        let answer = running.http(reqwest::Method::POST, &url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "data: 0\n\ndata: 1\n\n");
        // Whoever speaks plain HTTP is told nothing, not even that this is a hive.
        let host = "127.0.0.1".parse().unwrap();
        assert!(machine.connections.health(&host, running.hive.port, None).await.is_err());
        let first = seen[0];
        let health = machine.connections.health(&host, running.hive.port, Some(first)).await;
        assert_eq!(health.is_ok(), first == pin, "the old certificate is not the new one: {health:?}");
        ends(hive, &running).await;
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn plain_http_beyond_loopback_is_had_by_asking_and_warned_of() {
    let machine = Machine::new("");
    let (hive, running, log) = beyond_loopback(&machine, &["--plain-http"]).await;
    assert_eq!(running.hive.tls_fingerprint, None);
    running.client.workers().await.expect("it answers in the clear");
    assert!(log.contains("WARN") && log.contains("every prompt"), "{log}");
    ends(hive, &running).await;
}

#[tokio::test]
async fn an_observer_that_cannot_record_leaves_no_hive() {
    struct Full;
    #[async_trait::async_trait]
    impl fleet::LaunchObserver for Full {
        fn progress(&self, _launch: &fleet::LaunchId, _progress: fleet::LaunchProgress) {}

        async fn spawned(
            &self,
            _: &fleet::LaunchId,
            _: &fleet::ProcessIdentity,
        ) -> Result<(), fleet::StoreError> {
            Err(fleet::StoreError::Full { action: "advance" })
        }
    }
    let machine = Machine::new("");
    let launched = machine.launcher.launch(&machine.order("l-1"), Arc::new(Full)).await;
    assert!(matches!(launched, Err(LaunchError::Journal { .. })));
    assert_eq!(machine.launcher.discover(&machine.spec).await.unwrap(), None);
}

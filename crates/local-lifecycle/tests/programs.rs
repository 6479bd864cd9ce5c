//! Programs that are no good hive, and files that no living hive wrote.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fleet::{
    HiveLauncher, HiveSpec, LaunchError, LaunchId, LaunchObserver, LaunchOrder, LaunchProgress,
    ProcessIdentity, RunningHive, StoreError,
};
use hive_api::HiveFile;
use local_lifecycle::{LocalLauncher, Settings};

#[derive(Default)]
struct Observer(Mutex<Vec<ProcessIdentity>>);

#[async_trait]
impl LaunchObserver for Observer {
    fn progress(&self, _launch: &LaunchId, _progress: LaunchProgress) {}

    async fn spawned(&self, _: &LaunchId, process: &ProcessIdentity) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(process.clone());
        Ok(())
    }
}

fn spec() -> HiveSpec {
    HiveSpec::local("box".parse().unwrap(), "localhost".parse().unwrap(), 0)
}

/// A launcher whose hive is a shell script.
fn launcher(dir: &Path, script: &str) -> LocalLauncher {
    let program = dir.join("program");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let settings = Settings {
        binary: Some(program),
        listen: Duration::from_millis(500),
        ..Settings::new(dir.join("queen"))
    };
    LocalLauncher::new(settings).unwrap()
}

async fn launch(launcher: &LocalLauncher) -> (Result<RunningHive, LaunchError>, Arc<Observer>) {
    let order = LaunchOrder {
        spec: spec(),
        launch_id: "l-1".parse().unwrap(),
        token: "0123456789abcdef".parse().unwrap(),
    };
    let observer = Arc::new(Observer::default());
    let launched = launcher.launch(&order, Arc::<Observer>::clone(&observer)).await;
    (launched, observer)
}

fn announce(launcher: &LocalLauncher, file: &HiveFile) {
    let dir = launcher.hive_dir(&spec().id);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(HiveFile::NAME), file.to_json()).unwrap();
}

fn file_of(process: ProcessIdentity) -> HiveFile {
    HiveFile {
        hive_id: spec().id,
        launch_id: "l-1".parse().unwrap(),
        process,
        port: 1,
        version: "0.1.0".into(),
        tls_fingerprint: None,
    }
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_told_with_its_code_and_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let (launched, observer) = launch(&launcher(dir.path(), "echo 'no such library' >&2; exit 127")).await;
    let Err(LaunchError::Exited { exit, .. }) = launched else { unreachable!("it is no hive") };
    assert_eq!((exit.code, exit.log_tail), (Some(127), vec!["no such library".to_owned()]));
    assert_eq!(observer.0.lock().unwrap().len(), 1, "the observer heard of it");
    let (launched, _) = launch(&launcher(dir.path(), "kill -SEGV $$")).await;
    assert!(matches!(launched, Err(LaunchError::Exited { exit, .. }) if exit.signal == Some(11)));
}

#[tokio::test]
async fn a_program_that_never_listens_is_given_up_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (launched, observer) = launch(&launcher(dir.path(), "trap '' TERM; echo waiting; sleep 1000")).await;
    let Err(LaunchError::NotListening { log_tail, .. }) = launched else { unreachable!("it never listens") };
    assert_eq!(log_tail, ["waiting"]);
    assert!(!process::is_alive(&observer.0.lock().unwrap()[0]));
}

#[tokio::test]
async fn whatever_answers_without_the_launchs_name_is_no_hive() {
    let dir = tempfile::tempdir().unwrap();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let mut file = file_of(process::own().unwrap());
    file.port = port;
    let launcher = launcher(dir.path(), "sleep 1000");
    announce(&launcher, &file);
    let answering = std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in stranger.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let body = "<html>captive</html>";
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if request.starts_with(b"END") {
                return;
            }
        }
    });
    let (launched, _) = launch(&launcher).await;
    assert!(matches!(launched, Err(LaunchError::NotListening { .. })));
    std::io::Write::write_all(&mut std::net::TcpStream::connect(("127.0.0.1", port)).unwrap(), b"END")
        .unwrap();
    answering.join().unwrap();
}

#[tokio::test]
async fn only_the_very_process_that_was_announced_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let launcher = launcher(dir.path(), "exit 0");
    assert_eq!(launcher.discover(&spec()).await.unwrap(), None);
    let own = process::own().unwrap();
    announce(&launcher, &file_of(own.clone()));
    assert_eq!(launcher.discover(&spec()).await.unwrap().map(|found| found.process), Some(own.clone()));
    announce(&launcher, &file_of(ProcessIdentity { start_time: own.start_time + 1, ..own.clone() }));
    assert_eq!(launcher.discover(&spec()).await.unwrap(), None);
    announce(&launcher, &HiveFile { hive_id: "another".parse().unwrap(), ..file_of(own) });
    assert_eq!(launcher.discover(&spec()).await.unwrap(), None);
}

#[tokio::test]
async fn a_process_that_got_the_pid_later_is_never_ended() {
    let dir = tempfile::tempdir().unwrap();
    let launcher = launcher(dir.path(), "echo 0");
    let mut bystander = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let alive = process::of(bystander.id()).unwrap().expect("it lives");
    let earlier = ProcessIdentity { start_time: alive.start_time - 1, ..alive.clone() };
    let gone =
        RunningHive { launch_id: "l-1".parse().unwrap(), process: earlier, port: 1, tls_fingerprint: None };
    assert_eq!(launcher.kill(&spec(), &gone).await.unwrap(), 0);
    let exit = tokio::time::timeout(Duration::from_secs(5), launcher.exited(&spec(), &gone)).await;
    assert_eq!(exit.expect("what is gone has ended").code, None);
    assert!(process::is_alive(&alive));
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

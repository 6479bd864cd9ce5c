//! The program, by its command line and its control port.

use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fleet::{HiveCommand, HiveEndpoint, SecretSource};
use hive_api::{
    HiveFile, SecretLine,
    client::{Connections, HiveClient, Timeouts},
};
use serde_json::{Value, json};

use crate::rig::{eventually, soon};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(dir: &Path, secret: SecretSource) -> HiveCommand {
    let launched = secret != SecretSource::OwnToken;
    HiveCommand {
        port: 0,
        data_dir: Some(dir.to_owned()),
        hive_id: Some("box".parse().unwrap()),
        launch_id: launched.then(|| "l-7".parse().unwrap()),
        secret,
        ..HiveCommand::by_hand()
    }
}

fn start(command: &HiveCommand) -> Program {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fake-hive"))
        .args(command.to_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if command.secret == SecretSource::Stdin {
        let line = SecretLine { token: TOKEN.parse().unwrap() }.to_line();
        child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    }
    Program(child)
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

async fn client(dir: &Path, token: &str) -> HiveClient {
    eventually("control.json", || read_json(&dir.join("control.json"))).await;
    let file = HiveFile::parse(&std::fs::read_to_string(dir.join(HiveFile::NAME)).unwrap()).unwrap();
    Connections::new(Timeouts::default()).unwrap().client(HiveEndpoint {
        hive_id: file.hive_id,
        launch_id: file.launch_id,
        host: "127.0.0.1".parse().unwrap(),
        port: file.port,
        token: token.parse().unwrap(),
        pin: None,
    })
}

async fn exit_code(program: &mut Program) -> Option<i32> {
    eventually("the exit", || program.0.try_wait().unwrap()).await.code()
}

#[tokio::test]
async fn it_starts_as_a_launcher_starts_a_hive_and_ends_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let secret_file = dir.path().join("secret");
    std::fs::write(&secret_file, SecretLine { token: TOKEN.parse().unwrap() }.to_line()).unwrap();
    for secret in [SecretSource::Stdin, SecretSource::File(secret_file.clone())] {
        let mut program = start(&command(dir.path(), secret));
        let client = client(dir.path(), TOKEN).await;
        assert_eq!(client.endpoint().launch_id.as_str(), "l-7");
        client.workers().await.unwrap();
        client.shutdown(&hive_api::ShutdownRequest { grace_ms: Some(0) }).await.unwrap();
        assert_eq!(exit_code(&mut program).await, Some(0));
        assert!(!dir.path().join(HiveFile::NAME).exists());
        std::fs::remove_file(dir.path().join("control.json")).unwrap();
    }
    assert!(!secret_file.exists());
}

#[tokio::test]
async fn started_by_hand_it_leaves_its_token_for_whoever_attaches_it() {
    let dir = tempfile::tempdir().unwrap();
    let _program = start(&command(dir.path(), SecretSource::OwnToken));
    let token = eventually("the token", || {
        let text = std::fs::read_to_string(dir.path().join("token")).ok()?;
        text.ends_with('\n').then(|| text.trim().to_owned())
    });
    client(dir.path(), &token.await).await.workers().await.unwrap();
}

#[tokio::test]
async fn a_second_one_in_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = start(&command(dir.path(), SecretSource::OwnToken));
    eventually("control.json", || read_json(&dir.path().join("control.json"))).await;
    let mut second = start(&command(dir.path(), SecretSource::OwnToken));
    assert_eq!(exit_code(&mut second).await, Some(73));
}

#[tokio::test]
async fn a_taken_port_and_a_missing_secret_have_codes_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut program = start(&HiveCommand { port, ..command(dir.path(), SecretSource::OwnToken) });
    assert_eq!(exit_code(&mut program).await, Some(69));
    let nowhere = SecretSource::File(dir.path().join("nowhere"));
    assert_eq!(exit_code(&mut start(&command(dir.path(), nowhere))).await, Some(78));
}

#[tokio::test]
async fn its_first_script_can_make_it_fail_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let script = json!({"start": {"exit": 3, "says": ["error while loading shared libraries"]}});
    std::fs::write(dir.path().join("script.json"), script.to_string()).unwrap();
    let mut program = start(&command(dir.path(), SecretSource::OwnToken));
    assert_eq!(exit_code(&mut program).await, Some(3));
}

#[tokio::test]
async fn the_control_port_sets_the_script_and_reads_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = start(&command(dir.path(), SecretSource::Stdin));
    let hive = client(dir.path(), TOKEN).await;
    let port = read_json(&dir.path().join("control.json")).unwrap()["port"].clone();
    let control = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let http = http_client::builder(http_client::Trust::Nobody).build().unwrap();
    let error = json!({"calls": {"workers": {"answer": {"kind": "error", "code": "internal"}}}});
    assert_eq!(http.put(control("/script")).json(&error).send().await.unwrap().status(), 200);
    assert!(hive.workers().await.is_err());
    assert_eq!(http.delete(control("/script")).send().await.unwrap().status(), 204);
    hive.workers().await.unwrap();
    let misspelt = http.put(control("/script")).json(&json!({"worcer": {}})).send().await.unwrap();
    assert_eq!(misspelt.status(), 400);
    let calls: Vec<fake_hive::Call> =
        http.get(control("/journal")).send().await.unwrap().json().await.unwrap();
    assert_eq!(calls.iter().filter_map(|c| c.status).collect::<Vec<_>>(), [500, 200]);
    let act = json!({"act": "exit", "code": 9});
    let _ = tokio::time::timeout(Duration::from_secs(2), http.post(control("/act")).json(&act).send()).await;
    assert_eq!(soon("the exit", exit_code(&mut program)).await, Some(9));
    assert!(dir.path().join(HiveFile::NAME).exists(), "a crash cleans nothing up");
}

//! An engine that the configuration names by URL comes to the machine that has a use for it, and serves there.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{Router, routing::get};
use fleet::{HivePhase, Target};
use queen_api::HivesOnStop;
use queen_client::QueenClient;
use throwaway_sshd::Sshd;

use crate::{
    network::{Box, ask, online},
    town::{Town, eventually, within},
};

/// What stands for `llama-server`: it tells what that tells, and serves with the scripted engine.
fn engine() -> String {
    format!(
        "#!/bin/sh\n\
         case $1 in --version) echo 'version: 4242 (fetched)' >&2; exit ;; --list-devices) echo 'Available devices:'; exit ;; esac\n\
         while [ $# -gt 1 ]; do case $1 in --port) SCRIPTED_PORT=$2 ;; --alias) SCRIPTED_NAME=$2 ;; esac; shift; done\n\
         export SCRIPTED_PORT SCRIPTED_NAME\n\
         exec {:?} --exact engine::the_scripted_engine --nocapture\n",
        std::env::current_exe().unwrap()
    )
}

/// An archive as engines are released in, and its SHA-256.
fn archive(folder: &Path) -> (Vec<u8>, String) {
    let inside = folder.join("llama-b4242");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("llama-server"), engine()).unwrap();
    std::fs::write(inside.join("libggml.so.0"), "a library").unwrap();
    std::os::unix::fs::symlink("libggml.so.0", inside.join("libggml.so")).unwrap();
    let path = folder.join("llama.tar.gz");
    let run = |command: &mut Command| {
        let output = command.current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(Command::new("tar").args(["-czf", "llama.tar.gz", "llama-b4242"]));
    let sha256 = run(Command::new("sha256sum").arg("llama.tar.gz"));
    (std::fs::read(path).unwrap(), sha256[..64].to_owned())
}

/// Serves the bytes; the counter says how often.
async fn serve(bytes: Vec<u8>) -> (SocketAddr, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let give = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(bytes.clone())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/llama.tar.gz", get(give));
    tokio::runtime::Handle::current().spawn(axum::serve(listener, router).into_future());
    (address, count)
}

fn entry(address: SocketAddr, sha256: &str) -> String {
    let own = Target::own().to_string();
    let (os, arch) = own.split_once('-').unwrap();
    format!(
        "[[engine]]\nos = {os:?}\narch = {arch:?}\nbackend = \"cpu\"\nurl = \"http://{address}/llama.tar.gz\"\n\
         sha256 = {sha256:?}\n"
    )
}

#[tokio::test]
async fn an_engine_of_the_configuration_is_fetched_brought_and_used() {
    let there = Box(Sshd::start(&[]).unwrap());
    let town = Town::network(&there.0, "");
    let (bytes, sha256) = archive(town.folder());
    let (address, count) = serve(bytes).await;
    town.configure(|toml| format!("{toml}{}", entry(address, &sha256)));
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    let hive = online(&client).await;
    let engines = hive.capabilities.unwrap().engines;
    assert_eq!(
        (engines[0].name.as_str(), engines[0].version.as_deref()),
        ("llama-server", Some("4242 (fetched)"))
    );
    assert_eq!(ask(&client, &there).await.text, " w0 w1 w2 w3");
    assert!(town.data_dir().join("engines").join(&sha256).join("libggml.so").is_file());

    // The next start has it already, here and there.
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    online(&client).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
}

#[tokio::test]
async fn an_engine_with_another_digest_goes_nowhere_and_is_told() {
    let there = Box(Sshd::start(&[]).unwrap());
    let town = Town::network(&there.0, "");
    let (bytes, sha256) = archive(town.folder());
    let (address, _) = serve(bytes).await;
    town.configure(|toml| format!("{toml}{}", entry(address, &"7".repeat(64))));
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    let reason = eventually("it is told", async || {
        let hive = client.hives().await.ok()?.into_iter().find(|hive| hive.phase == HivePhase::Error)?;
        hive.reason
    })
    .await;
    assert!(reason.contains("fetch an engine for 127.0.0.1") && reason.contains(&sha256), "{reason}");
    assert!(!there.hive_json().exists());
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
}

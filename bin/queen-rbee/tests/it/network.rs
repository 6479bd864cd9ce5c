//! A hive on another machine, from the real queen over a real SSH server to a real worker.

use std::{path::PathBuf, time::Duration};

use fleet::{HivePhase, ProcessIdentity};
use hive_api::HiveFile;
use process::Signal;
use queen_api::{HiveInfo, HivesOnStop, InferReply, WorkerInfo};
use queen_client::QueenClient;
use serde_json::json;
use throwaway_sshd::Sshd;

use crate::{
    engine,
    town::{Town, eventually, found, remote_dir, within},
};

/// The other machine.
pub(crate) struct Box(pub(crate) Sshd);

impl Box {
    fn model(&self) -> String {
        let path = remote_dir(&self.0).join("models/tiny.gguf");
        format!("file:{}", path.canonicalize().unwrap().display())
    }

    pub(crate) fn hive_json(&self) -> PathBuf {
        remote_dir(&self.0).join(HiveFile::NAME)
    }

    fn hive(&self) -> HiveFile {
        HiveFile::parse(&std::fs::read_to_string(self.hive_json()).unwrap()).unwrap()
    }
}

pub(crate) async fn online(queen: &QueenClient) -> HiveInfo {
    eventually("the hive is online", async || {
        let hives = queen.hives().await.ok()?;
        hives.into_iter().find(|hive| hive.phase == HivePhase::Online)
    })
    .await
}

pub(crate) async fn ask(queen: &QueenClient, there: &Box) -> InferReply {
    let request = json!({ "model": there.model(), "prompt": "Tell me.", "max_tokens": 4 });
    let request = serde_json::from_value(request).unwrap();
    within("an answer", queen.infer_whole(&request)).await.unwrap()
}

async fn worker(queen: &QueenClient) -> WorkerInfo {
    queen.workers().await.unwrap().into_iter().find(|worker| worker.record.state.is_ready()).unwrap()
}

fn identity(pid: u32) -> ProcessIdentity {
    process::of(pid).unwrap().unwrap()
}

#[tokio::test]
async fn a_machine_with_nothing_but_ssh_serves_encrypted_and_is_kept_and_left_clean() {
    let there = Box(Sshd::start(&[]).unwrap());
    let town = Town::network(&there.0, &engine::hive_toml());
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    let hive = online(&client).await;
    assert_eq!(hive.mode, fleet::HiveMode::Network);
    assert_eq!(ask(&client, &there).await.text, " w0 w1 w2 w3");

    // Nobody who listens in, or only tries, sees a byte of it in the clear.
    let file = there.hive();
    assert!(file.tls_fingerprint.is_some());
    let connections = hive_api::client::Connections::new(Default::default()).unwrap();
    let host = "127.0.0.1".parse().unwrap();
    assert!(connections.health(&host, file.port, None).await.is_err());
    connections.health(&host, file.port, file.tls_fingerprint).await.unwrap();

    // The queen is killed. The next one finds hive and worker as they were, and asks no SSH server for it.
    let before = worker(&client).await;
    let engine = identity(before.record.pid.unwrap());
    queen.process().signal(Signal::KILL).unwrap();
    // Until it has ended it holds port and data directory.
    within("the queen's death", queen.wait()).await.unwrap();
    let logins = there.0.taken();
    let mut queen = town.start("queen-rbee", &[]);
    online(&client).await;
    assert_eq!(ask(&client, &there).await.worker_id, before.record.worker_id);
    assert_eq!(worker(&client).await.record.pid, before.record.pid);
    assert_eq!(there.hive().process, file.process);
    assert_eq!(there.0.taken(), logins);

    // A hive that is gone is followed by one that takes its worker over.
    let old = process::Process::open(&file.process).unwrap().unwrap();
    old.kill().await.unwrap();
    let successor = eventually("another hive is there", async || {
        let text = std::fs::read_to_string(there.hive_json()).ok()?;
        HiveFile::parse(&text).ok().filter(|file| process::is_alive(&file.process))
    })
    .await;
    assert_ne!(successor.launch_id, file.launch_id);
    eventually("its worker is ready again", async || {
        let workers = client.workers().await.ok()?;
        workers.into_iter().find(|worker| {
            worker.record.pid == before.record.pid
                && worker.record.launch_id == successor.launch_id
                && worker.record.state.is_ready()
        })
    })
    .await;
    assert_eq!(ask(&client, &there).await.text, " w0 w1 w2 w3");

    // And the end is one of everything.
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    for process in [&successor.process, &engine] {
        eventually("it has ended", async || (!process::is_alive(process)).then_some(())).await;
    }
    assert!(!there.hive_json().exists(), "it ended as asked");
}

#[tokio::test]
async fn a_machine_that_only_ssh_knows_by_this_name_is_reached_at_its_address() {
    let there = Box(Sshd::start(&[]).unwrap());
    let mut town = Town::network(&there.0, &engine::hive_toml());
    town.configure(|toml| toml.replace("hostname = \"127.0.0.1\"", "hostname = \"gaming-pc.invalid\""));
    let aliases = town.folder().join("ssh_config");
    std::fs::write(&aliases, "Host gaming-pc.invalid\n  HostName 127.0.0.1\n").unwrap();
    // The real client looks for its file in the account's home, whatever HOME says.
    town.before_the_others("ssh", &format!("exec {} -F {aliases:?} \"$@\"", found("ssh").display()));
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    online(&client).await;
    assert_eq!(ask(&client, &there).await.text, " w0 w1 w2 w3");
    let before = worker(&client).await;

    // The next queen knows where it is, too.
    queen.process().signal(Signal::KILL).unwrap();
    within("the queen's death", queen.wait()).await.unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    online(&client).await;
    assert_eq!(ask(&client, &there).await.worker_id, before.record.worker_id);
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    assert!(!there.hive_json().exists(), "it ended as asked");
}

#[tokio::test]
async fn a_machine_that_was_rebooted_loads_its_pinned_model_unasked() {
    let there = Box(Sshd::start(&[]).unwrap());
    let town = Town::network(&there.0, &engine::hive_toml());
    town.configure(|toml| format!("{toml}[[model]]\nref = {:?}\npinned = true\n", there.model()));
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    let ready = async |other_than: Option<u32>| {
        eventually("its pinned model is ready", async || {
            let workers = client.workers().await.ok()?.into_iter();
            let mut ready = workers.filter(|w| w.reachable && w.record.state.is_ready());
            ready.find_map(|worker| worker.record.pid.filter(|pid| Some(*pid) != other_than))
        })
        .await
    };
    let engine = ready(None).await;
    // All that runs there ends at once, and nobody logs in before the machine is up again.
    there.0.greet(throwaway_sshd::Greeting::Drop(usize::MAX));
    for identity in [there.hive().process, identity(engine)] {
        process::Process::open(&identity).unwrap().unwrap().kill().await.unwrap();
    }
    eventually("its silence is noticed", async || {
        client.hives().await.ok()?.into_iter().find(|hive| hive.phase == HivePhase::Unreachable)
    })
    .await;
    there.0.greet(throwaway_sshd::Greeting::Serve);
    ready(Some(engine)).await;
    assert_eq!(ask(&client, &there).await.text, " w0 w1 w2 w3");
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    assert!(!there.hive_json().exists(), "it ended as asked");
}

#[tokio::test]
async fn a_machine_that_was_off_is_online_soon_after_it_greets() {
    let there = Box(Sshd::start(&[]).unwrap());
    there.0.greet(throwaway_sshd::Greeting::Drop(usize::MAX));
    let town = Town::network(&there.0, &engine::hive_toml());
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    let reason = eventually("it is told why it is not there", async || {
        client.hives().await.ok()?.into_iter().find_map(|hive| hive.reason)
    })
    .await;
    assert!(reason.starts_with("off since ") && reason.contains("127.0.0.1"), "{reason}");
    there.0.greet(throwaway_sshd::Greeting::Serve);
    tokio::time::timeout(Duration::from_secs(30), online(&client)).await.unwrap();
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    assert!(!there.hive_json().exists(), "it ended as asked");
}

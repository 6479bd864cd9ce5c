//! Hives that outlive the queen.

use std::time::Duration;

use fleet::HivePhase;
use process::Signal;
use queen_api::{HivesOnStop, InferReply, WorkerInfo};
use queen_client::QueenClient;
use serde_json::json;

use crate::{
    engine,
    town::{Town, eventually, within},
};

async fn online(queen: &QueenClient) {
    eventually("the hive is online", async || {
        let hives = queen.hives().await.ok()?;
        hives.iter().any(|hive| hive.phase == HivePhase::Online).then_some(())
    })
    .await;
}

async fn ask(queen: &QueenClient, town: &Town) -> InferReply {
    let request = json!({ "model": town.model(), "prompt": "Tell me.", "max_tokens": 4 });
    let request = serde_json::from_value(request).unwrap();
    within("an answer", queen.infer_whole(&request)).await.unwrap()
}

async fn worker(queen: &QueenClient) -> WorkerInfo {
    queen.workers().await.unwrap().into_iter().find(|worker| worker.record.state.is_ready()).unwrap()
}

#[tokio::test]
async fn a_signal_leaves_hives_and_workers_to_the_next_queen_where_that_was_said() {
    let town = Town::real(&engine::hive_toml());
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &["--keep-hives"]);
    online(&client).await;
    assert_eq!(ask(&client, &town).await.text, " w0 w1 w2 w3");
    let before = worker(&client).await;

    queen.process().signal(Signal::TERM).unwrap();
    let exit = within("the queen's end", queen.wait()).await.unwrap();
    assert_eq!(exit.code, Some(0));
    assert!(client.health().await.is_err());
    let left = town.living();
    assert_eq!(left.len(), 2, "a hive and its worker: {left:?}");

    let mut queen = town.start("queen-rbee", &["--keep-hives"]);
    online(&client).await;
    let after = worker(&client).await;
    let same = |worker: &WorkerInfo| {
        (worker.record.worker_id.clone(), worker.record.pid, worker.record.launch_id.clone())
    };
    assert!(before.record.pid.is_some());
    assert_eq!(same(&before), same(&after), "nothing was loaded again");
    assert_eq!(ask(&client, &town).await.worker_id, before.record.worker_id);
    assert!(left.iter().all(process::is_alive), "the same processes");

    // Whoever says what becomes of the hives is heeded.
    client.shutdown(HivesOnStop::Stop).await.unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    assert_eq!(town.living(), []);
}

#[tokio::test]
async fn a_signal_ends_all_of_it_where_nothing_was_said() {
    let town = Town::real(&engine::hive_toml());
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    online(&client).await;
    ask(&client, &town).await;
    queen.process().signal(Signal::TERM).unwrap();
    let exit = within("the queen's end", queen.wait()).await.unwrap();
    assert_eq!(exit.code, Some(0));
    assert_eq!(town.living(), []);
}

#[tokio::test]
async fn an_answer_under_way_is_finished_before_the_hives_are_left() {
    let town = Town::of_fakes(&json!({ "token_ms": 20 }));
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &["--keep-hives"]);
    online(&client).await;
    let request = json!({ "model": crate::town::MODEL, "prompt": "Tell me.", "max_tokens": 40 });
    let request = serde_json::from_value(request).unwrap();
    let (asked, other) = (client.clone(), client.clone());
    let answer = tokio::runtime::Handle::current().spawn(async move { asked.infer_whole(&request).await });
    eventually("the answer has begun", async || {
        let workers = other.workers().await.ok()?;
        workers.iter().any(|worker| worker.in_flight > 0).then_some(())
    })
    .await;
    queen.process().signal(Signal::TERM).unwrap();
    let answer = within("the answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.tokens_out, 40);
    within("the queen's end", queen.wait()).await.unwrap();
    assert_eq!(town.living().len(), 1, "the hive");
    assert!(tokio::time::timeout(Duration::from_secs(1), client.health()).await.is_ok_and(|h| h.is_err()));
}

#[tokio::test]
async fn a_hive_that_is_frozen_is_ended_by_force_and_its_worker_with_it() {
    let town = Town::real(&engine::hive_toml());
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &[]);
    online(&client).await;
    ask(&client, &town).await;
    let text = std::fs::read_to_string(town.hive_dir().join("hive.json")).unwrap();
    let hive: fleet::ProcessIdentity = serde_json::from_str(&text).unwrap();
    process::Process::open(&hive).unwrap().unwrap().signal(Signal::STOP).unwrap();
    queen.process().signal(Signal::TERM).unwrap();
    let exit = within("the queen's end", queen.wait()).await.unwrap();
    assert_eq!(exit.code, Some(0));
    assert_eq!(town.living(), []);
}

#[tokio::test]
async fn a_hive_that_left_the_configuration_ends_and_so_does_its_worker() {
    let town = Town::real(&engine::hive_toml());
    let client = QueenClient::new(&town.url, None).unwrap();
    let mut queen = town.start("queen-rbee", &["--keep-hives"]);
    online(&client).await;
    ask(&client, &town).await;
    queen.process().signal(Signal::TERM).unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    assert_eq!(town.living().len(), 2);
    town.configure(|toml| {
        let (common, _) = toml.split_once("[timeouts]").unwrap();
        format!("hive = []\n{common}")
    });
    let mut queen = town.start("queen-rbee", &["--keep-hives"]);
    eventually("it is gone", async || {
        let hives = client.hives().await.ok()?;
        (hives.is_empty() && town.living().len() == 1).then_some(())
    })
    .await;
    queen.process().signal(Signal::TERM).unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    assert_eq!(town.living(), []);
}

//! `rbee run`, `rbee ps`, `rbee models`.

use std::process::Stdio;

use process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::town::{MODEL, Town, eventually, within};

async fn up(worker: &Value) -> Town {
    let town = Town::of_fakes(worker);
    town.rbee(&["up"]).await.done();
    town.rbee(&["hive", "start", "local"]).await.done();
    town
}

#[tokio::test]
async fn an_answer_goes_to_standard_output_and_everything_else_elsewhere() {
    let town = up(&json!({})).await;
    let said = town.rbee(&["run", MODEL, "Tell me.", "--max-tokens", "6"]).await;
    assert!(said.err.contains("starting a worker") && said.err.contains("6 tokens"), "{}", said.err);
    let answer = said.done();
    tiny_model::check_continuation("", answer.trim_end()).unwrap();
    assert_eq!(answer.split_whitespace().count(), 6, "{answer:?}");
    assert!(answer.ends_with('\n'));

    let quiet = town.rbee(&["run", MODEL, "Tell me.", "--max-tokens", "6", "--quiet"]).await;
    assert_eq!((quiet.err.as_str(), &quiet.out), ("", &answer));

    let events = town.rbee(&["run", MODEL, "Tell me.", "--max-tokens", "2", "--json"]).await.done();
    let kinds: Vec<_> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["started", "token", "token", "end"]);
    let started: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    let why = town.rbee(&["why", started["request_id"].as_str().unwrap()]).await.done();
    assert!(why.contains("the best of 1") && why.contains("completed; one worker was sent it"), "{why}");
    let told = town.rbee(&["why", "nobody"]).await.failed(1);
    assert!(told.contains("nobody"), "{told}");

    let workers = town.rbee(&["ps"]).await.done();
    assert!(workers.contains(MODEL) && workers.contains("ready"), "{workers}");
    assert_eq!(town.json(&["ps"]).await["workers"][0]["model_ref"], MODEL);
    let models = town.rbee(&["models"]).await.done();
    let row = models.lines().find(|line| line.starts_with(MODEL)).unwrap_or_default();
    assert_eq!(row.matches("local").count(), 2, "it is there and served there: {models}");
}

#[tokio::test]
async fn a_prompt_is_read_from_standard_input() {
    let town = up(&json!({})).await;
    for args in
        [&["run", MODEL, "--max-tokens", "3", "-q"][..], &["run", MODEL, "-", "--max-tokens", "3", "-q"]]
    {
        let mut child = town.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"Tell me.").await.unwrap();
        drop(stdin);
        let output = within("the answer", child.wait_with_output()).await.unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout).split_whitespace().count(), 3);
    }
}

#[tokio::test]
async fn a_failure_is_told_with_a_code_and_without_an_answer() {
    let town = Town::of_fakes(&json!({}));
    let config = town.folder().join("config/queen-rbee/queen.toml");
    let choosy =
        format!("{}\n[models]\nallow = [\"hf:fake/*\"]\n", std::fs::read_to_string(&config).unwrap());
    std::fs::write(&config, choosy).unwrap();
    town.rbee(&["up"]).await.done();
    let said = town.rbee(&["run", "hf:no/where", "Tell me."]).await;
    assert_eq!(said.out, "");
    let told = said.failed(1);
    assert!(told.contains("could not ask the model") && told.contains("hf:no/where"), "{told}");
    let told = town.rbee(&["run", "owner;name", "Tell me."]).await.failed(1);
    assert!(told.contains("owner;name"), "{told}");
    let said = town.rbee(&["run", "owner;name", "Tell me.", "--json"]).await;
    let error: Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    assert_eq!((said.code, &error["error"]["code"]), (Some(1), &json!("invalid_request")));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure_behind_what_came() {
    let dies = json!({ "faults": [{ "at": { "tokens": 3 }, "act": { "kind": "die" } }] });
    let town = up(&dies).await;
    let said = town.rbee(&["run", MODEL, "Tell me.", "-q"]).await;
    // Another worker goes on where the first one died, and dies as early.
    let words = said.out.split_whitespace().count();
    assert!((3..256).contains(&words), "{:?}", said.out);
    assert!(said.out.ends_with('\n'), "the message does not stand behind a word");
    let told = said.failed(1);
    assert!(told.contains("worker"), "{told}");
}

async fn in_flight(town: &Town) -> u64 {
    town.json(&["ps"]).await["workers"][0]["in_flight"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn ctrl_c_and_a_closed_pipe_cancel_the_answer() {
    // Ten minutes' worth of words: what ends earlier was cancelled.
    let town = up(&json!({ "token_ms": 100 })).await;
    for pipe in [false, true] {
        let mut child = town.command(&["run", MODEL, "Tell me.", "--max-tokens", "6000"]).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut word = [0; 8];
        within("the first word", stdout.read_exact(&mut word)).await.unwrap();
        assert_eq!(in_flight(&town).await, 1);
        let code = if pipe {
            drop(stdout);
            141
        } else {
            let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
            rustix::process::kill_process(pid, Signal::INT).unwrap();
            130
        };
        let status = within("its end", child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(code));
        eventually("the slot is free", async || (in_flight(&town).await == 0).then_some(())).await;
    }
}

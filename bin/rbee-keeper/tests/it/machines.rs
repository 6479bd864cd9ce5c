//! `rbee hive …`.

use serde_json::json;

use crate::town::{Town, eventually, free_port};

async fn up() -> Town {
    let town = Town::of_fakes(&json!({}));
    town.rbee(&["up"]).await.done();
    town
}

/// A hive that somebody starts by hand; returns its port and the file of its token.
async fn by_hand(town: &Town) -> (String, String) {
    let (port, data_dir) = (free_port().to_string(), town.folder().join("box"));
    town.start("fake-hive", &["--port", &port, "--hive-id", "box", "--data-dir", data_dir.to_str().unwrap()]);
    eventually("it listens", async || {
        tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok().then_some(())
    })
    .await;
    let token = data_dir.join("token");
    (port, token.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_hive_that_runs_already_is_attached_steered_and_forgotten() {
    let town = up().await;
    let (port, token) = by_hand(&town).await;
    let add =
        ["hive", "add", "127.0.0.1", "--id", "box", "--port", &port, "--attach", "--hive-token-file", &token];
    let said = town.rbee(&add).await;
    assert!(said.err.contains("box registered") && said.err.contains("online"), "{}", said.err);
    let last = said.done();
    assert!(last.starts_with("box: "), "{last}");
    let again = town.rbee(&add).await;
    assert!(again.err.contains("was registered already"), "{}", again.err);
    again.done();

    for (verb, state) in [("drain", "draining"), ("stop", "offline"), ("start", "online")] {
        for _ in 0..2 {
            assert_eq!(town.rbee(&["hive", verb, "box"]).await.done(), format!("box is {state}\n"));
        }
    }
    let list = town.rbee(&["hive", "list"]).await.done();
    let row = list.lines().find(|line| line.starts_with("box ")).unwrap_or_else(|| panic!("{list}"));
    assert!(row.contains("online") && row.contains("(attached)"), "{row}");
    assert!(!town.rbee(&["hive", "logs", "box", "-n", "3"]).await.done().is_empty());
    let logs = town.json(&["hive", "logs", "box", "-n", "1"]).await;
    assert_eq!(logs["lines"].as_array().map(Vec::len), Some(1));

    let before = town.living().len();
    let told = town.rbee(&["hive", "rm", "box", "--purge"]).await.failed(1);
    assert!(told.contains("not the queen's to remove"), "{told}");
    assert_eq!(town.rbee(&["hive", "rm", "box"]).await.done(), "box is removed\n");
    assert_eq!(town.living().len(), before, "an attached hive goes on");
    let told = town.rbee(&["hive", "rm", "box"]).await.failed(1);
    assert!(told.contains("no hive box is registered"), "{told}");
}

#[tokio::test]
async fn a_hive_that_does_not_let_the_queen_in_is_told_with_the_reason() {
    let town = up().await;
    let (port, _) = by_hand(&town).await;
    let wrong = town.folder().join("wrong");
    std::fs::write(&wrong, "a-token-of-another-hive").unwrap();
    let wrong = wrong.to_str().unwrap();
    let add =
        ["hive", "add", "127.0.0.1", "--id", "box", "--port", &port, "--attach", "--hive-token-file", wrong];
    let told = town.rbee(&add).await.failed(1);
    assert!(told.contains("hive box is in error: ") && told.contains("rbee hive rm box"), "{told}");
    assert!(!told.contains("a-token-of-another-hive"), "{told}");
    let again = town.rbee(&add).await.failed(1);
    assert!(
        again.contains("hive box is in error: "),
        "a failure that stands is told as one that comes: {again}"
    );
    let other =
        ["hive", "add", "127.0.0.1", "--id", "box", "--port", "1", "--attach", "--hive-token-file", wrong];
    let told = town.rbee(&other).await.failed(1);
    assert!(told.contains("is registered already, as local 127.0.0.1:"), "{told}");
}

#[tokio::test]
async fn a_hive_of_this_machine_is_started_and_ends_when_it_is_removed() {
    let town = up().await;
    town.rbee(&["hive", "start", "local"]).await.done();
    let (before, port) = (town.living().len(), free_port().to_string());
    let add =
        ["hive", "add", "localhost", "--id", "two", "--port", &port, "--label", "a", "--region", "home"];
    town.rbee(&add).await.done();
    assert_eq!(town.living().len(), before + 1);
    let list = town.rbee(&["hive", "list"]).await.done();
    assert!(list.contains("home a"), "{list}");
    town.rbee(&["hive", "stop", "two"]).await.done();
    let told = town.rbee(&add).await.done();
    assert!(told.contains("two is offline") && told.contains("rbee hive start two"), "{told}");
    town.rbee(&["hive", "start", "two"]).await.done();
    town.rbee(&["hive", "rm", "two"]).await.done();
    assert_eq!(town.living().len(), before);
    let folder = town.data_dir().join("hives/two");
    assert!(folder.exists(), "a hive that is removed leaves what it has");
    town.rbee(&add).await.done();
    town.rbee(&["hive", "rm", "two", "--purge"]).await.done();
    assert!(!folder.exists(), "one that is purged leaves nothing");
    let told = town.rbee(&["hive", "rm", "local"]).await.failed(1);
    assert!(told.contains("the queen's configuration"), "{told}");
}

#[tokio::test]
async fn a_hive_that_does_not_start_is_told_with_the_last_lines_of_its_log() {
    let town = up().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let told = town.rbee(&["hive", "add", "localhost", "--id", "two", "--port", &port]).await.failed(1);
    assert!(told.contains("hive two is in error: "), "{told}");
    assert!(told.lines().any(|line| line.starts_with("    ") && line.contains("in use")), "{told}");
}

#[tokio::test]
async fn a_machine_whose_host_key_nobody_knows_is_not_registered_unasked() {
    let town = up().await;
    let sshd = throwaway_sshd::Sshd::start(&[]).unwrap();
    let machine = format!("127.0.0.1:{}", sshd.port());
    let told = town.rbee(&["hive", "add", &machine, "--mode", "network", "--id", "two"]).await.failed(1);
    assert!(told.contains("SHA256:") && told.contains("nothing was registered"), "{told}");
    assert!(!town.rbee(&["hive", "list"]).await.done().contains("two"));
    drop(sshd);
    let told = town.rbee(&["hive", "add", &machine, "--mode", "network", "--id", "two"]).await.failed(1);
    assert!(told.contains("127.0.0.1"), "{told}");
    assert!(!town.rbee(&["hive", "list"]).await.done().contains("two"));
}

//! `rbee up`, `rbee down`, and where a queen is looked for.

use futures_util::future::join_all;
use process::Signal;
use serde_json::json;

use crate::town::{Town, eventually, free_port, within};

fn town() -> Town {
    Town::of_fakes(&json!({}))
}

#[tokio::test]
async fn a_queen_is_started_once_and_ends_with_all_that_it_started() {
    let town = town();
    let first = town.json(&["up"]).await;
    assert_eq!((&first["state"], &first["url"]), (&json!("started"), &json!(town.url)));
    let again = town.rbee(&["up"]).await.done();
    assert!(again.starts_with(&format!("a queen runs already at {}", town.url)), "{again}");
    town.rbee(&["hive", "start", "local"]).await.done();
    let pids: Vec<_> = town.living().into_iter().map(|identity| json!(identity.pid)).collect();
    assert_eq!(pids.len(), 2, "a queen and a hive, each in a session of its own");
    assert!(pids.contains(&first["pid"]));
    let status = town.json(&["status"]).await;
    assert_eq!(status["queen"]["status"], "ready");
    assert_eq!(status["hives"][0]["phase"], "online");
    town.rbee(&["down"]).await.done();
    assert_eq!(town.living(), [], "when `rbee down` ends, so has all the rest");
    let nobody = town.rbee(&["down"]).await.done();
    assert_eq!(nobody, format!("no queen runs at {}\n", town.url));
}

#[tokio::test]
async fn whoever_starts_at_the_same_time_starts_one_queen() {
    let town = town();
    for said in join_all((0..4).map(|_| town.rbee(&["up"]))).await {
        said.done();
    }
    town.rbee(&["hive", "start", "local"]).await.done();
    assert_eq!(town.living().len(), 2, "one queen, one hive");
}

#[tokio::test]
async fn the_log_of_a_queen_that_was_started_does_not_grow_for_ever() {
    let town = town();
    town.rbee(&["up"]).await.done();
    let log = town.data_dir().join("queen.log");
    let mut writer = std::fs::File::options().append(true).open(&log).unwrap();
    let line = format!("{}\n", "x".repeat(1023));
    for _ in 0..17 * 1024 {
        std::io::Write::write_all(&mut writer, line.as_bytes()).unwrap();
    }
    eventually("it is cut", async || (log.metadata().unwrap().len() < 1 << 20).then_some(())).await;
    let kept = town.data_dir().join("queen.log.1").metadata().unwrap().len();
    assert_eq!(kept, 512 * 1024, "its end is kept beside it");
}

#[tokio::test]
async fn without_a_queen_every_command_says_how_to_start_one() {
    let town = town();
    for call in
        ["status", "ps", "models", "run a/b hi", "hive list", "hive logs x", "hive add box", "hive rm x"]
    {
        let args: Vec<_> = call.split(' ').collect();
        let told = town.rbee(&args).await.failed(69);
        assert!(told.contains(&town.url) && told.contains("`rbee up`"), "{call}: {told}");
    }
    let said = town.rbee(&["status", "--json"]).await;
    let error: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &error["error"]["code"]), (Some(69), &json!("not_running")));
    assert_eq!(said.err, "");
}

#[tokio::test]
async fn a_queen_that_does_not_start_is_told_with_its_last_words() {
    let town = town();
    town.rbee(&["up"]).await.done();
    // Another queen over the same data.
    let other = format!("127.0.0.1:{}", free_port());
    let told = town.rbee(&["up", "--queen", &other]).await.failed(1);
    assert!(told.contains("exit code 73") && told.contains("another queen-rbee (pid "), "{told}");
    let far = town.rbee(&["up", "--queen", "192.0.2.1:7833"]);
    // Nobody is asked beyond this machine for longer than a connection may take.
    let far = far.await;
    assert_ne!(far.code, Some(0));
    let config = town.folder().join("config/queen-rbee/queen.toml");
    let faulty = format!("{}\ncolour = 1\n", std::fs::read_to_string(&config).unwrap());
    std::fs::write(&config, faulty).unwrap();
    let told = town.rbee(&["status"]).await.failed(78);
    assert!(told.contains("colour"), "{told}");
}

#[tokio::test]
async fn hives_that_a_queen_left_behind_are_told_and_stopped_by_the_next_one() {
    let town = town();
    let mut queen = town.start("queen-rbee", &["--keep-hives"]);
    crate::town::eventually("the queen is ready", async || {
        (town.rbee(&["hive", "start", "local"]).await.code == Some(0)).then_some(())
    })
    .await;
    queen.process().signal(Signal::TERM).unwrap();
    within("the queen's end", queen.wait()).await.unwrap();
    let told = town.rbee(&["down"]).await.failed(1);
    assert!(told.contains("local (pid "), "{told}");
    town.rbee(&["up"]).await.done();
    town.rbee(&["down"]).await.done();
    assert_eq!(town.living(), []);
}

#[tokio::test]
async fn the_token_is_found_and_goes_to_its_own_queen_only() {
    let town = town();
    let file = town.folder().join("token");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    let config = town.folder().join("config/queen-rbee/queen.toml");
    let with_token = format!("token_file = {file:?}\n{}", std::fs::read_to_string(&config).unwrap());
    std::fs::write(&config, with_token).unwrap();
    town.rbee(&["up"]).await.done();
    town.rbee(&["status"]).await.done();
    let told = town.rbee(&["status", "--queen", &town.url]).await.failed(1);
    assert!(told.contains("QUEEN_RBEE_TOKEN") && told.contains("--token-file"), "{told}");
    town.rbee(&["status", "--queen", &town.url, "--token-file", file.to_str().unwrap()]).await.done();
    std::fs::write(&file, "short secret").unwrap();
    let told =
        town.rbee(&["status", "--queen", &town.url, "--token-file", file.to_str().unwrap()]).await.failed(64);
    assert!(told.contains("token file") && !told.contains("short secret"), "{told}");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    town.rbee(&["down"]).await.done();
}

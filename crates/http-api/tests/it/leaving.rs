//! Clients that leave, or stop reading.

use std::time::{Duration, Instant};

use fake_hive::{Outcome, Script};
use fleet::RequestOutcome;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::rig::{Queen, Wishes, eventually, script};

/// Bound of the time between a client's leaving and the end of its generation.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn ask(queen: &Queen, path: &str, stream: bool, max_tokens: u32) -> TcpStream {
    let body = json!({ "model": "a/b", "prompt": "Tell me.", "max_tokens": max_tokens, "stream": stream });
    let body = body.to_string();
    let mut client = TcpStream::connect(queen.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn whoever_leaves_frees_the_worker_at_once() {
    let slow = script(json!({ "worker": { "token_ms": 50, "slots": 1 } }));
    let queen = Queen::serving(vec![slow], Wishes::default()).await;
    let ways =
        [("/v1/infer", true), ("/v1/infer", false), ("/v1/completions", true), ("/v1/completions", false)];
    for (at, (path, stream)) in ways.into_iter().enumerate() {
        let client = ask(&queen, path, stream, 200).await;
        eventually("it is under way", || queen.generations(Outcome::Open) == 1).await;
        drop(client);
        let left = Instant::now();
        eventually("the worker noticed", || queen.generations(Outcome::Cancelled) == at + 1).await;
        assert!(left.elapsed() < AT_ONCE, "{path} {stream}: {:?}", left.elapsed());
        eventually("the slot is free", || queen.in_flight() == 0).await;
    }
    eventually("all ended", || queen.endings() == [RequestOutcome::Cancelled; 4]).await;
}

#[tokio::test]
async fn whoever_leaves_the_queue_or_a_cold_start_is_forgotten() {
    let slow = script(json!({ "worker": { "token_ms": 50, "slots": 1 } }));
    let queen = Queen::serving(vec![slow], Wishes::default()).await;
    let _running = ask(&queen, "/v1/infer", true, 200).await;
    eventually("it is under way", || queen.in_flight() == 1).await;
    for path in ["/v1/infer", "/v1/completions"] {
        for stream in [true, false] {
            let before = queen.endings().len();
            let waiting = ask(&queen, path, stream, 8).await;
            // Nothing outside shows that it waits; the answer to a later request on another connection does.
            assert_eq!(queen.get("/healthz").send().await.unwrap().status(), 200);
            drop(waiting);
            eventually("it is over", || queen.endings().len() == before + 1).await;
        }
    }
    assert_eq!(queen.endings(), [RequestOutcome::Cancelled; 4]);
    assert_eq!(queen.generations(Outcome::Open), 1, "none of them reached the worker");

    let cold =
        Queen::start(vec![script(json!({ "download": { "stall_at": 0.5 } }))], Wishes::default()).await;
    for stream in [true, false] {
        let before = cold.endings().len();
        let waiting = ask(&cold, "/v1/infer", stream, 8).await;
        eventually("the transfer began", || {
            cold.fakes[0].journal().iter().any(|c| c.path.contains("progress"))
        })
        .await;
        drop(waiting);
        eventually("it is over", || cold.endings().len() == before + 1).await;
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_given_up() {
    let serve = http_serve::Limits { write: Duration::from_millis(300), ..http_serve::Limits::default() };
    let flood = json!({ "worker": { "faults": [{
        "at": { "tokens": 1 }, "act": { "kind": "garbage", "which": "endless_events" }
    }] } });
    let queen =
        Queen::serving(vec![script(flood), Script::default()], Wishes { serve, ..Wishes::default() }).await;
    let mut deaf = ask(&queen, "/v1/completions", true, 8).await;
    let mut some = [0; 64];
    deaf.read_exact(&mut some).await.unwrap();
    eventually("its slot is free", || queen.in_flight() == 0).await;
    assert_eq!(queen.endings(), [RequestOutcome::Cancelled]);
}

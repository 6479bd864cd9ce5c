//! What is no queen, or none any more.

use std::{convert::Infallible, time::Duration};

use futures_util::StreamExt;
use http_serve::{Limits, Server};
use queen_client::{ClientError, ClientErrorKind, QueenClient, Timeouts};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::task::TaskTracker;

fn impatient(address: &str) -> QueenClient {
    let silence = Duration::from_millis(300);
    let timeouts = Timeouts { call: silence, silence, ..Timeouts::default() };
    QueenClient::with_timeouts(address, None, timeouts).unwrap()
}

/// Answers every connection with these bytes, and then with silence or the end.
async fn stranger(answer: &'static str, end: bool) -> (QueenClient, TaskTracker) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = impatient(&listener.local_addr().unwrap().to_string());
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 1024];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            if !end {
                kept.push(stream);
            }
        }
    });
    (client, tasks)
}

async fn ask(client: &QueenClient) -> Result<String, ClientError> {
    let request = serde_json::from_value(json!({ "model": "a/b", "prompt": "x" })).unwrap();
    client.infer_whole(&request).await.map(|reply| reply.text)
}

#[tokio::test]
async fn a_queen_that_does_not_run_is_told_with_how_to_start_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = QueenClient::new(&address.to_string(), None).unwrap().hives().await.unwrap_err();
    let expected = format!(
        "could not list the hives: no queen answers at http://{address} (Connection refused (os error 111)); start one \
         with `queen-rbee`, or give the address of the one that runs"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn what_answers_and_is_no_queen_is_told_from_one() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let (client, _tasks) = stranger(answer, true).await;
        let error = client.hives().await.unwrap_err();
        assert!(matches!(error.kind, ClientErrorKind::NotAQueen { .. }), "{answer}: {error:?}");
    }
}

#[tokio::test]
async fn a_silent_peer_does_not_hold_a_caller() {
    let (client, _tasks) = stranger("", false).await;
    let error = client.hives().await.unwrap_err();
    assert!(matches!(error.kind, ClientErrorKind::Timeout { .. }), "{error:?}");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"type\":\"queued\",\"ahead\":1}\n\n";
    let (client, _tasks) = stranger(head, false).await;
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(error.kind, ClientErrorKind::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_without_its_end_is_never_taken_for_whole() {
    const STARTED: &str =
        r#"data: {"type":"started","request_id":"r","model":"hf:a/b","worker_id":"w","hive_id":"h"}"#;
    const END: &str = r#"data: {"type":"end","tokens_out":1,"decode_time_ms":0,"stop_reason":"stop"}"#;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let leak = |text: String| -> &'static str { text.leak() };
    for rest in [
        String::new(),
        format!("{STARTED}\n\n"),
        format!("{STARTED}\n\n{END}\n\n"),
        format!("{STARTED}\n\n{END}\n\ndata: [DO"),
        format!("{STARTED}\n\ndata: [DONE]\n\n"),
        format!("{STARTED}\n\ndata: {{\"type\":\"token\"}}\n\n{END}\n\ndata: [DONE]\n\n"),
    ] {
        let (client, _tasks) = stranger(leak(format!("{head}{rest}")), true).await;
        assert!(ask(&client).await.is_err(), "{rest}");
    }
    let newer = r#"data: {"type":"of_tomorrow","x":1}"#;
    let token = r#"data: {"type":"token","t":"hi","i":0,"new":true}"#;
    let whole = format!("{head}{STARTED}\n\n{newer}\n\n{token}\n\n: comment\n\n{END}\n\ndata: [DONE]\n\n");
    let (client, _tasks) = stranger(leak(whole), true).await;
    assert_eq!(ask(&client).await.unwrap(), "hi");
}

#[tokio::test]
async fn comments_keep_a_stream_alive() {
    use futures_util::stream;
    let listener = http_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = impatient(&listener.local_addr().unwrap().to_string());
    let ticks = || async {
        let ticks = stream::unfold(0, |at| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            (at < 8).then(|| (Ok::<_, Infallible>(sse::comment("still here")), at + 1))
        });
        axum::body::Body::from_stream(ticks)
    };
    let router = axum::Router::new().route("/v1/events", axum::routing::get(ticks));
    let tasks = TaskTracker::new();
    tasks.spawn(Server::new(listener, router, Limits::default()).run());
    let events = client.events(None).await.unwrap().collect::<Vec<_>>().await;
    assert!(events.is_empty(), "it ended by itself: {events:?}");
}

//! Bodies that are wrong.

use std::time::Duration;

use http_api::Limits;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::rig::{PANIC, Queen, Wishes};

async fn told(queen: &Queen, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let answer = queen.post(path, body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_wrong_body_is_told_by_what_is_wrong_with_it() {
    let queen = Queen::alone(Wishes::default()).await;
    let deep = format!(r#"{{"model":"a/b","messages":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let mut told_all = Vec::new();
    for (path, body) in [
        ("/v1/infer", ""),
        ("/v1/infer", "{"),
        ("/v1/infer", r#"{"model":"a/b"}"#),
        ("/v1/infer", r#"{"model":"a/b","prompt":"x","max_token":1}"#),
        ("/v1/infer", r#"{"model":"a/b","prompt":"x","max_tokens":-1}"#),
        ("/v1/infer", r#"{"model":"a/b","prompt":"x","max_tokens":0}"#),
        ("/v1/infer", r#"{"model":"a/b","model":"c/d","prompt":"x"}"#),
        ("/v1/infer", r#"{"model":"../etc/passwd","prompt":"x"}"#),
        ("/v1/infer", r#"{"model":"a/b;id","prompt":"x"}"#),
        ("/v1/infer", r#"{"model":"forbidden/b","prompt":"x"}"#),
        ("/v1/infer", r#"{"model":"a/b","prompt":"x","stream":false}"#),
        ("/v1/chat/completions", ""),
        ("/v1/chat/completions", "[]"),
        ("/v1/chat/completions", r#"{"messages":[]}"#),
        ("/v1/chat/completions", r#"{"model":7}"#),
        ("/v1/chat/completions", r#"{"model":"a/b","model":"c/d"}"#),
        ("/v1/chat/completions", r#"{"model":"a b"}"#),
        ("/v1/chat/completions", "{\"model\":\"a/b\"} x"),
        ("/v1/completions", &deep),
        ("/v1/completions", r#"{"model":"forbidden/b"}"#),
        ("/v1/completions", r#"{"model":"a/b"}"#),
        ("/v1/hives/register", r#"{"hostname":"a;id"}"#),
        ("/v1/hives/register", r#"{"hostnam":"box"}"#),
        ("/v1/hives/register", r#"{"port":0}"#),
        ("/v1/hives/register", r#"{"token":"short"}"#),
        ("/v1/hives/register", r#"{"token":"0123456789abcdef","tls_fingerprint":"abc"}"#),
        (
            "/v1/hives/register",
            r#"{"tls_fingerprint":"3d6f7a5c1be2090f4c8d3e7716a5b2c4f0918273645546372819a0bbccddeeff"}"#,
        ),
        ("/v1/shutdown", r#"{"hives":"burn"}"#),
    ] {
        let (status, answer) = told(&queen, path, body.to_owned()).await;
        let sent: String = body.chars().take(60).collect();
        told_all.push(format!("{path} {sent}\n  {status} {answer}"));
    }
    insta::assert_snapshot!(told_all.join("\n"));
    let endings = queen.endings();
    assert_eq!(endings.len(), 2, "only what was a request has an end: {endings:?}");
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused() {
    let limits = Limits { body: 1000, ..Limits::default() };
    let queen = Queen::alone(Wishes { limits, ..Wishes::default() }).await;
    for path in ["/v1/infer", "/v1/completions", "/v1/hives/register"] {
        let (status, body) = told(&queen, path, "x".repeat(100_000)).await;
        assert_eq!((status, &body["error"]["code"]), (413, &json!("body_too_large")), "{path}");
    }
    let exact = format!(r#"{{"model":"a/b","prompt":"{}"}}"#, "x".repeat(1000 - 27));
    assert_eq!(exact.len(), 1000);
    let answer = queen.post("/v1/infer", exact).send().await.unwrap();
    assert_eq!(answer.status(), 200, "a stream, which says that there is no hive");
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_given_up() {
    let limits = Limits { body_pause: Duration::from_millis(200), ..Limits::default() };
    let queen = Queen::alone(Wishes { limits, ..Wishes::default() }).await;
    let mut stream = TcpStream::connect(queen.address).await.unwrap();
    let head = "POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(crate::rig::PATIENCE, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("stopped arriving"), "{answer}");
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_own_request_only() {
    let queen = Queen::alone(Wishes::default()).await;
    let body = json!({ "model": PANIC, "prompt": "x" }).to_string();
    for (path, kind) in [("/v1/infer", Value::Null), ("/v1/completions", json!("server_error"))] {
        let (status, answer) = told(&queen, path, body.clone()).await;
        assert_eq!((status, &answer["error"]["code"]), (500, &json!("internal")), "{path}");
        assert_eq!(answer["error"]["type"], kind);
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
    assert_eq!(queen.get("/healthz").send().await.unwrap().status(), 200);
}

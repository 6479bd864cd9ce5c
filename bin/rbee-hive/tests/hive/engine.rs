//! A scripted engine: this test program itself, called with `SCRIPTED_PORT` in its environment.

use std::{convert::Infallible, io::Write, sync::OnceLock, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Query,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use tokio::time::Instant;

/// The `hive.toml` entry of a scripted engine with this name and behaviour.
pub(crate) fn entry(name: &str, behaviour: &[(&str, &str)]) -> String {
    let program = std::env::current_exe().expect("this program").display().to_string();
    let mut text = format!(
        "[[engine]]\nname = {name:?}\ncommand = [{program:?}, \"--exact\", \"engine::the_scripted_engine\", \
         \"--nocapture\"]\n[engine.env]\nSCRIPTED_PORT = \"{{port}}\"\nSCRIPTED_NAME = \"{{served_name}}\"\n"
    );
    for (key, value) in behaviour {
        text.push_str(&format!("SCRIPTED_{key} = {value:?}\n"));
    }
    text
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("SCRIPTED_{name}")).ok()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

static BEGUN: OnceLock<Instant> = OnceLock::new();

/// Does nothing in the test run, and serves when a hive calls it.
#[tokio::test]
async fn the_scripted_engine() {
    let Some(port) = setting("PORT") else { return };
    BEGUN.get_or_init(Instant::now);
    if let Some(words) = setting("LAST_WORDS") {
        say(&words);
        std::process::abort();
    }
    if setting("IGNORES_TERM").is_some() {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
        tokio_util::task::TaskTracker::new().spawn(async move {
            while terminate.recv().await.is_some() {
                say("ignored");
            }
        });
    }
    let router = Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/completions", post(completions))
        .route("/headers", get(headers).post(headers))
        .route("/crash", post(crash));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port");
    axum::serve(listener, router).await.expect("serves");
}

async fn health() -> StatusCode {
    let load =
        setting("LOAD_MS").and_then(|ms| ms.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    let loaded = BEGUN.get().is_some_and(|begun| begun.elapsed() >= load);
    if loaded { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn models() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "data": [{ "id": setting("NAME").unwrap_or_default() }] }))
}

async fn crash() -> StatusCode {
    std::process::abort()
}

#[derive(Clone, Copy, serde::Deserialize)]
struct Plan {
    events: u64,
    delay_ms: u64,
    /// After how many events the process dies.
    dies_after: Option<u64>,
}

/// Tells the log when its stream was dropped before it was through.
struct Told {
    through: bool,
}

impl Drop for Told {
    fn drop(&mut self) {
        say(if self.through { "through" } else { "cancelled" });
    }
}

async fn completions(Query(plan): Query<Plan>) -> Response {
    let events = stream::unfold((0, Told { through: false }), move |(number, mut told)| async move {
        if plan.dies_after == Some(number) {
            std::process::abort();
        }
        if number == plan.events {
            told.through = true;
            drop(told);
            return None;
        }
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(plan.delay_ms)).await;
        }
        Some((Ok::<_, Infallible>(Bytes::from(format!("data: {number}\n\n"))), (number + 1, told)))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

/// Answers with what an engine should not send, and with the names of what it was sent.
async fn headers(request: axum::extract::Request) -> Response {
    let mut names: Vec<String> = request.headers().keys().map(ToString::to_string).collect();
    names.sort();
    let mut response = Json(names).into_response();
    for name in ["set-cookie", "location", "x-secret"] {
        response.headers_mut().insert(name, HeaderValue::from_static("x"));
    }
    response
}

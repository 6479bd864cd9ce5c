//! A scripted engine: this test program itself, called with `SCRIPTED_PORT` in its environment.

use axum::{
    Json, Router,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use serde_json::{Value, json};

/// The `hive.toml` of a hive that starts it.
pub(crate) fn hive_toml() -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        "[[engine]]\nname = \"scripted\"\ncommand = [{program:?}, \"--exact\", \"engine::the_scripted_engine\", \
         \"--nocapture\"]\n[engine.env]\nSCRIPTED_PORT = \"{{port}}\"\nSCRIPTED_NAME = \"{{served_name}}\"\n"
    )
}

/// Does nothing in the test run, and serves when a hive calls it.
#[tokio::test]
async fn the_scripted_engine() {
    let Ok(port) = std::env::var("SCRIPTED_PORT") else { return };
    let name = std::env::var("SCRIPTED_NAME").unwrap_or_default();
    let models = json!({ "data": [{ "id": name }] });
    let router = Router::new()
        .route("/health", get(StatusCode::OK))
        .route("/v1/models", get(move || std::future::ready(Json(models))))
        .route("/v1/completions", post(completions));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    axum::serve(listener, router).await.unwrap();
}

/// As many words as were asked for.
async fn completions(Json(request): Json<Value>) -> impl IntoResponse {
    let most = request["max_tokens"].as_u64().unwrap_or(8);
    let frame = |value: Value| format!("data: {value}\n\n");
    let words = (0..most).map(|at| frame(json!({ "choices": [{ "index": 0, "text": format!(" w{at}") }] })));
    let end = frame(json!({
        "choices": [{ "index": 0, "text": "", "finish_reason": "length" }], "usage": { "completion_tokens": most }
    }));
    let body: String = words.chain([end, "data: [DONE]\n\n".to_owned()]).collect();
    ([("content-type", "text/event-stream")], body)
}

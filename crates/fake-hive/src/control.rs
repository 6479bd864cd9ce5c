//! The second port, by which another process steers the hive: loopback only, no token.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Act, state::Core};

type Shared = State<Arc<Core>>;

/// What it offers:
///
/// - `GET /script`, `PUT /script` (merged over the one in force), `DELETE /script` (back to the default);
/// - `GET /journal?after=SEQ`, `DELETE /journal`;
/// - `POST /act`, an [`Act`];
/// - `GET /hive`: id, launch, url and token, for a test that attaches it; `GET /workers`: the true records.
pub(crate) fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route("/script", get(script).put(merge_script).delete(reset_script))
        .route("/journal", get(journal).delete(clear_journal))
        .route("/act", post(act))
        .route("/hive", get(hive))
        .route("/workers", get(workers))
        .with_state(core)
}

fn refused(status: StatusCode, error: &dyn std::error::Error) -> Response {
    let message = causes::with_causes(error);
    (status, Json(json!({ "error": { "message": message } }))).into_response()
}

async fn script(State(core): Shared) -> Response {
    Json(core.script().as_ref()).into_response()
}

async fn merge_script(State(core): Shared, Json(patch): Json<Value>) -> Response {
    match core.script().with(&patch) {
        Ok(script) => {
            core.set_script(script);
            Json(core.script().as_ref()).into_response()
        }
        Err(error) => refused(StatusCode::BAD_REQUEST, &error),
    }
}

async fn reset_script(State(core): Shared) -> StatusCode {
    core.set_script(crate::Script::default());
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

async fn journal(State(core): Shared, Query(query): Query<After>) -> Response {
    let mut calls = core.journal.calls();
    if let Some(after) = query.after {
        calls.retain(|call| call.seq > after);
    }
    Json(calls).into_response()
}

async fn clear_journal(State(core): Shared) -> StatusCode {
    core.journal.clear();
    StatusCode::NO_CONTENT
}

async fn act(State(core): Shared, Json(act): Json<Value>) -> Response {
    let act: Act = match serde_json::from_value(act) {
        Ok(act) => act,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error),
    };
    match core.act(act).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refused(StatusCode::CONFLICT, &error),
    }
}

async fn hive(State(core): Shared) -> Response {
    let launch_id = core.state().launch_id.clone();
    let url = format!("http://{}", core.host.with_port(core.port));
    let token = core.token.reveal();
    Json(json!({ "hive_id": core.hive_id, "launch_id": launch_id, "url": url, "port": core.port, "token": token }))
        .into_response()
}

async fn workers(State(core): Shared) -> Response {
    let records: Vec<_> = core.state().workers.values().map(|w| w.record.clone()).collect();
    Json(records).into_response()
}

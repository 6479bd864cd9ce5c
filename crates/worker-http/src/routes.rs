//! The routes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;

use crate::answer::{self, Head};
use crate::error::ApiError;
use crate::generation;
use crate::request::{self, Dialect};
use crate::worker::Worker;

/// The largest request body, in bytes.
const BODY_LIMIT: usize = 32 << 20;

/// The HTTP surface of a worker.
///
/// | route | meaning |
/// | --- | --- |
/// | `GET /health` | 200 `{"status":"ok"}`, or 503 with `loading model` or `stopping` |
/// | `GET /v1/models` | the one model |
/// | `POST /v1/completions`, `POST /v1/chat/completions` | OpenAI's |
/// | `GET /rbee/status` | slots, requests waiting, and token totals that only grow |
pub fn router(worker: Arc<Worker>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/rbee/status", get(status))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::disable())
        .with_state(worker)
}

/// In the words of llama.cpp's server, so that whoever can wait for that one can wait for this one.
async fn health(State(worker): State<Arc<Worker>>) -> Response {
    match worker.engine() {
        Ok(_) => Json(json!({"status": "ok"})).into_response(),
        Err(ApiError::Loading) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "loading model"}))).into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "stopping"}))).into_response(),
    }
}

async fn models(State(worker): State<Arc<Worker>>) -> Response {
    let context = worker.engine().ok().map(|engine| engine.context());
    let model = json!({
        "id": worker.served_name(), "object": "model", "created": worker.created(), "owned_by": "queen-rbee",
        "max_model_len": context,
    });
    Json(json!({"object": "list", "data": [model]})).into_response()
}

async fn status(State(worker): State<Arc<Worker>>) -> Response {
    Json(worker.status()).into_response()
}

async fn completions(State(worker): State<Arc<Worker>>, request: Request) -> Result<Response, ApiError> {
    generate(Dialect::Completion, worker, request).await
}

async fn chat(State(worker): State<Arc<Worker>>, request: Request) -> Result<Response, ApiError> {
    generate(Dialect::Chat, worker, request).await
}

async fn unknown(request: Request) -> ApiError {
    ApiError::UnknownRoute { method: request.method().to_string(), path: request.uri().path().to_owned() }
}

async fn generate(dialect: Dialect, worker: Arc<Worker>, request: Request) -> Result<Response, ApiError> {
    let body = body(request).await?;
    let ask = request::parse(dialect, &body, worker.served_name())?;
    drop(body);
    let stream = ask.stream;
    let generation = generation::begin(&worker, ask).await?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let head = Head::new(dialect, &worker, created);
    let Some(options) = stream else {
        return Ok(Json(answer::collect(&head, generation).await?).into_response());
    };
    let mut response = Body::from_stream(answer::frames(head, generation, options)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// The body, read here instead of by an extractor so that what is wrong with it is said in OpenAI's shape.
async fn body(request: Request) -> Result<Bytes, ApiError> {
    match Limited::new(request.into_body(), BODY_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::BodyTooLarge { limit: BODY_LIMIT }),
        Err(_) => Err(ApiError::BadBody("the body did not arrive whole".to_owned())),
    }
}

#[cfg(test)]
mod tests;

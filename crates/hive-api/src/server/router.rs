//! Paths, methods and the order of checks: launch first, then token, then the call.

mod extract;
mod guard;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, delete, get, post},
};
use fleet::{DownloadId, ModelRef, WorkerId};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;

use self::{
    extract::{JsonBody, Params, byte_range, invalid, parsed},
    guard::guard,
};
use super::{ByteRange, Hive, HiveResult};
use crate::{
    BODY_MAX, BlobWritten, DownloadRequest, ErrorBody, ErrorCode, ErrorDetail, LAUNCH_HEADER, LogsReply,
    ShutdownReply, ShutdownRequest, SpawnRequest, StopWorkerRequest, WORKER_HEADER,
};

type Shared<H> = State<Arc<H>>;

impl IntoResponse for ErrorDetail {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self })).into_response()
    }
}

/// Puts a hive on HTTP.
pub fn router<H: Hive>(hive: Arc<H>) -> Router {
    let control = Router::new()
        .route("/v1/capabilities", get(|State(h): Shared<H>| async move { h.capabilities().await.map(Json) }))
        .route("/v1/watch", get(watch::<H>))
        .route("/v1/workers/list", get(|State(h): Shared<H>| async move { h.workers().await.map(Json) }))
        .route("/v1/workers/spawn", post(spawn::<H>))
        .route("/v1/workers/{id}/stop", post(stop_worker::<H>))
        .route("/v1/models/list", get(|State(h): Shared<H>| async move { h.models().await.map(Json) }))
        .route("/v1/models/inspect", get(inspect::<H>))
        .route("/v1/models/download", post(download::<H>))
        .route("/v1/models/download/progress", get(download_progress::<H>))
        .route("/v1/models", delete(delete_model::<H>))
        .route("/v1/models/blob/{digest}/grant", post(grant_blob::<H>))
        .route("/v1/logs", get(logs::<H>))
        .route("/v1/shutdown", post(shutdown::<H>))
        .route("/metrics", get(metrics::<H>))
        .layer(DefaultBodyLimit::max(BODY_MAX));
    // Bodies that are streamed through have no bound of their own: the queen has capped a prompt, and a file is a file.
    let streamed = Router::new()
        .route("/v1/models/blob/{digest}", get(read_blob::<H>).put(write_blob::<H>))
        .route("/v1/workers/{id}/proxy/{*path}", any(proxy::<H>))
        .layer(DefaultBodyLimit::disable());
    // Whoever looks for a hive has neither its launch nor its token yet.
    let open = Router::new()
        .route("/v1/health", get(|State(h): Shared<H>| async move { Json(h.health()) }))
        .method_not_allowed_fallback(wrong_method);
    control
        .merge(streamed)
        .fallback(|| async { ErrorDetail::new(ErrorCode::NotFound, "no such path; see docs/hive-api.md") })
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&hive), guard::<H>))
        .merge(open)
        .with_state(hive)
}

async fn wrong_method() -> ErrorDetail {
    ErrorDetail::new(ErrorCode::MethodNotAllowed, "this path takes another method; see docs/hive-api.md")
}

fn worker_id(text: &str) -> HiveResult<WorkerId> {
    parsed("the worker's id", text)
}

/// An event stream that proxies and browsers do not hold back.
fn event_stream(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events.map(Ok::<_, std::convert::Infallible>))).into_response()
}

async fn watch<H: Hive>(State(hive): Shared<H>) -> HiveResult<Response> {
    let events = hive.watch().await?;
    Ok(event_stream(events.map(|event| sse::event(event.name(), &event.to_json()))))
}

async fn spawn<H: Hive>(
    State(hive): Shared<H>,
    JsonBody(request): JsonBody<SpawnRequest>,
) -> HiveResult<Response> {
    if !(1..=64).contains(&request.idempotency_key.len()) {
        return Err(invalid("idempotency_key", "must have 1 to 64 characters"));
    }
    if request.context == Some(0) || request.slots == Some(0) {
        return Err(invalid("context and slots", "must be at least 1"));
    }
    Ok((StatusCode::ACCEPTED, Json(hive.spawn(request).await?)).into_response())
}

async fn stop_worker<H: Hive>(
    State(hive): Shared<H>,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<StopWorkerRequest>,
) -> HiveResult<Response> {
    let record = hive.stop_worker(&worker_id(&id)?, request).await?;
    Ok((StatusCode::ACCEPTED, Json(record)).into_response())
}

#[derive(Deserialize)]
struct ByRef {
    r#ref: String,
}

async fn inspect<H: Hive>(State(hive): Shared<H>, Params(query): Params<ByRef>) -> HiveResult<Response> {
    let model: ModelRef = parsed("ref", &query.r#ref)?;
    Ok(Json(hive.inspect(&model).await?).into_response())
}

async fn delete_model<H: Hive>(
    State(hive): Shared<H>,
    Params(query): Params<ByRef>,
) -> HiveResult<StatusCode> {
    let model: ModelRef = parsed("ref", &query.r#ref)?;
    hive.delete_model(&model).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn download<H: Hive>(
    State(hive): Shared<H>,
    JsonBody(request): JsonBody<DownloadRequest>,
) -> HiveResult<Response> {
    Ok((StatusCode::ACCEPTED, Json(hive.download(request).await?)).into_response())
}

#[derive(Deserialize)]
struct ById {
    id: String,
}

async fn download_progress<H: Hive>(
    State(hive): Shared<H>,
    Params(query): Params<ById>,
) -> HiveResult<Response> {
    let id: DownloadId = parsed("id", &query.id)?;
    let records = hive.download_progress(&id).await?;
    Ok(event_stream(records.map(|record| {
        let json =
            serde_json::to_string(&record).unwrap_or_else(|_| unreachable!("strings and numbers only"));
        sse::event("download", &json)
    })))
}

async fn grant_blob<H: Hive>(State(hive): Shared<H>, Path(digest): Path<String>) -> HiveResult<Response> {
    let grant = hive.grant_blob(&parsed("the digest", &digest)?).await?;
    Ok(Json(grant).into_response())
}

async fn read_blob<H: Hive>(
    State(hive): Shared<H>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> HiveResult<Response> {
    let range = byte_range(&headers)?;
    let wanted = range.unwrap_or(ByteRange { start: 0, end: None });
    let blob = hive.read_blob(&parsed("the digest", &digest)?, wanted).await?;
    let mut response = Response::new(blob.body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, (blob.end - blob.start).into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if range.is_some() {
        let text = format!("bytes {}-{}/{}", blob.start, blob.end.saturating_sub(1), blob.total);
        let value =
            HeaderValue::from_str(&text).map_err(|e| ErrorDetail::new(ErrorCode::Internal, e.to_string()))?;
        headers.insert(header::CONTENT_RANGE, value);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

#[derive(Deserialize)]
struct AtOffset {
    offset: u64,
}

async fn write_blob<H: Hive>(
    State(hive): Shared<H>,
    Path(digest): Path<String>,
    Params(query): Params<AtOffset>,
    request: Request,
) -> HiveResult<Response> {
    let bytes = hive.write_blob(&parsed("the digest", &digest)?, query.offset, request.into_body()).await?;
    Ok(Json(BlobWritten { bytes }).into_response())
}

async fn metrics<H: Hive>(State(hive): Shared<H>) -> Response {
    // The text format's own type, which scrapers ask for.
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], hive.metrics()).into_response()
}

#[derive(Deserialize)]
struct LogQuery {
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    lines: Option<usize>,
}

async fn logs<H: Hive>(State(hive): Shared<H>, Params(query): Params<LogQuery>) -> HiveResult<Response> {
    let worker = match query.source.as_deref() {
        None | Some("hive") => None,
        Some(id) => Some(worker_id(id)?),
    };
    let lines = hive.logs(worker.as_ref(), query.lines.unwrap_or(100).min(10_000)).await?;
    Ok(Json(LogsReply { lines }).into_response())
}

async fn shutdown<H: Hive>(
    State(hive): Shared<H>,
    JsonBody(request): JsonBody<ShutdownRequest>,
) -> HiveResult<Response> {
    hive.shutdown(request).await?;
    Ok((StatusCode::ACCEPTED, Json(ShutdownReply { status: "stopping".to_owned() })).into_response())
}

async fn proxy<H: Hive>(
    State(hive): Shared<H>,
    Path((id, _)): Path<(String, String)>,
    request: Request,
) -> HiveResult<Response> {
    let worker = worker_id(&id)?;
    let (mut head, body) = request.into_parts();
    // The path goes on exactly as it came, escapes and all, so the prefix is cut from the raw text.
    let prefix = format!("/v1/workers/{id}/proxy");
    let path = head.uri.path_and_query().map_or("", |p| p.as_str());
    head.uri = path
        .strip_prefix(&prefix)
        .and_then(|rest| rest.parse().ok())
        .ok_or_else(|| ErrorDetail::new(ErrorCode::NotFound, "no such path below the worker's proxy"))?;
    head.headers.remove(LAUNCH_HEADER);
    head.headers.remove(header::AUTHORIZATION);
    let mut response = hive.proxy(&worker, head, body).await?;
    if let Ok(value) = HeaderValue::from_str(worker.as_str()) {
        response.headers_mut().insert(WORKER_HEADER, value);
    }
    Ok(response)
}

//! `/healthz`, `/readyz`, `/v1/events`, `/v1/decisions/…`, `/v1/logs` and `/v1/shutdown`.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fleet::{HivePhase, RequestDecisions};
use futures_util::{StreamExt as _, stream};
use queen_api::{
    ErrorCode, HealthReply, LogSource, LogsReply, ReadyReply, ReadyState, ShutdownReply, ShutdownRequest,
};
use serde::Deserialize;

use crate::{
    Api, StopOrder,
    body::{JsonBody, commented, event_stream},
    error::ApiError,
};

/// Lines of a log that are shown to whoever does not say how many.
const LOG_LINES: usize = 100;

/// Most lines of a log that are shown.
const LOG_LINES_MAX: usize = 10_000;

pub(crate) async fn health() -> Json<HealthReply> {
    Json(HealthReply { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(crate) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let view = api.parts.registry.view();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let hives_online = count(view.hives().filter(|hive| hive.phase == HivePhase::Online).count());
    let workers_ready = count(view.workers().filter(|worker| worker.record.state.is_ready()).count());
    let stopping = api.stopping.is_cancelled();
    let (code, status) = if stopping {
        (StatusCode::SERVICE_UNAVAILABLE, ReadyState::Stopping)
    } else {
        (StatusCode::OK, ReadyState::Ready)
    };
    (code, Json(ReadyReply { status, hives_online, workers_ready })).into_response()
}

#[derive(Deserialize)]
pub(crate) struct EventsQuery {
    /// The number of the last event that the reader has.
    #[serde(default)]
    since: Option<u64>,
}

/// Events as they happen; with `?since=N` first those that came after N and are still remembered.
pub(crate) async fn events(
    State(api): State<Arc<Api>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| {
        ApiError::new(ErrorCode::InvalidRequest, format!("the query: {}", error.body_text()))
    })?;
    let subscription = api.parts.journal.subscribe(query.since);
    let every = api.parts.limits.comment_every;
    let router = Arc::clone(&api.parts.router);
    let stopping = api.stopping.clone();
    // Readers see the queen to its end: how the last requests ended is what they are there for.
    let over = Box::pin(async move {
        stopping.cancelled().await;
        router.idle().await;
    });
    let events = stream::unfold((subscription, over), move |(mut subscription, mut over)| async move {
        let piece = tokio::select! {
            biased;
            event = subscription.next() => match event {
                Ok(event) => {
                    let json = serde_json::to_string(&*event).unwrap_or_else(|_| unreachable!("names and numbers only"));
                    sse::data(&json)
                }
                Err(lagged) => sse::data(&serde_json::json!({ "type": "lagged", "missed": lagged.missed }).to_string()),
            },
            () = &mut over => return None,
        };
        Some((piece, (subscription, over)))
    });
    Ok(event_stream(commented(events, every, "nothing happened").map(Ok::<_, Infallible>)))
}

/// Why a request went where it went.
pub(crate) async fn decisions(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<RequestDecisions>, ApiError> {
    let unknown = || {
        let id = id.escape_debug();
        let message = format!(
            "nothing is remembered of a request {id}; its name is in the answer's `x-request-id`, and the queen \
             remembers the last requests since she started"
        );
        ApiError::new(ErrorCode::NotFound, message)
    };
    let found = id.parse().ok().and_then(|id| api.parts.router.decisions().of(&id));
    found.map(Json).ok_or_else(unknown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    source: String,
    lines: Option<usize>,
}

/// The last lines of a hive's or a worker's log, which lie on the hive's machine.
pub(crate) async fn logs(
    State(api): State<Arc<Api>>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<LogsReply>, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::InvalidRequest, message);
    let Query(query) = query.map_err(|error| invalid(format!("the query: {}", error.body_text())))?;
    let lines = query.lines.unwrap_or(LOG_LINES).min(LOG_LINES_MAX);
    let (hive, worker) = match query.source.parse().map_err(|error| invalid(format!("source: {error}")))? {
        LogSource::Hive(hive) => (hive, None),
        LogSource::Worker(hive, worker) => (hive, Some(worker)),
    };
    let lines = api.parts.manager.logs(&hive, worker.as_ref(), lines).await?;
    Ok(Json(LogsReply { lines }))
}

pub(crate) async fn shutdown(
    State(api): State<Arc<Api>>,
    JsonBody(request): JsonBody<ShutdownRequest>,
) -> Result<Response, ApiError> {
    // A full channel means that somebody asked before: the queen is stopping.
    let _ = api.parts.stop.try_send(StopOrder { hives: request.hives });
    let reply = ShutdownReply { status: "stopping".to_owned(), process: api.parts.process.clone() };
    Ok((StatusCode::ACCEPTED, Json(reply)).into_response())
}

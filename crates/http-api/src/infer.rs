//! `POST /v1/infer`.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use fleet::{ModelRef, RequestId};
use futures_util::{StreamExt as _, stream};
use queen_api::{ErrorCode, ErrorDetail, InferEvent, InferReply, InferRequest};
use tokio::sync::mpsc;

use crate::{
    Api,
    body::{JsonBody, commented, event_stream, names},
    error::ApiError,
    terms::terms,
};

/// Events that may wait for a client that reads slowly.
const EVENTS: usize = 64;

impl Api {
    /// What a client's model name means: an alias, or a reference that may be asked for here.
    pub(crate) fn model(&self, text: &str) -> Result<ModelRef, ErrorDetail> {
        if let Some(model) = self.parts.aliases.get(text) {
            return Ok(model.clone());
        }
        let model = self.named.read(text).map_err(|error| {
            let message = format!("model {:?}: {error}", text.chars().take(256).collect::<String>());
            ErrorDetail::new(ErrorCode::InvalidRequest, message)
        })?;
        if !(self.parts.may_introduce)(&model) && self.parts.registry.view().serving(&model).is_empty() {
            let message =
                format!("{model} is not among the models that `models.allow` of the configuration lets in");
            return Err(ErrorDetail::new(ErrorCode::ModelNotFound, message));
        }
        Ok(model)
    }

    pub(crate) fn refuse_when_stopping(&self) -> Result<(), ErrorDetail> {
        if self.stopping.is_cancelled() {
            return Err(ErrorDetail::new(ErrorCode::Stopping, "the queen is stopping"));
        }
        Ok(())
    }
}

pub(crate) async fn infer(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<InferRequest>,
) -> Result<Response, ApiError> {
    api.refuse_when_stopping().map_err(ApiError)?;
    let model = api.model(&request.model).map_err(ApiError)?;
    if request.max_tokens == 0 {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "max_tokens: at least 1"));
    }
    let terms = terms(&headers).map_err(ApiError)?;
    let stream = request.stream;
    let (sender, events) = mpsc::channel(EVENTS);
    let router = Arc::clone(&api.parts.router);
    let task = router::infer(router, id, model, request, terms, sender);
    if !stream {
        // In this task: should the client leave, the request ends with it.
        let (reply, ()) = tokio::join!(whole(events), task);
        return reply.map_err(ApiError).map(with_names);
    }
    api.streams.spawn(task);
    Ok(events_to_client(&api, events))
}

fn with_names(reply: InferReply) -> Response {
    let names_of = router::names(&reply.worker_id, &reply.hive_id);
    let (attempts, queued) = (reply.attempts, reply.queued_ms);
    let mut response = Json(reply).into_response();
    names(response.headers_mut(), names_of, attempts, queued);
    response
}

fn events_to_client(api: &Api, events: mpsc::Receiver<InferEvent>) -> Response {
    let pieces = stream::unfold(Some(events), move |events| async move {
        let mut events = events?;
        let (piece, rest) = match events.recv().await {
            // The task says how it ends; one that did not has panicked.
            None => (line(&ErrorDetail::new(ErrorCode::Internal, "the answer had no end").into()), None),
            Some(event @ InferEvent::Error { .. }) => (line(&event), None),
            Some(event @ InferEvent::End { .. }) => {
                ([line(&event), sse::data("[DONE]")].concat().into(), None)
            }
            Some(event) => (line(&event), Some(events)),
        };
        Some((piece, rest))
    });
    event_stream(commented(pieces, api.parts.limits.comment_every, "waiting").map(Ok::<_, Infallible>))
}

fn line(event: &InferEvent) -> Bytes {
    let json =
        serde_json::to_string(event).unwrap_or_else(|_| unreachable!("strings and finite numbers only"));
    sse::data(&json)
}

/// Collects an answer for `"stream": false`.
async fn whole(mut events: mpsc::Receiver<InferEvent>) -> Result<InferReply, ErrorDetail> {
    let mut text = String::new();
    let mut started = None;
    while let Some(event) = events.recv().await {
        match event {
            InferEvent::Queued { .. } | InferEvent::Loading { .. } => {}
            InferEvent::Started { request_id, model, worker_id, hive_id, attempts, queued_ms } => {
                started = Some((request_id, model, worker_id, hive_id, attempts, queued_ms));
            }
            InferEvent::Token { t, .. } => text.push_str(&t),
            InferEvent::End { tokens_out, decode_time_ms, stop_reason, continued } => {
                let Some((request_id, model, worker_id, hive_id, attempts, queued_ms)) = started else {
                    break;
                };
                return Ok(InferReply {
                    request_id,
                    model,
                    worker_id,
                    hive_id,
                    attempts,
                    queued_ms,
                    text,
                    tokens_out,
                    decode_time_ms,
                    stop_reason,
                    continued,
                });
            }
            InferEvent::Error { code, message, details } => {
                return Err(ErrorDetail { code, message, details });
            }
        }
    }
    Err(ErrorDetail::new(ErrorCode::Internal, "the answer had no end"))
}

//! `POST /v1/infer`.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use fleet::{ModelRef, RequestId};
use futures_util::{StreamExt, stream};
use queen_api::{
    ErrorCode, ErrorDetail, HIVE_HEADER, InferEvent, InferReply, InferRequest, REQUEST_ID_HEADER,
    WORKER_HEADER,
};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    Api,
    body::{JsonBody, event_stream, name, request_id},
    error::ApiError,
};

/// Events that may wait for a client that reads slowly.
const EVENTS: usize = 64;

impl Api {
    /// What a client's model name means: an alias, or a reference that may be asked for here.
    pub(crate) fn model(&self, text: &str) -> Result<ModelRef, ErrorDetail> {
        if let Some(model) = self.parts.aliases.get(text) {
            return Ok(model.clone());
        }
        let model = text.parse().map_err(|error| {
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
    headers: HeaderMap,
    JsonBody(request): JsonBody<InferRequest>,
) -> Result<Response, ApiError> {
    api.refuse_when_stopping().map_err(ApiError)?;
    let model = api.model(&request.model).map_err(ApiError)?;
    let id = request_id(&headers);
    let stream = request.stream;
    let (sender, events) = mpsc::channel(EVENTS);
    let router = Arc::clone(&api.parts.router);
    let task = router::infer(router, id.clone(), model, request, sender);
    if !stream {
        // In this task: should the client leave, the request ends with it.
        let (reply, ()) = tokio::join!(whole(events), task);
        return reply.map_err(ApiError).map(|reply| with_names(&id, reply));
    }
    api.streams.spawn(task);
    let mut response = events_to_client(&api, events);
    name(response.headers_mut(), REQUEST_ID_HEADER, id.as_str());
    Ok(response)
}

fn with_names(id: &RequestId, reply: InferReply) -> Response {
    let (worker, hive) = (reply.worker_id.clone(), reply.hive_id.clone());
    let mut response = Json(reply).into_response();
    let headers = response.headers_mut();
    name(headers, REQUEST_ID_HEADER, id.as_str());
    name(headers, WORKER_HEADER, worker.as_str());
    name(headers, HIVE_HEADER, hive.as_str());
    response
}

fn events_to_client(api: &Api, events: mpsc::Receiver<InferEvent>) -> Response {
    let comment_every = api.parts.limits.comment_every;
    event_stream(
        stream::unfold(events, move |mut events| async move {
            let piece = match timeout(comment_every, events.recv()).await {
                Err(_) => sse::comment("waiting"),
                Ok(None) => return None,
                Ok(Some(event)) => {
                    let is_end = matches!(event, InferEvent::End { .. });
                    let mut piece = line(&event).to_vec();
                    if is_end {
                        piece.extend_from_slice(&sse::data("[DONE]"));
                    }
                    piece.into()
                }
            };
            Some((Ok::<Bytes, Infallible>(piece), events))
        })
        .fuse(),
    )
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
            InferEvent::Started { request_id, model, worker_id, hive_id } => {
                started = Some((request_id, model, worker_id, hive_id));
            }
            InferEvent::Token { t, .. } => text.push_str(&t),
            InferEvent::End { tokens_out, decode_time_ms, stop_reason } => {
                let Some((request_id, model, worker_id, hive_id)) = started else { break };
                return Ok(InferReply {
                    request_id,
                    model,
                    worker_id,
                    hive_id,
                    text,
                    tokens_out,
                    decode_time_ms,
                    stop_reason,
                });
            }
            InferEvent::Error { code, message, details } => {
                return Err(ErrorDetail { code, message, details });
            }
        }
    }
    Err(ErrorDetail::new(ErrorCode::Internal, "the answer had no end"))
}

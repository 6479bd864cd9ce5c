//! A request at a worker: what it asks for, whether a slot is free, and which fault it meets.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use fleet::WorkerId;
use futures_util::{StreamExt, stream};
use hive_api::{ErrorCode, ErrorDetail, server::HiveResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    generation::Generation,
    openai::{self, Asked},
};
use crate::{
    garbage,
    journal::{OpenCall, Outcome},
    script::{Busy, Moment, WorkerAct, WorkerFault, WorkerScript},
    state::{Core, FaultKey, refused},
};

/// Largest body that a worker reads, in bytes.
const BODY_MAX: usize = 32 << 20;

/// The worker whose id an answer claims to be from, for the layer that sees the answer last.
#[derive(Debug, Clone)]
pub(crate) struct ClaimedWorkerId(pub(crate) WorkerId);

/// A slot in use.
pub(super) struct Slot {
    core: Arc<Core>,
    worker: WorkerId,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn new(core: Arc<Core>, worker: WorkerId, permit: OwnedSemaphorePermit) -> Self {
        core.count(&worker, |record| record.slots_busy += 1);
        Self { core, worker, _permit: permit }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.core.count(&self.worker, |record| record.slots_busy = record.slots_busy.saturating_sub(1));
    }
}

pub(super) fn json(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Nothing was sent to the worker, so the request may be sent elsewhere freely.
fn not_sent(worker: &WorkerId) -> ErrorDetail {
    refused(ErrorCode::WorkerUnreachable, format!("worker {worker} takes no connection"))
        .with_details(serde_json::json!({ "sent": false }))
}

/// The worker may have read the request.
pub(super) fn broke_off(worker: &WorkerId) -> ErrorDetail {
    refused(ErrorCode::WorkerUnreachable, format!("worker {worker} ended without an answer"))
        .with_details(serde_json::json!({ "sent": true }))
}

impl Core {
    /// Changes a worker's counters; the change is reported with the next round.
    pub(super) fn count(&self, worker: &WorkerId, change: impl FnOnce(&mut fleet::WorkerRecord)) {
        if let Some(worker) = self.state().workers.get_mut(worker) {
            change(&mut worker.record);
            worker.dirty = true;
        }
    }

    /// The answer of a worker to a request.
    pub(crate) async fn ask_worker(
        self: &Arc<Self>,
        worker: &WorkerId,
        head: Parts,
        body: Body,
    ) -> HiveResult<Response> {
        let slots = self.reachable(worker)?;
        self.moving(worker).await?;
        let call = head.extensions.get::<OpenCall>().cloned();
        let script = self.script_of(worker);
        let mut response = match head.uri.path() {
            "/health" => json(200, "{\"status\":\"ok\"}".to_owned()),
            "/v1/models" => self.served_model(worker),
            "/v1/completions" => self.complete(worker, &script, slots, call, false, body).await?,
            "/v1/chat/completions" => self.complete(worker, &script, slots, call, true, body).await?,
            _ => json(404, openai::error(404, "no such path")),
        };
        if let Some(claimed) = script.claims_worker_id {
            response.extensions_mut().insert(ClaimedWorkerId(claimed));
        }
        Ok(response)
    }

    /// The slots of a worker that takes requests.
    fn reachable(&self, worker: &WorkerId) -> HiveResult<Arc<Semaphore>> {
        let state = self.state();
        let Some(found) = state.workers.get(worker) else {
            return Err(refused(ErrorCode::NotFound, format!("this launch has no worker {worker}")));
        };
        if !found.record.state.is_ready() {
            let name = found.record.state.name().as_str();
            let details = serde_json::json!({ "state": name, "sent": false });
            let error = refused(ErrorCode::WorkerNotReady, format!("worker {worker} is {name}"));
            return Err(error.with_details(details));
        }
        let answers = found.answers_from.is_some_and(|from| Instant::now() >= from);
        if found.death.borrow().is_some() || !answers {
            return Err(not_sent(worker));
        }
        Ok(Arc::clone(&found.slots))
    }

    /// Waits while the worker is stopped in its tracks.
    async fn moving(&self, worker: &WorkerId) -> HiveResult<()> {
        let found = self.state().workers.get(worker).map(|w| (w.frozen.subscribe(), w.death.subscribe()));
        let Some((mut frozen, mut death)) = found else { return Err(broke_off(worker)) };
        tokio::select! {
            _ = death.wait_for(Option::is_some) => Err(broke_off(worker)),
            _ = frozen.wait_for(|frozen| !frozen) => Ok(()),
        }
    }

    fn served_model(&self, worker: &WorkerId) -> Response {
        let model = self.state().workers.get(worker).map(|w| w.record.model_ref.to_string());
        let list = serde_json::json!({ "object": "list", "data": [{ "id": model, "object": "model" }] });
        json(200, list.to_string())
    }

    /// The first fault of the script that this request meets.
    fn fault_of(&self, worker: &WorkerId, script: &WorkerScript, prompt: &str) -> Option<WorkerFault> {
        let fits = |fault: &WorkerFault| fault.prompt_contains.as_deref().is_none_or(|p| prompt.contains(p));
        let mut fitting = script.faults.iter().enumerate().filter(|(_, fault)| fits(fault));
        fitting.find_map(|(index, fault)| {
            let key = FaultKey::Worker(worker.clone(), index);
            self.may_use(key, fault.times).then(|| fault.clone())
        })
    }

    async fn complete(
        self: &Arc<Self>,
        worker: &WorkerId,
        script: &WorkerScript,
        slots: Arc<Semaphore>,
        call: Option<OpenCall>,
        chat: bool,
        body: Body,
    ) -> HiveResult<Response> {
        let Ok(body) = axum::body::to_bytes(body, BODY_MAX).await else {
            return Ok(json(413, openai::error(413, "the body could not be read")));
        };
        let asked = match Asked::parse(chat, &body) {
            Ok(asked) => asked,
            Err(reason) => return Ok(json(400, openai::error(400, &reason))),
        };
        if let Some(call) = &call {
            call.prompt(asked.model.as_deref(), &asked.prompt);
        }
        let fault = self.fault_of(worker, script, &asked.prompt);
        let at_once = |fault: &WorkerFault| {
            !asked.stream
                || matches!(fault.at, Moment::Accept | Moment::Request)
                || matches!(fault.act, WorkerAct::Slow { .. })
        };
        if let Some(fault) = fault.as_ref().filter(|fault| at_once(fault))
            && let Some(answer) = self.act_at_once(worker, fault, call.as_ref()).await
        {
            return answer;
        }
        let slot = match (Arc::clone(&slots).try_acquire_owned(), script.busy) {
            (Ok(permit), _) => Slot::new(Arc::clone(self), worker.clone(), permit),
            (Err(_), Busy::TooManyRequests) => {
                return Ok(json(429, openai::error(429, "all slots are busy")));
            }
            (Err(_), Busy::Unavailable) => return Ok(json(503, openai::error(503, "all slots are busy"))),
            (Err(_), Busy::Queue) => self.wait_for_slot(worker, slots).await?,
        };
        let Some(generation) = Generation::new(self, worker, script, asked, fault, call, slot) else {
            return Err(broke_off(worker));
        };
        respond(generation, script.early_head).await
    }

    async fn wait_for_slot(self: &Arc<Self>, worker: &WorkerId, slots: Arc<Semaphore>) -> HiveResult<Slot> {
        let death = self.state().workers.get(worker).map(|w| w.death.subscribe());
        let Some(mut death) = death else { return Err(broke_off(worker)) };
        tokio::select! {
            permit = slots.acquire_owned() => match permit {
                Ok(permit) => Ok(Slot::new(Arc::clone(self), worker.clone(), permit)),
                Err(_) => Err(broke_off(worker)),
            },
            _ = death.wait_for(Option::is_some) => Err(broke_off(worker)),
        }
    }

    /// A fault before anything was answered; none when the request goes on all the same.
    async fn act_at_once(
        &self,
        worker: &WorkerId,
        fault: &WorkerFault,
        call: Option<&OpenCall>,
    ) -> Option<HiveResult<Response>> {
        let act = &fault.act;
        let wire = self.wires.current();
        let gone = || if fault.at == Moment::Accept { not_sent(worker) } else { broke_off(worker) };
        if let WorkerAct::Slow { bytes_per_s } = act {
            if let Some(wire) = wire {
                wire.suffer(garbage::slow(*bytes_per_s));
            }
            return None;
        }
        if let Some(call) = call
            && !matches!(act, WorkerAct::Error { .. } | WorkerAct::Hang)
        {
            call.end(Outcome::Killed);
        }
        Some(match act {
            WorkerAct::Die { reported, how } => {
                self.kill_worker(worker, *reported, *how);
                Err(gone())
            }
            WorkerAct::Hang => std::future::pending().await,
            WorkerAct::Break { .. } => Err(gone()),
            WorkerAct::End => Ok(StatusCode::OK.into_response()),
            WorkerAct::Error { status, retry_after_s, message } => {
                let mut response = json(*status, openai::error(*status, message));
                if let Some(seconds) = retry_after_s {
                    response.headers_mut().insert(header::RETRY_AFTER, (*seconds).into());
                }
                Ok(response)
            }
            WorkerAct::Garbage { which } => Ok(garbage::answer(wire, *which, Some(worker)).await),
            WorkerAct::Slow { .. } => return None,
        })
    }
}

async fn respond(mut generation: Generation, early_head: bool) -> HiveResult<Response> {
    if !generation.asked.stream {
        return generation.whole().await;
    }
    let first = if early_head {
        None
    } else {
        match generation.next().await {
            Some(Err(_)) => return Err(broke_off(generation.worker())),
            first => first,
        }
    };
    let rest = stream::unfold(generation, |mut generation| async move {
        let piece = generation.next().await?;
        Some((piece, generation))
    });
    let mut response = Response::new(Body::from_stream(stream::iter(first).chain(rest)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

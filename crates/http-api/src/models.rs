//! `/v1/models/catalog` and `/v1/models/ensure`.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use fleet::{CatalogEntry, CatalogState, HiveId, HivePhase, ModelRef};
use futures_util::{StreamExt as _, stream};
use model_provisioner::{Progress, ProvisionError};
use queen_api::{
    CatalogHive, CatalogHiveState, CatalogModel, CatalogReply, EnsureEvent, EnsureRequest, ErrorCode,
    ErrorDetail, RemoveModelReply,
};
use registry_ram::FleetView;
use router::RouteError;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    Api,
    body::{JsonBody, commented, event_stream},
    error::ApiError,
};

/// Steps that may wait for a client that reads slowly; progress beyond them is left out.
const STEPS: usize = 64;

pub(crate) async fn catalog(State(api): State<Arc<Api>>) -> Result<Json<CatalogReply>, ApiError> {
    let view = api.parts.registry.view();
    let mut hives: BTreeMap<ModelRef, BTreeMap<HiveId, CatalogHive>> = BTreeMap::new();
    let mut sizes: BTreeMap<ModelRef, u64> = BTreeMap::new();
    for entry in api.parts.provisioner.catalog().await? {
        if let Some(bytes) = entry.bytes {
            sizes.insert(entry.model_ref.clone(), bytes);
        }
        hives.entry(entry.model_ref.clone()).or_default().insert(entry.hive_id.clone(), noted(entry, &view));
    }
    add_stored(&view, &mut hives, &mut sizes);
    // A worker may serve what this queen's catalog does not know, on a hive that was attached.
    for worker in view.workers().filter(|worker| worker.record.state.is_ready()) {
        let record = &worker.record;
        let there = hives.entry(record.model_ref.clone()).or_default();
        let hive = there.entry(worker.hive_id.clone()).or_insert_with(|| CatalogHive {
            hive_id: worker.hive_id.clone(),
            state: CatalogHiveState::Complete,
            reason: None,
            resolved: Some(record.resolved.clone()),
            digest: record.digest,
            updated_at: None,
            workers: 0,
        });
        hive.workers += 1;
    }
    let named = api.parts.placement.named().chain(api.parts.aliases.values());
    for model in named {
        hives.entry(model.clone()).or_default();
    }
    let model = |(model_ref, hives): (ModelRef, BTreeMap<HiveId, CatalogHive>)| {
        let aliases = api.parts.aliases.iter().filter(|(_, model)| **model == model_ref);
        CatalogModel {
            aliases: aliases.map(|(alias, _)| alias.clone()).collect(),
            pinned: api.parts.placement.policy(&model_ref).pinned,
            bytes: sizes.get(&model_ref).copied(),
            hives: hives.into_values().collect(),
            model_ref,
        }
    };
    Ok(Json(CatalogReply { models: hives.into_iter().map(model).collect() }))
}

/// What lies on hives and was never asked for, under the name that it is pinned by: a machine that joins may bring models along.
fn add_stored(
    view: &FleetView,
    hives: &mut BTreeMap<ModelRef, BTreeMap<HiveId, CatalogHive>>,
    sizes: &mut BTreeMap<ModelRef, u64>,
) {
    for hive in view.hives().filter(|hive| hive.phase == HivePhase::Online) {
        for stored in hive.models.values() {
            let known = |there: &BTreeMap<HiveId, CatalogHive>| {
                there.get(&hive.id).is_some_and(|at| at.resolved.as_ref() == Some(&stored.resolved))
            };
            if hives.values().any(known) {
                continue;
            }
            let Ok(model) = stored.resolved.as_str().parse::<ModelRef>() else { continue };
            sizes.entry(model.clone()).or_insert(stored.bytes);
            hives.entry(model).or_default().entry(hive.id.clone()).or_insert_with(|| CatalogHive {
                hive_id: hive.id.clone(),
                state: CatalogHiveState::Complete,
                reason: None,
                resolved: Some(stored.resolved.clone()),
                digest: stored.digest,
                updated_at: None,
                workers: 0,
            });
        }
    }
}

/// An entry, corrected by what the hive itself says.
fn noted(entry: CatalogEntry, view: &FleetView) -> CatalogHive {
    let hive = view.hive(&entry.hive_id).filter(|hive| hive.phase == HivePhase::Online);
    let gone = hive.zip(entry.resolved.as_ref()).is_some_and(|(hive, resolved)| !hive.has_model(resolved));
    let (state, reason) = match entry.state {
        CatalogState::Complete if gone => (CatalogHiveState::Missing, None),
        CatalogState::Complete => (CatalogHiveState::Complete, None),
        CatalogState::Downloading => (CatalogHiveState::Downloading, None),
        CatalogState::Failed { reason } => (CatalogHiveState::Failed, Some(reason)),
    };
    CatalogHive {
        hive_id: entry.hive_id,
        state,
        reason,
        resolved: entry.resolved,
        digest: entry.digest,
        updated_at: Some(entry.updated_at),
        workers: 0,
    }
}

/// Brings a model to a hive and tells how far it is. A client that leaves ends nothing.
pub(crate) async fn ensure(
    State(api): State<Arc<Api>>,
    JsonBody(request): JsonBody<EnsureRequest>,
) -> Result<Response, ApiError> {
    api.refuse_when_stopping().map_err(ApiError)?;
    let model = api.model(&request.model).map_err(ApiError)?;
    if let Some(hive) = &request.hive {
        api.hive(hive).await?;
    }
    let (sender, events) = mpsc::channel(STEPS);
    let placement = Arc::clone(&api.parts.placement);
    api.streams.spawn(async move {
        // A step that does not fit is soon followed by a newer one.
        let tell = |hive: &HiveId, step: &Progress| {
            if let Some(step) = told(hive, step) {
                drop(sender.try_send(step));
            }
        };
        let stored = placement.ensure_stored(&model, request.hive.as_ref(), tell);
        let end = tokio::select! {
            stored = stored => match stored {
                Ok((hive_id, resolved)) => EnsureEvent::Complete { hive_id, resolved },
                Err(error) => EnsureEvent::Error(RouteError::from(error).detail()),
            },
            () = sender.closed() => return,
        };
        // The client may have left.
        drop(sender.send(end).await);
    });
    Ok(to_client(&api, events))
}

/// What a client is told of a step; nothing of an end, which the flight as a whole has.
fn told(hive_id: &HiveId, step: &Progress) -> Option<EnsureEvent> {
    let hive_id = hive_id.clone();
    Some(match step {
        Progress::Transferring { bytes, total, rate } => {
            // What a hive claims beyond the whole is not passed on.
            let bytes = total.map_or(*bytes, |total| total.min(*bytes));
            EnsureEvent::Downloading { hive_id, bytes, total: *total, rate: *rate }
        }
        Progress::Verifying => EnsureEvent::Verifying { hive_id },
        Progress::Asking => EnsureEvent::Choosing,
        Progress::Done(_) | Progress::Failed(_) => return None,
    })
}

fn to_client(api: &Api, events: mpsc::Receiver<EnsureEvent>) -> Response {
    let pieces = stream::unfold(Some(events), move |events| async move {
        let mut events = events?;
        let (piece, rest) = match events.recv().await {
            None => {
                let lost = ErrorDetail::new(ErrorCode::Internal, "the answer had no end");
                (line(&EnsureEvent::Error(lost)), None)
            }
            Some(event @ EnsureEvent::Error(_)) => (line(&event), None),
            Some(event @ EnsureEvent::Complete { .. }) => {
                ([line(&event), sse::data("[DONE]")].concat().into(), None)
            }
            Some(event) => (line(&event), Some(events)),
        };
        Some((piece, rest))
    });
    event_stream(commented(pieces, api.parts.limits.comment_every, "waiting").map(Ok::<_, Infallible>))
}

fn line(event: &EnsureEvent) -> Bytes {
    let json =
        serde_json::to_string(event).unwrap_or_else(|_| unreachable!("strings and whole numbers only"));
    sse::data(&json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveQuery {
    #[serde(rename = "ref")]
    model: String,
    hive: Option<HiveId>,
}

/// Removes a model's files from one hive or from all, and what the catalog says of them.
pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Json<RemoveModelReply>, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::InvalidRequest, message);
    let Query(query) = query.map_err(|error| invalid(format!("the query: {}", error.body_text())))?;
    let model = match api.parts.aliases.get(&query.model) {
        Some(model) => model.clone(),
        None => query.model.parse().map_err(|error| invalid(format!("ref: {error}")))?,
    };
    if let Some(hive) = &query.hive {
        api.hive(hive).await?;
    }
    let removed = api.parts.provisioner.remove(&model, query.hive.as_ref()).await?;
    let failed: Vec<_> = removed.failed.iter().map(ToString::to_string).collect();
    // A model that nobody has needs no removing.
    if !removed.from.is_empty() || failed.is_empty() {
        return Ok(Json(RemoveModelReply { removed_from: removed.from, failed }));
    }
    let any = |code| removed.failed.iter().any(|error: &ProvisionError| error.code() == Some(code));
    let code = if any(hive_api::ErrorCode::ModelInUse) {
        ErrorCode::ModelInUse
    } else if any(hive_api::ErrorCode::ModelNotOurs) {
        ErrorCode::ModelNotOurs
    } else {
        ErrorCode::HiveFailed
    };
    Err(ApiError::new(code, failed.join("; ")))
}

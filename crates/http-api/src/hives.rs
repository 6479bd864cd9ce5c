//! `/v1/hives/…`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fleet::{
    Desired, DesiredBy, HiveCommand, HiveId, HiveKind, HiveMode, HivePhase, HiveRecord, HiveSource, HiveSpec,
    Hostname, SshTarget, StartPolicy,
};
use queen_api::{ErrorCode, HiveInfo, HivesReply, RegisterReply, RegisterRequest};
use registry_ram::HiveView;

use crate::{Api, body::JsonBody, error::ApiError};

pub(crate) async fn list(State(api): State<Arc<Api>>) -> Result<Json<HivesReply>, ApiError> {
    let view = api.parts.registry.view();
    let rows = api.parts.manager.rows().await?;
    let hives = rows.into_iter().map(|row| info(&row, view.hive(&row.spec.id).map(Arc::as_ref))).collect();
    Ok(Json(HivesReply { hives }))
}

pub(crate) async fn get(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<HiveInfo>, ApiError> {
    api.hive(&hive_id(&id)?).await.map(Json)
}

pub(crate) async fn start(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    desire(&api, &id, Desired::Running).await
}

pub(crate) async fn stop(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    desire(&api, &id, Desired::Stopped).await
}

pub(crate) async fn drain(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    desire(&api, &id, Desired::Drained).await
}

pub(crate) async fn pause(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    desire(&api, &id, Desired::Paused).await
}

/// Notes what a person wants of a hive. The hive's own task brings it about; the answer does not wait for it.
async fn desire(api: &Api, id: &str, desired: Desired) -> Result<Response, ApiError> {
    let id = hive_id(id)?;
    api.parts.manager.desire(&id, desired, DesiredBy::Person).await?;
    let hive = api.hive(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(hive)).into_response())
}

pub(crate) async fn register(
    State(api): State<Arc<Api>>,
    JsonBody(request): JsonBody<RegisterRequest>,
) -> Result<Response, ApiError> {
    let spec = spec(request)?;
    let id = spec.id.clone();
    let created = api.parts.manager.register(spec).await?;
    let hive = api.hive(&id).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(RegisterReply { created, hive })).into_response())
}

pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    api.parts.manager.remove(&hive_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Api {
    /// One hive as it stands.
    pub(crate) async fn hive(&self, id: &HiveId) -> Result<HiveInfo, ApiError> {
        let row = self.parts.manager.rows().await?.into_iter().find(|row| row.spec.id == *id);
        let row = row.ok_or_else(|| {
            ApiError::new(ErrorCode::HiveNotFound, format!("no hive {id} is registered; see /v1/hives/list"))
        })?;
        Ok(info(&row, self.parts.registry.view().hive(id).map(Arc::as_ref)))
    }
}

fn hive_id(id: &str) -> Result<HiveId, ApiError> {
    id.parse().map_err(|error| invalid(format!("the hive's id: {error}")))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message)
}

fn this_machine() -> Result<Hostname, ApiError> {
    "127.0.0.1".parse().map_err(|_| invalid("this machine has no name"))
}

/// What was asked for, with what its owner left out.
fn spec(request: RegisterRequest) -> Result<HiveSpec, ApiError> {
    let hostname = request.hostname.map_or_else(this_machine, Ok)?;
    let mode = request.mode.unwrap_or_else(|| HiveMode::detect(&hostname));
    let id = match request.id {
        Some(id) => id,
        None if mode == HiveMode::Local => "local".parse::<HiveId>().map_err(|e| invalid(e.to_string()))?,
        None => hostname.as_str().parse().map_err(|e| {
            invalid(format!("the hostname cannot serve as the hive's id ({e}); send an `id`"))
        })?,
    };
    let pin = request.tls_fingerprint;
    let kind = match request.token {
        None if pin.is_some() => {
            return Err(invalid(
                "tls_fingerprint: it belongs to a hive that already runs, so send that hive's `token`, too; a hive that \
                 the queen starts tells its certificate itself",
            ));
        }
        None => HiveKind::Managed,
        Some(token) => {
            let token = token.trim().parse().map_err(|e| invalid(format!("token: {e}")))?;
            HiveKind::Attached { token: Some(token), pin }
        }
    };
    let start = request.start.unwrap_or_default();
    if start == StartPolicy::OnDemand && kind != HiveKind::Managed {
        return Err(invalid(
            "start: a hive that was started by hand is not started on demand; leave out `start`, or `token`",
        ));
    }
    if request.port == Some(0) {
        return Err(invalid("port: a hive cannot be reached at port 0"));
    }
    Ok(HiveSpec {
        id,
        hostname,
        port: request.port.unwrap_or(HiveCommand::DEFAULT_PORT),
        mode,
        ssh: SshTarget {
            user: request.ssh_user,
            port: request.ssh_port,
            key_path: request.ssh_key_path,
            host_key: None,
        },
        region: request.region,
        labels: request.labels,
        source: HiveSource::Api,
        kind,
        start,
    })
}

fn info(row: &HiveRecord, live: Option<&HiveView>) -> HiveInfo {
    let spec = &row.spec;
    let phase = live.map_or(HivePhase::Offline, |hive| hive.phase);
    HiveInfo {
        id: spec.id.clone(),
        hostname: spec.hostname.clone(),
        port: live.and_then(|hive| hive.endpoint.as_ref()).map_or(spec.port, |endpoint| endpoint.port),
        mode: spec.mode,
        ssh_key_path: spec.ssh.key_path.clone(),
        ssh_user: spec.ssh.user.clone(),
        ssh_port: spec.ssh.port,
        capabilities: live.and_then(|hive| hive.capabilities.clone()).or_else(|| row.capabilities.clone()),
        last_seen: row.last_seen,
        status: phase.status(),
        phase,
        reason: live.and_then(|hive| hive.reason.clone()),
        desired: row.desired,
        desired_by: row.desired_by,
        start: spec.start,
        source: spec.source,
        attached: matches!(spec.kind, HiveKind::Attached { .. }),
        region: spec.region.clone(),
        labels: spec.labels.clone(),
        launch_id: live.and_then(|hive| hive.launch_id().cloned()),
    }
}

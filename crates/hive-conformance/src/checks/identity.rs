//! Who answers, and whom it answers.

use hive_api::{API_VERSION, ErrorCode, Health, LAUNCH_HEADER};
use reqwest::{Method, StatusCode};

use crate::{
    probe::{Probe, body_of, error_of},
    verdict::{Check, Fault, ensure, same},
};

/// Routes that stand for all: control, streams, files, workers, and one that does not exist.
const ROUTES: &[(Method, &str)] = &[
    (Method::GET, "/v1/capabilities"),
    (Method::GET, "/v1/watch"),
    (Method::GET, "/v1/workers/list"),
    (Method::POST, "/v1/workers/spawn"),
    (Method::POST, "/v1/workers/w-none/stop"),
    (Method::GET, "/v1/models/list"),
    (Method::GET, "/v1/models/inspect?ref=a/b"),
    (Method::POST, "/v1/models/download"),
    (Method::GET, "/v1/models/download/progress?id=d-none"),
    (Method::DELETE, "/v1/models?ref=a/b"),
    (Method::GET, "/v1/logs"),
    (Method::POST, "/v1/shutdown"),
    (Method::GET, "/metrics"),
    (Method::POST, "/v1/workers/w-none/proxy/v1/completions"),
    (Method::GET, "/v1/no/such/path"),
];

pub(super) async fn health_identifies_the_hive(probe: &Probe) -> Check {
    let response = probe.bare(Method::GET, "/v1/health").send().await?;
    same("the status", &response.status(), &StatusCode::OK)?;
    let body = body_of(response).await?;
    let health: Health = serde_json::from_slice(&body).map_err(|e| Fault::Failed(e.to_string()))?;
    same("api_version", &health.api_version, &API_VERSION)?;
    same("hive_id", &health.hive_id, &probe.health.hive_id)?;
    same("launch_id", &health.launch_id, &probe.health.launch_id)?;
    ensure(health.uptime_ms >= probe.health.uptime_ms, || "uptime_ms went backwards".to_owned())?;
    ensure(matches!(health.status.as_str(), "ok" | "draining"), || {
        format!("status is {:?}, neither \"ok\" nor \"draining\"", health.status)
    })
}

pub(super) async fn health_takes_no_other_method(probe: &Probe) -> Check {
    error_of(probe.bare(Method::POST, "/v1/health"), &[ErrorCode::MethodNotAllowed]).await.map(drop)
}

pub(super) async fn the_launch_is_checked_first(probe: &Probe) -> Check {
    for (method, path) in ROUTES {
        let request = || probe.bare(method.clone(), path);
        let token = probe.target.token.reveal();
        for request in [
            request(),
            request().bearer_auth(token),
            request().header(LAUNCH_HEADER, "l-of-another-time"),
            request().header(LAUNCH_HEADER, "l-of-another-time").bearer_auth(token),
        ] {
            let error = error_of(request, &[ErrorCode::StaleLaunch]).await?;
            let told = error.error.details.and_then(|d| d["launch_id"].as_str().map(str::to_owned));
            same("details.launch_id", &told.as_deref(), &Some(probe.health.launch_id.as_str()))?;
        }
    }
    Ok(())
}

pub(super) async fn the_token_is_checked_everywhere(probe: &Probe) -> Check {
    let token = probe.target.token.reveal();
    for (method, path) in ROUTES {
        let launch = probe.health.launch_id.as_str();
        let request = || probe.bare(method.clone(), path).header(LAUNCH_HEADER, launch);
        for request in [
            request(),
            request().bearer_auth("0123456789abcdef"),
            request().bearer_auth(format!("{token}0")),
            request().bearer_auth(&token[..token.len() - 1]),
            request().basic_auth("hive", Some(token)),
        ] {
            error_of(request, &[ErrorCode::Unauthorized]).await?;
        }
    }
    Ok(())
}

pub(super) async fn no_answer_shows_the_token(probe: &Probe) -> Check {
    for path in ["/v1/health", "/v1/capabilities", "/v1/workers/list", "/v1/logs?lines=10000", "/metrics"] {
        let body = body_of(probe.ask(Method::GET, path).send().await?).await?;
        let shown = String::from_utf8_lossy(&body).contains(probe.target.token.reveal());
        ensure(!shown, || format!("{path} shows the token"))?;
    }
    Ok(())
}

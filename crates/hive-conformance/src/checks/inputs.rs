//! Wrong input of every kind.

use hive_api::{BODY_MAX, ErrorCode, WORKER_HEADER};
use reqwest::Method;
use serde_json::json;

use crate::{
    probe::{Probe, all_refused, error_of},
    verdict::{Check, ensure},
};

const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

pub(super) async fn unknown_paths_and_methods_have_codes(probe: &Probe) -> Check {
    let paths = ["/", "/v1", "/v1/workers", "/v1/workers/w-none", "/v2/health"];
    let requests = paths.map(|path| probe.ask(Method::GET, path));
    all_refused(requests, &[ErrorCode::NotFound]).await?;
    let requests = [
        probe.ask(Method::POST, "/v1/capabilities"),
        probe.ask(Method::GET, "/v1/workers/spawn"),
        probe.ask(Method::PUT, "/v1/models/list"),
        probe.ask(Method::GET, "/v1/shutdown"),
    ];
    all_refused(requests, &[ErrorCode::MethodNotAllowed]).await
}

pub(super) async fn parameters_of_the_wrong_form_are_refused(probe: &Probe) -> Check {
    let blob = format!("/v1/models/blob/{NO_DIGEST}");
    let requests = [
        probe.ask(Method::POST, "/v1/workers/-x/stop"),
        probe.ask(Method::POST, "/v1/workers/-x/proxy/v1/completions"),
        probe.ask(Method::GET, "/v1/models/inspect"),
        probe.ask(Method::GET, "/v1/models/inspect?ref="),
        probe.ask(Method::GET, "/v1/models/inspect?ref=../../etc/passwd"),
        probe.ask(Method::GET, "/v1/models/inspect?ref=a/b%0a"),
        probe.ask(Method::GET, "/v1/models/download/progress"),
        probe.ask(Method::DELETE, "/v1/models"),
        probe.ask(Method::GET, "/v1/models/blob/00"),
        probe.ask(Method::PUT, &blob),
        probe.ask(Method::PUT, &format!("{blob}?offset=-1")),
        probe.ask(Method::GET, "/v1/logs?source=-x"),
        probe.ask(Method::GET, "/v1/logs?lines=many"),
    ];
    all_refused(requests, &[ErrorCode::InvalidRequest]).await?;
    let range = probe.ask(Method::GET, &blob).header("range", "bytes=5-4");
    error_of(range, &[ErrorCode::RangeNotSatisfiable]).await.map(drop)
}

pub(super) async fn bodies_of_the_wrong_form_are_refused(probe: &Probe) -> Check {
    let spawn = |body: String| probe.ask(Method::POST, "/v1/workers/spawn").body(body);
    let download = |body: String| probe.ask(Method::POST, "/v1/models/download").body(body);
    let long = "k".repeat(65);
    let requests = [
        spawn(String::new()),
        spawn("{".to_owned()),
        spawn("[".repeat(100_000)),
        spawn(json!({"model_ref": "a/b"}).to_string()),
        spawn(json!({"model_ref": "a b", "idempotency_key": "k"}).to_string()),
        spawn(json!({"model_ref": "a/b", "idempotency_key": ""}).to_string()),
        spawn(json!({"model_ref": "a/b", "idempotency_key": long}).to_string()),
        spawn(json!({"model_ref": "a/b", "idempotency_key": "k", "context": 0}).to_string()),
        spawn(json!({"model_ref": "a/b", "idempotency_key": "k", "slots": 0}).to_string()),
        spawn(json!({"model_ref": "a/b", "idempotency_key": "k", "device": "gpu"}).to_string()),
        download("{}".to_owned()),
        download(json!({"model_ref": "-x/y"}).to_string()),
    ];
    all_refused(requests, &[ErrorCode::InvalidRequest]).await
}

pub(super) async fn a_body_beyond_the_bound_is_refused(probe: &Probe) -> Check {
    let request = probe.ask(Method::POST, "/v1/models/download").body(vec![b' '; BODY_MAX + 1]);
    error_of(request, &[ErrorCode::BodyTooLarge]).await.map(drop)
}

pub(super) async fn unknown_workers_are_not_found(probe: &Probe) -> Check {
    let requests = [
        probe.ask(Method::POST, "/v1/workers/w-none/stop"),
        probe.ask(Method::GET, "/v1/logs?source=w-none"),
        probe.ask(Method::GET, "/v1/workers/w-none/proxy/health"),
    ];
    all_refused(requests, &[ErrorCode::NotFound]).await?;
    let answer = probe.ask(Method::GET, "/v1/workers/w-none/proxy/health").send().await?;
    ensure(!answer.headers().contains_key(WORKER_HEADER), || {
        format!("the hive's own error has {WORKER_HEADER}, as if a worker had answered")
    })
}

pub(super) async fn unknown_downloads_and_files_are_not_found(probe: &Probe) -> Check {
    let blob = format!("/v1/models/blob/{NO_DIGEST}");
    let requests = [
        probe.ask(Method::GET, "/v1/models/download/progress?id=d-none"),
        probe.ask(Method::GET, &blob),
        probe.ask(Method::POST, &format!("{blob}/grant")),
    ];
    all_refused(requests, &[ErrorCode::NotFound]).await?;
    let ungranted = probe.bare(Method::GET, &blob).bearer_auth("0123456789abcdef");
    error_of(ungranted, &[ErrorCode::Unauthorized]).await.map(drop)
}

pub(super) async fn unknown_models_are_not_found(probe: &Probe) -> Check {
    // A hive may keep files outside its directories from being named at all.
    let codes = [ErrorCode::ModelNotFound, ErrorCode::InvalidRequest];
    let model = format!("file:/nowhere/{}.gguf", probe.run);
    let spawn = json!({"model_ref": model, "idempotency_key": format!("none-{}", probe.run)});
    let requests = [
        probe.ask(Method::GET, &format!("/v1/models/inspect?ref={model}")),
        probe.ask(Method::POST, "/v1/models/download").json(&json!({"model_ref": model})),
        probe.ask(Method::POST, "/v1/workers/spawn").json(&spawn),
        probe.ask(Method::DELETE, &format!("/v1/models?ref={model}")),
    ];
    all_refused(requests, &codes).await
}

pub(super) async fn unknown_engines_are_unavailable(probe: &Probe) -> Check {
    let model = probe.model()?;
    if !super::models::is_stored(probe).await? {
        // A hive may look for the model first, and may say so.
        return Ok(());
    }
    let key = format!("engine-{}", probe.run);
    let spawn = json!({"model_ref": model, "engine": "no-such-engine", "idempotency_key": key});
    let request = probe.ask(Method::POST, "/v1/workers/spawn").json(&spawn);
    error_of(request, &[ErrorCode::EngineUnavailable]).await.map(drop)
}

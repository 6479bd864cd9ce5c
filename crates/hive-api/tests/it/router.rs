//! The router against every wrong input: the order of its checks, and the shape of its errors.

use axum::{
    body::Body,
    http::{Request, StatusCode},
    response::Response,
};
use hive_api::{BODY_MAX, ErrorBody, ErrorCode};
use http_body_util::BodyExt;

use crate::stub::{DIGEST, FILE, GRANT, LAUNCH, TOKEN, allowed, answer};

/// Every route but health, with a method that it takes and one that it does not.
const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/v1/capabilities", "POST"),
    ("GET", "/v1/watch", "POST"),
    ("GET", "/v1/workers/list", "DELETE"),
    ("POST", "/v1/workers/spawn", "GET"),
    ("POST", "/v1/workers/w-3/stop", "GET"),
    ("GET", "/v1/models/list", "POST"),
    ("GET", "/v1/models/inspect?ref=a/b", "POST"),
    ("POST", "/v1/models/download", "GET"),
    ("GET", "/v1/models/download/progress?id=d-1f6bd2a0", "POST"),
    ("DELETE", "/v1/models?ref=a/b", "GET"),
    ("POST", "/v1/models/blob/9f86/grant", "GET"),
    ("PUT", "/v1/models/blob/9f86?offset=0", "POST"),
    ("GET", "/v1/logs", "POST"),
    ("POST", "/v1/shutdown", "GET"),
    ("GET", "/metrics", "POST"),
];

const PROXIED: (&str, &str) = ("POST", "/v1/workers/w-3/proxy/v1/completions");

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The error that a request gets, whose status must be that of its code.
async fn error(request: Request<Body>) -> ErrorCode {
    let what = format!("{} {}", request.method(), request.uri());
    let response = answer(request).await;
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json", "{what}");
    let text = text(response).await;
    let body: ErrorBody = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{what}: {e}: {text}"));
    assert_eq!(body.error.code.status(), status, "{what}");
    assert!(!body.error.message.is_empty(), "{what}");
    body.error.code
}

fn empty(builder: axum::http::request::Builder) -> Request<Body> {
    builder.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn the_launch_is_checked_before_the_token_on_every_route() {
    let routes = ROUTES.iter().map(|&(method, path, _)| (method, path));
    for (method, path) in routes.chain([PROXIED, ("GET", "/v1/nonsense")]) {
        let request = || Request::builder().method(method).uri(path);
        let bearer = format!("Bearer {TOKEN}");
        for (launch, token, expected) in [
            (None, None, ErrorCode::StaleLaunch),
            (None, Some(&bearer), ErrorCode::StaleLaunch),
            (Some("l-0"), None, ErrorCode::StaleLaunch),
            (Some("l-0"), Some(&bearer), ErrorCode::StaleLaunch),
            (Some(LAUNCH), None, ErrorCode::Unauthorized),
            (Some(LAUNCH), Some(&format!("{bearer}0")), ErrorCode::Unauthorized),
            (Some(LAUNCH), Some(&format!("Basic {TOKEN}")), ErrorCode::Unauthorized),
        ] {
            let mut request = request();
            if let Some(launch) = launch {
                request = request.header("x-rbee-launch", launch);
            }
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            assert_eq!(error(empty(request)).await, expected, "{method} {path} {launch:?}");
        }
    }
}

#[tokio::test]
async fn a_stale_launch_is_told_the_present_one() {
    let response = answer(empty(Request::builder().uri("/v1/workers/list"))).await;
    let body: ErrorBody = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(body.error.details.unwrap()["launch_id"], LAUNCH);
}

#[tokio::test]
async fn health_needs_neither_launch_nor_token() {
    let response = answer(empty(Request::builder().uri("/v1/health"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    let request = Request::builder().method("POST").uri("/v1/health");
    assert_eq!(error(empty(request)).await, ErrorCode::MethodNotAllowed);
}

#[tokio::test]
async fn the_scheme_of_the_token_is_read_in_any_case() {
    let request = Request::builder().uri("/v1/workers/list").header("x-rbee-launch", LAUNCH);
    let request = request.header("authorization", format!("bearer {TOKEN}"));
    assert_eq!(answer(empty(request)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_wrong_method_and_a_wrong_path_have_codes_of_their_own() {
    for &(_, path, method) in ROUTES {
        assert_eq!(error(empty(allowed(method, path))).await, ErrorCode::MethodNotAllowed, "{method} {path}");
    }
    for path in
        ["/", "/v1", "/v2/health", "/v1/workers", "/v1/workers/w-3", "/v1/workers/w-3/proxy", "/v1/models/x"]
    {
        assert_eq!(error(empty(allowed("GET", path))).await, ErrorCode::NotFound, "{path}");
    }
}

#[tokio::test]
async fn parameters_of_the_wrong_form_are_invalid_requests() {
    let long = format!("/v1/workers/{}/stop", "a".repeat(65));
    for (method, path) in [
        ("POST", "/v1/workers/-w/stop"),
        ("POST", "/v1/workers/%2E%2E/stop"),
        ("POST", long.as_str()),
        ("GET", "/v1/models/inspect"),
        ("GET", "/v1/models/inspect?ref="),
        ("GET", "/v1/models/inspect?ref=../etc/passwd"),
        ("GET", "/v1/models/inspect?ref=a/b%00"),
        ("GET", "/v1/models/download/progress"),
        ("GET", "/v1/models/download/progress?id=a%20b"),
        ("DELETE", "/v1/models"),
        ("DELETE", "/v1/models?ref=x"),
        ("POST", "/v1/models/blob/9f86/grant"),
        ("GET", "/v1/models/blob/9f86"),
        ("PUT", "/v1/models/blob/9f86?offset=0"),
        ("PUT", &format!("/v1/models/blob/{DIGEST}")),
        ("PUT", &format!("/v1/models/blob/{DIGEST}?offset=-1")),
        ("GET", "/v1/logs?source=-x"),
        ("GET", "/v1/logs?lines=many"),
        ("POST", "/v1/workers/-w/proxy/v1/completions"),
    ] {
        assert_eq!(error(empty(allowed(method, path))).await, ErrorCode::InvalidRequest, "{method} {path}");
    }
}

#[tokio::test]
async fn bodies_of_the_wrong_form_are_invalid_requests() {
    let key = |key: &str| format!("{{\"model_ref\":\"a/b\",\"idempotency_key\":\"{key}\"}}");
    let spawn = "/v1/workers/spawn";
    for (path, body) in [
        (spawn, String::new()),
        (spawn, "{".to_owned()),
        (spawn, "[]".to_owned()),
        (spawn, "[".repeat(100_000)),
        (spawn, "\u{feff}{}".to_owned()),
        (spawn, "{\"model_ref\":\"a/b\"}".to_owned()),
        (spawn, "{\"model_ref\":\"a b\",\"idempotency_key\":\"k\"}".to_owned()),
        (spawn, key("")),
        (spawn, key(&"k".repeat(65))),
        (spawn, key("k").replace('}', ",\"context\":0}")),
        (spawn, key("k").replace('}', ",\"slots\":0}")),
        (spawn, key("k").replace('}', ",\"slots\":-1}")),
        (spawn, key("k").replace('}', ",\"device\":\"gpu\"}")),
        ("/v1/workers/w-3/stop", "{\"grace_ms\":\"soon\"}".to_owned()),
        ("/v1/models/download", "{}".to_owned()),
        ("/v1/models/download", "{\"model_ref\":\"a/b\",\"sources\":[{\"url\":\"x\"}]}".to_owned()),
        (
            "/v1/models/download",
            "{\"model_ref\":\"a/b\",\"sources\":[{\"url\":\"x\",\"token\":\"s3cret\"}]}".to_owned(),
        ),
        ("/v1/shutdown", "{\"grace_ms\":-1}".to_owned()),
    ] {
        let request = allowed("POST", path).body(Body::from(body.clone())).unwrap();
        assert_eq!(error(request).await, ErrorCode::InvalidRequest, "{path} {:.80}", body);
    }
}

#[tokio::test]
async fn a_broken_source_is_refused_without_showing_its_token() {
    let body = "{\"model_ref\":\"a/b\",\"sources\":[{\"url\":\"x\",\"token\":\"s3cret\"}]}";
    let response = answer(allowed("POST", "/v1/models/download").body(Body::from(body)).unwrap()).await;
    assert!(!text(response).await.contains("s3cret"));
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused_and_a_file_has_none() {
    let large = || Body::from(vec![b' '; BODY_MAX + 1]);
    for path in ["/v1/workers/spawn", "/v1/models/download", "/v1/shutdown", "/v1/workers/w-3/stop"] {
        let request = allowed("POST", path).body(large()).unwrap();
        assert_eq!(error(request).await, ErrorCode::BodyTooLarge, "{path}");
    }
    let put = allowed("PUT", &format!("/v1/models/blob/{DIGEST}?offset=5")).body(large()).unwrap();
    assert_eq!(text(answer(put).await).await, format!("{{\"bytes\":{}}}", BODY_MAX + 6));
}

#[tokio::test]
async fn an_empty_body_stands_for_the_defaults() {
    for (path, status) in [("/v1/workers/w-3/stop", 202), ("/v1/shutdown", 202)] {
        assert_eq!(answer(empty(allowed("POST", path))).await.status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn ranges_are_served_as_asked_or_refused() {
    let path = format!("/v1/models/blob/{DIGEST}");
    for (range, expected, bytes) in [
        ("bytes=0-", "bytes 0-9/10", FILE),
        ("bytes=3-5", "bytes 3-5/10", &FILE[3..6]),
        ("bytes=8-99", "bytes 8-9/10", &FILE[8..]),
    ] {
        let response = answer(empty(allowed("GET", &path).header("range", range))).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(response.headers()["content-range"], expected, "{range}");
        assert_eq!(text(response).await.as_bytes(), bytes, "{range}");
    }
    for range in [
        "bytes=5-4",
        "bytes=-5",
        "bytes=10-",
        "lines=0-",
        "bytes=0-1,3-4",
        "bytes=x-",
        "bytes=0-18446744073709551615",
    ] {
        let request = empty(allowed("GET", &path).header("range", range));
        assert_eq!(error(request).await, ErrorCode::RangeNotSatisfiable, "{range}");
    }
    let whole = answer(empty(allowed("GET", &path))).await;
    assert_eq!(
        (whole.status(), &whole.headers()["content-length"]),
        (StatusCode::OK, &"10".parse().unwrap())
    );
}

#[tokio::test]
async fn a_grant_opens_one_file_for_reading_and_nothing_else() {
    let path = format!("/v1/models/blob/{DIGEST}");
    let other = format!("/v1/models/blob/{}", DIGEST.replace('9', "8"));
    let granted = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        empty(request.header("authorization", format!("Bearer {GRANT}")))
    };
    assert_eq!(answer(granted("GET", &path)).await.status(), StatusCode::OK);
    assert_eq!(error(granted("GET", &other)).await, ErrorCode::Unauthorized);
    assert_eq!(error(empty(Request::builder().uri(&path))).await, ErrorCode::Unauthorized);
    assert_eq!(error(granted("PUT", &format!("{path}?offset=0"))).await, ErrorCode::StaleLaunch);
    assert_eq!(error(granted("GET", "/v1/workers/list")).await, ErrorCode::StaleLaunch);
}

#[tokio::test]
async fn a_worker_sees_its_own_path_and_no_secret() {
    for rest in ["/v1/completions?a=%2F", "//evil.example/x", "/a%2Fb/../c"] {
        let path = format!("/v1/workers/w-3/proxy{rest}");
        let response = answer(empty(allowed("PATCH", &path).header("x-request-id", "r"))).await;
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.headers()["x-rbee-worker"], "w-3", "the hive's word, not the worker's");
        assert_eq!(text(response).await, format!("PATCH {rest} x-request-id"));
    }
    let response = answer(empty(allowed("POST", "/v1/workers/w-9/proxy/v1/completions"))).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(!response.headers().contains_key("x-rbee-worker"), "the hive's own error bears no worker's name");
}

#[tokio::test]
async fn streams_of_events_have_names_and_one_line_of_data() {
    let response = answer(empty(allowed("GET", "/v1/watch"))).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text_of_watch = text(response).await;
    let lines: Vec<_> = text_of_watch.lines().collect();
    assert!(lines[0] == "event: snapshot" && lines[1].starts_with("data: {"), "{lines:?}");
    assert_eq!(lines[2..], ["", "event: beat", "data: {\"launch_id\":\"l-5b8d5f91\",\"rev\":43}", ""]);
    let progress = answer(empty(allowed("GET", "/v1/models/download/progress?id=d-1f6bd2a0"))).await;
    let progress = text(progress).await;
    assert_eq!(progress.matches("event: download\n").count(), 2);
    assert!(progress.ends_with("\"state\":\"complete\"}\n\n"), "{progress}");
}

#[tokio::test]
async fn log_lines_are_bounded() {
    for (query, expected) in [
        ("", "hive 100"),
        ("?source=hive&lines=5", "hive 5"),
        ("?source=w-3", "w-3 100"),
        ("?lines=999999999", "hive 10000"),
    ] {
        let response = answer(empty(allowed("GET", &format!("/v1/logs{query}")))).await;
        assert_eq!(text(response).await, format!("{{\"lines\":[\"{expected}\"]}}"));
    }
}

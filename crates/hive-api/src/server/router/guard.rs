//! Who may pass: launch first, then token.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fleet::{Digest, LaunchId};
use subtle::ConstantTimeEq;

use crate::{ErrorCode, ErrorDetail, LAUNCH_HEADER, server::Hive};

/// Launch, then token: a queen that talks to a successor must learn so, not that its token is wrong.
pub(super) async fn guard<H: Hive>(State(hive): State<Arc<H>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let token = bearer(headers);
    let launch = headers.get(LAUNCH_HEADER);
    // Another hive reads with a grant; it knows nothing of this hive's launch.
    if launch.is_none()
        && let Some(digest) = blob_of(&request)
    {
        return if token.is_some_and(|token| hive.blob_is_granted(&digest, token)) {
            next.run(request).await
        } else {
            let message = "this grant does not open this file; it may have run out";
            ErrorDetail::new(ErrorCode::Unauthorized, message).into_response()
        };
    }
    let launch_id = hive.health().launch_id;
    let is_ours = launch.map(HeaderValue::as_bytes) == Some(launch_id.as_str().as_bytes());
    if !is_ours && !planted::bug("no-launch-check") {
        return stale(&launch_id, launch).into_response();
    }
    let wanted = hive.token().reveal().as_bytes();
    if !token.is_some_and(|token| bool::from(token.as_bytes().ct_eq(wanted))) {
        let message = "send the hive's token as `Authorization: Bearer …`; a hive started by hand keeps it in \
                       <data-dir>/token";
        return ErrorDetail::new(ErrorCode::Unauthorized, message).into_response();
    }
    next.run(request).await
}

fn stale(launch_id: &LaunchId, found: Option<&HeaderValue>) -> ErrorDetail {
    let found = found.map_or("none".into(), |value| String::from_utf8_lossy(value.as_bytes()));
    let message = format!("this is launch {launch_id}, the request is for {}", found.escape_default());
    ErrorDetail::new(ErrorCode::StaleLaunch, message)
        .with_details(serde_json::json!({ "launch_id": launch_id }))
}

/// The token; the scheme's name is read as RFC 9110, 11.1, has it, in any case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

/// The digest, if this reads a blob.
fn blob_of(request: &Request) -> Option<Digest> {
    let rest = request.uri().path().strip_prefix("/v1/models/blob/")?;
    (request.method() == Method::GET).then(|| rest.parse().ok())?
}

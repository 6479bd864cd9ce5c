//! The name of each request: in its answer's head, in events and in logs.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use fleet::RequestId;
use queen_api::REQUEST_ID_HEADER;

static REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID_HEADER);

/// The client's own name for a request if that is usable, or a new one.
pub(crate) fn of(headers: &HeaderMap) -> RequestId {
    let sent = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    sent.and_then(|text| text.parse().ok()).unwrap_or_else(telemetry::new_request_id)
}

/// Puts a request's name into its answer's head.
pub(crate) fn put(headers: &mut HeaderMap, id: &RequestId) {
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(&REQUEST_ID, id);
    }
}

//! The name of each request: in its answer's head, in events and in logs.

use axum::{extract::Request, http::HeaderValue, middleware::Next, response::Response};
use fleet::RequestId;
use queen_api::REQUEST_ID_HEADER;

/// Names the request, by the client's own name if that is usable, and puts the name into the answer whatever it is.
pub(crate) async fn name(mut request: Request, next: Next) -> Response {
    let sent = request.headers().get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    let id: RequestId = sent.and_then(|text| text.parse().ok()).unwrap_or_else(telemetry::new_request_id);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

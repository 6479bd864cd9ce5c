//! Who may call.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use queen_api::{ErrorCode, ErrorDetail};
use subtle::ConstantTimeEq;

use crate::{
    Api,
    error::{ApiError, OpenAiFault},
};

/// Lets through whoever sends the token, where one is set. Nothing of the request was read before.
pub(crate) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Some(token) = &api.parts.token else { return next.run(request).await };
    let sent = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let sent = sent.and_then(|value| value.split_at_checked(7));
    let sent = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer ")).map(|(_, token)| token);
    if sent.is_some_and(|sent| bool::from(sent.ct_eq(token.reveal().as_bytes()))) {
        return next.run(request).await;
    }
    let message = "send the queen's token as `Authorization: Bearer …` (an OpenAI client's api_key); it is what \
                   QUEEN_RBEE_TOKEN or the configured token file holds";
    let detail = ErrorDetail::new(ErrorCode::Unauthorized, message);
    let mut response = refusal(request.uri().path(), detail);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// An error in the shape that callers of the path expect.
pub(crate) fn refusal(path: &str, detail: ErrorDetail) -> Response {
    if is_openai(path) { OpenAiFault::from(detail).into_response() } else { ApiError(detail).into_response() }
}

/// Whether a path speaks OpenAI's protocol, and so its error shape.
fn is_openai(path: &str) -> bool {
    matches!(path, "/v1/models" | "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings")
}

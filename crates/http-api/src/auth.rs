//! Who may call.

use axum::{
    http::{HeaderValue, Request, header},
    response::{IntoResponse, Response},
};
use fleet::Token;
use queen_api::{ErrorCode, ErrorDetail};
use subtle::ConstantTimeEq;

use crate::error::{ApiError, OpenAiFault};

/// Lets through whoever sends the token, where one is set, and whoever asks how the queen is. Nothing of the request's body
/// was read before.
///
/// # Errors
/// The answer for everybody else.
pub(crate) fn check<B>(token: Option<&Token>, request: &Request<B>) -> Result<(), Response> {
    let path = request.uri().path();
    let Some(token) = token.filter(|_| !matches!(path, "/healthz" | "/readyz")) else { return Ok(()) };
    let sent = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let sent = sent.and_then(|value| value.split_at_checked(7));
    let sent = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer ")).map(|(_, token)| token);
    if sent.is_some_and(|sent| bool::from(sent.ct_eq(token.reveal().as_bytes()))) {
        return Ok(());
    }
    let message = "send the queen's token as `Authorization: Bearer …` (an OpenAI client's api_key); it is what \
                   QUEEN_RBEE_TOKEN or the configured token file holds";
    let detail = ErrorDetail::new(ErrorCode::Unauthorized, message);
    let mut response = refusal(path, detail);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(response)
}

/// An error in the shape that callers of the path expect.
pub(crate) fn refusal(path: &str, detail: ErrorDetail) -> Response {
    if is_openai(path) { OpenAiFault::from(detail).into_response() } else { ApiError(detail).into_response() }
}

/// Whether a path speaks OpenAI's protocol, and so its error shape.
pub(crate) fn is_openai(path: &str) -> bool {
    matches!(path, "/v1/models" | "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings")
}

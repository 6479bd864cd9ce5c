//! One call: send, bound, and sort the failures.

use futures_util::StreamExt;
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;

use super::{ClientError, ClientErrorKind};
use crate::{BODY_MAX, ErrorBody};

fn transport(error: reqwest::Error, who: &str, action: &'static str) -> ClientError {
    let kind = if let Some(wrong) = http_client::wrong_certificate(&error) {
        ClientErrorKind::WrongCertificate(wrong)
    } else if error.is_timeout() {
        ClientErrorKind::Timeout
    } else {
        // The URL stands in the error's hive already.
        ClientErrorKind::Unreachable { reason: causes::with_causes(&error.without_url()) }
    };
    ClientError::new(who, action, kind)
}

pub(super) fn stream_error(
    error: sse::StreamError<reqwest::Error>,
    who: &str,
    action: &'static str,
) -> ClientError {
    match error {
        sse::StreamError::Transport(error) => transport(error, who, action),
        sse::StreamError::Overlong(error) => {
            ClientError::new(who, action, ClientErrorKind::NotAHive { reason: error.to_string() })
        }
    }
}

/// Sends, and turns every answer but a success into an error.
pub(super) async fn head(
    request: RequestBuilder,
    who: &str,
    action: &'static str,
) -> Result<Response, ClientError> {
    let response = request.send().await.map_err(|e| transport(e, who, action))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = body(response, who, action).await?;
    let kind = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => ClientErrorKind::Refused(body.error),
        Err(_) => ClientErrorKind::NotAHive { reason: format!("it answered {status} without an error body") },
    };
    Err(ClientError::new(who, action, kind))
}

pub(super) async fn body(
    response: Response,
    who: &str,
    action: &'static str,
) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| transport(e, who, action))?;
        if body.len() + piece.len() > BODY_MAX {
            let reason = format!("its answer is longer than {BODY_MAX} bytes");
            return Err(ClientError::new(who, action, ClientErrorKind::NotAHive { reason }));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

pub(super) async fn json<T: DeserializeOwned>(
    request: RequestBuilder,
    who: &str,
    action: &'static str,
) -> Result<T, ClientError> {
    let response = head(request, who, action).await?;
    let body = body(response, who, action).await?;
    serde_json::from_slice(&body).map_err(|error| {
        let reason = format!("its answer cannot be read: {error}");
        ClientError::new(who, action, ClientErrorKind::NotAHive { reason })
    })
}

pub(super) async fn empty(
    request: RequestBuilder,
    who: &str,
    action: &'static str,
) -> Result<(), ClientError> {
    head(request, who, action).await.map(drop)
}

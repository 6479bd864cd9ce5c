//! Bodies, parameters and ranges, with errors of the contract's own shape.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::{
    BODY_MAX, ErrorCode, ErrorDetail,
    server::{ByteRange, HiveResult},
};

pub(super) fn invalid(what: &str, error: impl std::fmt::Display) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::InvalidRequest, format!("{what}: {error}"))
}

pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> HiveResult<T> {
    text.parse().map_err(|e| invalid(what, e))
}

/// A JSON body, whatever its content type; an empty one stands for `{}`.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ErrorDetail;

    async fn from_request(request: Request, state: &S) -> Result<Self, ErrorDetail> {
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                ErrorDetail::new(ErrorCode::BodyTooLarge, format!("the body is longer than {BODY_MAX} bytes"))
            }
            other => invalid("the body could not be read", other),
        })?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text).map(Self).map_err(|e| invalid("the body", e))
    }
}

/// Parameters of the query; a missing or wrong one is an error like any other.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ErrorDetail;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorDetail> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Self(value))
            .map_err(|e| invalid("the query", e.body_text()))
    }
}

/// `bytes=a-` and `bytes=a-b` (RFC 9110, 14.1.2); several ranges and suffixes are not used between hives.
pub(super) fn byte_range(headers: &HeaderMap) -> HiveResult<Option<ByteRange>> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let refused =
        || ErrorDetail::new(ErrorCode::RangeNotSatisfiable, "write the range as bytes=FIRST- or FIRST-LAST");
    let text = value.to_str().ok().and_then(|v| v.strip_prefix("bytes=")).ok_or_else(refused)?;
    let (first, last) = text.split_once('-').ok_or_else(refused)?;
    let start: u64 = first.parse().map_err(|_| refused())?;
    let end = match last {
        "" => None,
        last => Some(last.parse::<u64>().ok().and_then(|l| l.checked_add(1)).ok_or_else(refused)?),
    };
    if end.is_some_and(|end| end <= start) { Err(refused()) } else { Ok(Some(ByteRange { start, end })) }
}

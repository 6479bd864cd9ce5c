//! Requests on their way to a worker's engine, and answers on their way back.
//!
//! Bytes are handed on as they come: nothing is collected, parsed or kept. The request's place in the worker's count
//! lives in the answer's body, so it is given back when the last byte went out, when the engine broke off, or when the
//! queen left, and in the last case dropping the body closes the engine's connection, which is how engines learn that
//! nobody waits any more.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, header,
    request::{self, Parts},
};
use http_body::{Frame, SizeHint};
use http_client::{Broken, Connector, ExchangeError, Pool, Received, Trust};

use crate::worker::Admission;

/// Connections that engines close after 5 idle seconds (llama-server, uvicorn) must not be found half closed.
const POOL_IDLE: Duration = Duration::from_secs(2);

/// To open a connection on this machine.
const CONNECT: Duration = Duration::from_secs(2);

/// Why a worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("a request to a worker cannot change the protocol")]
    Upgrade,
    #[error("the path cannot be sent to a worker")]
    Path,
    #[error("the worker did not answer")]
    NoAnswer {
        /// Whether it may have read the request.
        sent: bool,
        #[source]
        source: ExchangeError,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    engines: Pool<Body>,
}

/// What the request does, by its method: only a body can ask for tokens.
pub(crate) fn admission(method: &Method) -> Admission {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        Admission::Looks
    } else {
        Admission::Generates
    }
}

impl Proxy {
    pub(crate) fn new() -> Self {
        Self { engines: Pool::new(Connector::new(Trust::Nobody, CONNECT), POOL_IDLE) }
    }

    /// Sends a request to the engine at `port`. `held` is dropped with the answer's body.
    pub(crate) async fn forward<H: Send + Sync + Unpin + 'static>(
        &self,
        port: u16,
        head: Parts,
        body: Body,
        held: H,
    ) -> Result<Response, ProxyError> {
        let request = outgoing(port, head, body)?;
        let answer = self.engines.request(request).await;
        let answer = answer.map_err(|source| ProxyError::NoAnswer { sent: !source.is_connect(), source })?;
        let (head, body) = answer.into_parts();
        let mut response = Response::new(Body::new(Relayed { body, _held: held }));
        *response.status_mut() = head.status;
        *response.headers_mut() = returned(&head.headers);
        Ok(response)
    }
}

fn outgoing(port: u16, head: Parts, body: Body) -> Result<request::Request<Body>, ProxyError> {
    if head.headers.contains_key(header::UPGRADE) || head.method == Method::CONNECT {
        return Err(ProxyError::Upgrade);
    }
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let uri: Uri = format!("http://127.0.0.1:{port}{path}").parse().map_err(|_| ProxyError::Path)?;
    let mut request = request::Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = sent(&head.headers);
    Ok(request)
}

/// What of a request's headers an engine sees. Its own address replaces `Host`; what concerns one connection only, what
/// identifies the sender, and encodings that the queen could not read stay here.
fn sent(headers: &HeaderMap) -> HeaderMap {
    const KEPT_BACK: &[HeaderName] = &[
        header::ACCEPT_ENCODING,
        header::AUTHORIZATION,
        header::CONNECTION,
        header::COOKIE,
        header::EXPECT,
        header::FORWARDED,
        header::HOST,
        header::ORIGIN,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let named = connection_named(headers);
    let is_sent = |name: &HeaderName| {
        !KEPT_BACK.contains(name) && !named.contains(name) && name.as_str() != "keep-alive"
    };
    headers.iter().filter(|(name, _)| is_sent(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// Headers that `Connection` declares to be of this connection only (RFC 9110, 7.6.1).
fn connection_named(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

/// What of an engine's headers goes back: nothing that could set state or send a client elsewhere. The length comes with
/// the body.
fn returned(headers: &HeaderMap) -> HeaderMap {
    const KEPT: &[HeaderName] = &[header::CACHE_CONTROL, header::CONTENT_TYPE, header::RETRY_AFTER];
    let is_kept = |name: &HeaderName| KEPT.contains(name) || name.as_str().starts_with("x-rbee-");
    let kept = headers.iter().filter(|(name, _)| is_kept(name));
    kept.map(|(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone())).collect()
}

/// An engine's body with the request's place in the count.
struct Relayed<H> {
    body: Received<Body>,
    _held: H,
}

impl<H: Unpin> http_body::Body for Relayed<H> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(pair).collect()
    }

    #[test]
    fn an_engine_sees_neither_secrets_nor_connection_headers() {
        let headers = map(&[
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "1"),
            ("host", "queen"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/json"),
            ("x-request-id", "r-1"),
        ]);
        let mut names: Vec<_> = sent(&headers).keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["content-type", "x-request-id"]);
    }

    #[test]
    fn an_engine_cannot_set_cookies_or_redirect() {
        let headers = map(&[
            ("set-cookie", "a=b"),
            ("location", "http://169.254.169.254/"),
            ("server", "x"),
            ("content-type", "text/event-stream"),
            ("retry-after", "1"),
            ("x-rbee-note", "1"),
        ]);
        let mut names: Vec<_> = returned(&headers).keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["content-type", "retry-after", "x-rbee-note"]);
    }
}

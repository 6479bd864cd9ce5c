//! GET requests to hubs and to other hives.
//!
//! A hub keeps its files elsewhere and sends us there, so its redirects are followed, a few of them and never from https
//! to http; the hub's token stays with the hub. Another hive sends nobody anywhere, so its redirects are an error; it has a
//! certificate of its own that is compared, or is reached over plain HTTP.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fleet::{TlsFingerprint, Token};
use http::{HeaderMap, Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty};
use http_client::{Connector, ExchangeError, PerPin, Pool, Received, Trust};

/// To open a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Most redirects of one request.
const REDIRECTS: usize = 5;

/// How long an unused connection is kept.
const KEPT: Duration = Duration::from_secs(8);

type Client = Pool<Empty<Bytes>>;

#[derive(Debug, Clone)]
pub(crate) struct Web {
    hub: Client,
    peers: Arc<PerPin<Client>>,
    /// Longest wait for a head, or for the next piece of a body.
    stall: Duration,
}

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Hub,
    /// Another hive, with the only certificate that it may show.
    Peer(Option<TlsFingerprint>),
}

/// What goes with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) bearer: Option<&'a Token>,
    /// First byte of the range; the whole file if absent.
    pub(crate) from: Option<u64>,
    /// Behind the range's last byte.
    pub(crate) to: Option<u64>,
    pub(crate) whom: Whom,
}

/// An answer's head, and its body piece by piece.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Received<Empty<Bytes>>,
    stall: Duration,
}

fn client(trust: Trust) -> Client {
    Pool::new(Connector::new(trust, CONNECT), KEPT)
}

impl Web {
    /// Connects to nobody yet.
    pub(crate) fn new(stall: Duration) -> Self {
        Self { hub: client(Trust::Public), peers: Arc::new(PerPin::new(client)), stall }
    }

    /// Status, headers and body. The error is a reason for people; it shows no token.
    pub(crate) async fn get(&self, url: &Uri, ask: Ask<'_>) -> Result<Answer, String> {
        let mut url = url.clone();
        let mut bearer = ask.bearer;
        for _ in 0..=REDIRECTS {
            let answer = self.get_once(&url, bearer, &ask).await?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let next = match ask.whom {
                Whom::Hub => redirected(&url, &answer.headers)?,
                Whom::Peer(_) => return Err(format!("it answered {}", answer.status)),
            };
            if next.authority() != url.authority() {
                bearer = None;
            }
            url = next;
        }
        Err(format!("it redirected more than {REDIRECTS} times"))
    }

    async fn get_once(&self, url: &Uri, bearer: Option<&Token>, ask: &Ask<'_>) -> Result<Answer, String> {
        let mut request =
            Request::get(url).header(header::USER_AGENT, concat!("rbee-hive/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        if let Some(from) = ask.from {
            let last = ask.to.map_or_else(String::new, |to| to.saturating_sub(1).to_string());
            request = request.header(header::RANGE, format!("bytes={from}-{last}"));
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let client = match ask.whom {
            Whom::Hub => self.hub.clone(),
            Whom::Peer(pin) => self.peers.of(pin),
        };
        let asking = tokio::time::timeout(self.stall, client.request(request)).await;
        let response = asking.map_err(|_| format!("it did not answer within {:?}", self.stall))?;
        let failed = |error: ExchangeError| match http_client::wrong_certificate(&error) {
            Some(wrong) => wrong.to_string(),
            None => causes::with_causes(&error),
        };
        let (head, body) = response.map_err(failed)?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, stall: self.stall })
    }
}

/// Where an answer sends us: a full URL, or a path on the same host.
fn redirected(from: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let text = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let target: Uri = text.and_then(|text| text.parse().ok()).ok_or("it redirected to no URL")?;
    let mut parts = target.into_parts();
    if parts.authority.is_none() {
        parts.scheme = from.scheme().cloned();
        parts.authority = from.authority().cloned();
    }
    let target = Uri::from_parts(parts).map_err(|_| "it redirected to no URL")?;
    if from.scheme() == Some(&Scheme::HTTPS) && target.scheme() != Some(&Scheme::HTTPS) {
        return Err("it redirected from https to something less".to_owned());
    }
    Ok(target)
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = tokio::time::timeout(self.stall, self.body.frame()).await;
            let frame = frame.map_err(|_| format!("nothing came for {:?}", self.stall))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(causes::with_causes(&error)),
                Some(Ok(frame)) => {
                    // What is no data are trailers.
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// The whole body, if it is not longer than `limit`.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Bytes, String> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > limit {
                return Err(format!("its answer is longer than {limit} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// The first `wanted` bytes of the body, or all if it is shorter.
    pub(crate) async fn prefix(mut self, wanted: usize) -> Result<Bytes, String> {
        let mut body = BytesMut::new();
        while body.len() < wanted
            && let Some(piece) = self.piece().await?
        {
            body.extend_from_slice(&piece);
        }
        body.truncate(wanted);
        Ok(body.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(from: &str, location: &'static str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, http::HeaderValue::from_static(location));
        redirected(&from.parse().unwrap(), &headers).map(|uri| uri.to_string())
    }

    #[test]
    fn a_redirect_never_leaves_tls() {
        assert_eq!(next("https://hub/a", "https://cdn/b?x=1").unwrap(), "https://cdn/b?x=1");
        assert_eq!(next("https://hub/a", "/b").unwrap(), "https://hub/b");
        assert_eq!(next("http://127.0.0.1:1/a", "http://127.0.0.1:2/b").unwrap(), "http://127.0.0.1:2/b");
        assert!(next("https://hub/a", "http://cdn/b").is_err());
        assert!(next("https://hub/a", "file:///etc/passwd").is_err());
    }
}

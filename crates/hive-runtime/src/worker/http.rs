//! Short questions to an engine on this machine.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use http_client::{Connector, Pool, Trust};

/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;

/// A client for engines that listen on loopback.
#[derive(Debug, Clone)]
pub(crate) struct Loopback {
    client: Pool<Empty<Bytes>>,
}

/// An engine that did not answer, or not in time. What it was asked stands at the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAnswer;

impl Loopback {
    pub(crate) fn new() -> Self {
        let connector = Connector::new(Trust::Nobody, Duration::from_secs(1));
        Self { client: Pool::new(connector, Duration::from_secs(3)) }
    }

    /// Status and body of a GET, within `bound`.
    pub(crate) async fn get(
        &self,
        port: u16,
        path: &str,
        bound: Duration,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let uri: Uri = format!("http://127.0.0.1:{port}{path}").parse().map_err(|_| NoAnswer)?;
        let request = Request::get(uri).body(Empty::new()).map_err(|_| NoAnswer)?;
        let asking = async {
            let response = self.client.request(request).await.map_err(|_| NoAnswer)?;
            let status = response.status();
            let body =
                Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|_| NoAnswer)?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(bound, asking).await.unwrap_or(Err(NoAnswer))
    }
}

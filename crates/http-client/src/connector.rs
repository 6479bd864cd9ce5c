//! Connections, opened.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::pki_types::{DnsName, ServerName};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use crate::Trust;

/// Stands where TLS wants a name. Nobody sees it, and no certificate is compared with it.
const NO_NAME: &str = "hive";

/// Opens connections, handshake included, within a bound.
#[derive(Debug, Clone)]
pub struct Connector {
    inner: HttpsConnector<HttpConnector>,
    within: Duration,
}

impl Connector {
    /// Opens connections to whom this trust is given, each within `within`.
    #[must_use]
    pub fn new(trust: Trust, within: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Tokens are small and must not wait for more.
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(within));
        let builder = HttpsConnectorBuilder::new().with_tls_config(trust.config());
        let builder = match trust {
            Trust::Pinned(_) => builder.https_only(),
            Trust::Public | Trust::Nobody => builder.https_or_http(),
        };
        let builder = match (trust, DnsName::try_from(NO_NAME)) {
            // A machine is called what its owner likes; not all of that is a name for TLS.
            (Trust::Pinned(_) | Trust::Nobody, Ok(name)) => builder.with_server_name_resolver(
                FixedServerNameResolver::new(ServerName::DnsName(name.to_owned())),
            ),
            _ => builder,
        };
        Self { inner: builder.enable_http1().wrap_connector(tcp), within }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, within) = (self.inner.call(uri), self.within);
        Box::pin(async move {
            match timeout(within, connecting).await {
                Ok(connected) => connected,
                // TCP has a bound of its own, so this is a peer that accepts and says nothing.
                Err(_) => Err(silent(within).into()),
            }
        })
    }
}

fn silent(within: Duration) -> io::Error {
    let what = format!("it accepted the connection and said nothing for {} s", within.as_secs_f32());
    io::Error::new(io::ErrorKind::TimedOut, what)
}

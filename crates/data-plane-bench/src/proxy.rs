//! The least that a router can do: read a body, look for its `model`, pass everything on. What Rust and hyper cost without
//! a decision, and so what a queen is compared with.

use std::{borrow::Cow, net::SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde::Deserialize;
use tokio::net::TcpListener;

type Upstream = Client<HttpConnector, Full<Bytes>>;
type Answer = Response<Either<Incoming, Full<Bytes>>>;

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
}

/// Serves until it is ended.
pub(crate) async fn run(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("could not listen on {listen}"))?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstream = Client::builder(TokioExecutor::new()).build(connector);
    println!("ready");
    let local = tokio::task::LocalSet::new();
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let client = client.clone();
            tokio::task::spawn_local(async move {
                let service = service_fn(|request| forward(&client, upstream, request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    local.run_until(accepting).await
}

fn refused(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Right(Full::default()));
    *answer.status_mut() = status;
    answer
}

async fn forward(
    client: &Upstream,
    upstream: SocketAddr,
    request: Request<Incoming>,
) -> Result<Answer, hyper_util::client::legacy::Error> {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(refused(StatusCode::BAD_REQUEST)) };
    let body = body.to_bytes();
    let Ok(Named { model }) = serde_json::from_slice(&body) else {
        return Ok(refused(StatusCode::BAD_REQUEST));
    };
    if model.is_empty() {
        return Ok(refused(StatusCode::NOT_FOUND));
    }
    let path = parts.uri.path();
    let Ok(uri) = format!("http://{upstream}{path}").parse() else {
        return Ok(refused(StatusCode::BAD_REQUEST));
    };
    parts.uri = uri;
    parts.headers.remove(header::HOST);
    let answer = client.request(Request::from_parts(parts, Full::new(body))).await?;
    Ok(answer.map(Either::Left))
}

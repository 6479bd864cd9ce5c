//! The client against a served hive.

use std::time::Duration;

use axum::{Router, routing::get};
use fleet::{DownloadState, HiveEndpoint, TlsFingerprint, WorkerState};
use futures_util::StreamExt;
use hive_api::{
    ErrorCode, ShutdownRequest, StopWorkerRequest, WatchEvent,
    client::{ClientErrorKind, Connections, HiveClient, Timeouts},
};
use http_serve::{Identity, Limits, Server, Shutdown};
use tokio_util::task::TaskTracker;

use crate::stub::{DIGEST, FILE, LAUNCH, Stub, TOKEN};

struct Served {
    client: HiveClient,
    connections: Connections,
    shutdown: Shutdown,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.now();
    }
}

fn serve(router: Router) -> Served {
    serve_as(router, None, None)
}

/// Over TLS, if there is an identity; a client that expects `pin`.
fn serve_as(router: Router, identity: Option<Identity>, pin: Option<TlsFingerprint>) -> Served {
    let listener = http_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = Shutdown::default();
    let server =
        Server::new(listener, router, Limits::default()).with_shutdown(shutdown.clone(), Duration::ZERO);
    match identity {
        None => TaskTracker::new().spawn(server.run()),
        Some(identity) => TaskTracker::new().spawn(server.transport(move |stream| {
            let identity = identity.clone();
            async move { identity.accept(stream).await }
        })),
    };
    let connections = Connections::new(Timeouts::default()).unwrap();
    let client = connections.client(HiveEndpoint {
        hive_id: "gaming-pc".parse().unwrap(),
        launch_id: LAUNCH.parse().unwrap(),
        host: "127.0.0.1".parse().unwrap(),
        port,
        token: TOKEN.parse().unwrap(),
        pin,
    });
    Served { client, connections, shutdown }
}

#[tokio::test]
async fn every_call_comes_through() {
    all_calls(&serve(Stub::router())).await;
    let identity = Identity::make("gaming-pc").unwrap();
    let pin = identity.fingerprint();
    all_calls(&serve_as(Stub::router(), Some(identity), Some(pin))).await;
}

#[tokio::test]
async fn a_hive_with_another_certificate_is_told_so_and_asked_nothing() {
    let [shown, wanted] = [(); 2].map(|()| Identity::make("gaming-pc").unwrap());
    let pin = wanted.fingerprint();
    let served = serve_as(Stub::router(), Some(shown), Some(pin));
    let endpoint = served.client.endpoint();
    let health = served.connections.health(&endpoint.host, endpoint.port, endpoint.pin).await.unwrap_err();
    let call = served.client.workers().await.unwrap_err();
    for error in [health, call] {
        assert!(matches!(&error.kind, ClientErrorKind::WrongCertificate(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(&pin.to_string()) && text.contains("nothing was sent"), "{text}");
    }
}

async fn all_calls(served: &Served) {
    let client = &served.client;
    let endpoint = client.endpoint();
    let health = served.connections.health(&endpoint.host, endpoint.port, endpoint.pin).await.unwrap();
    assert_eq!(health.hive_id, endpoint.hive_id);
    assert_eq!(client.capabilities().await.unwrap(), crate::samples::capabilities_reply());
    assert_eq!(client.workers().await.unwrap().workers.len(), 1);
    assert_eq!(client.models().await.unwrap().models, [crate::samples::stored()]);
    let odd = "hf:a/b+c@v=1,2:d.gguf".parse().unwrap();
    assert_eq!(client.inspect(&odd).await.unwrap(), crate::samples::inspection());
    client.delete_model(&odd).await.unwrap();
    let worker = "w-3".parse().unwrap();
    let at_once = StopWorkerRequest { grace_ms: Some(0) };
    assert_eq!(client.stop_worker(&worker, &at_once).await.unwrap().state, WorkerState::Stopping);
    assert_eq!(client.logs(Some(&worker), 7).await.unwrap().lines, ["w-3 7"]);
    assert_eq!(client.shutdown(&ShutdownRequest::default()).await.unwrap().status, "stopping");
}

#[tokio::test]
async fn both_streams_are_read_to_their_end() {
    let served = serve(Stub::router());
    let events: Vec<_> = served.client.watch().await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(events.iter().map(WatchEvent::name).collect::<Vec<_>>(), ["snapshot", "beat"]);
    let id = "d-1f6bd2a0".parse().unwrap();
    let records = served.client.download_progress(&id).await.unwrap();
    let records: Vec<_> = records.map(Result::unwrap).collect().await;
    assert_eq!(records.last().unwrap().state, DownloadState::Complete);
}

#[tokio::test]
async fn files_are_carried_part_by_part() {
    let served = serve(Stub::router());
    let digest = DIGEST.parse().unwrap();
    assert_eq!(served.client.grant_blob(&digest).await.unwrap().bytes, 5_027_783_488);
    assert_eq!(served.client.read_blob(&digest, 2..5).await.unwrap(), &FILE[2..5]);
    let beyond = served.client.read_blob(&digest, 8..12).await.unwrap_err();
    assert!(matches!(beyond.kind, ClientErrorKind::NotAHive { .. }), "{beyond}");
    assert_eq!(served.client.write_blob(&digest, 100, FILE.into()).await.unwrap(), 110);
}

#[tokio::test]
async fn a_refusal_keeps_its_code() {
    let served = serve(Stub::router());
    let error = served.client.inspect(&"a/b".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.refused().unwrap().code, ErrorCode::ModelNotFound);
    insta::assert_snapshot!(error, @"hive gaming-pc: inspect model: no hf:a/b");
}

#[tokio::test]
async fn a_stream_of_something_else_is_no_hive() {
    let page = || async { ([("content-type", "text/html")], "<p>Welcome") };
    let served = serve(Router::new().route("/v1/watch", get(page)));
    let error = served.client.watch().await.err().unwrap();
    assert!(matches!(error.kind, ClientErrorKind::NotAHive { .. }), "{error}");
}

#[tokio::test]
async fn a_stream_ends_with_its_first_error() {
    let events = "event: beat\ndata: {}\n\nevent: beat\ndata: {\"launch_id\":\"l-1\",\"rev\":1}\n\n";
    let watch = move || async move { ([("content-type", "text/event-stream")], events) };
    let served = serve(Router::new().route("/v1/watch", get(watch)));
    let read: Vec<_> = served.client.watch().await.unwrap().collect().await;
    assert!(read.len() == 1 && read[0].is_err(), "{read:?}");
}

#[tokio::test]
async fn a_hive_of_another_contract_is_named_so() {
    let health = || async {
        let mut health = crate::samples::health();
        health.api_version = 99;
        axum::Json(health)
    };
    let served = serve(Router::new().route("/v1/health", get(health)));
    let endpoint = served.client.endpoint();
    let error = served.connections.health(&endpoint.host, endpoint.port, endpoint.pin).await.unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[tokio::test]
async fn health_is_asked_on_a_connection_of_its_own() {
    let (seen, mut ports) = tokio::sync::mpsc::channel(8);
    let listener = http_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = Shutdown::default();
    let server = Server::new(listener, Stub::router(), Limits::default())
        .with_shutdown(shutdown.clone(), Duration::ZERO);
    TaskTracker::new().spawn(server.transport(move |stream| {
        let seen = seen.clone();
        async move {
            seen.send(stream.peer_addr()?.port()).await.map_err(std::io::Error::other)?;
            Ok(stream)
        }
    }));
    let connections = Connections::new(Timeouts::default()).unwrap();
    let host = "127.0.0.1".parse().unwrap();
    for _ in 0..3 {
        connections.health(&host, port, None).await.unwrap();
    }
    shutdown.now();
    let mut all = Vec::new();
    while let Some(port) = ports.recv().await {
        all.push(port);
    }
    all.dedup();
    assert_eq!(all.len(), 3, "each question had a connection of its own");
}

//! Both clients against servers that show the right certificate, another one, somebody else's, or none.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use fleet::TlsFingerprint;
use http::Request;
use http_body_util::{BodyExt, Empty};
use http_client::{Connector, ExchangeError, PerPin, Pool, Trust, WrongCertificate, wrong_certificate};
use http_serve::{Identity, Limits, Server, Shutdown};
use rustls::{
    ServerConfig, SignatureScheme,
    crypto::ring,
    pki_types::PrivateKeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

type Hyper = Pool<Empty<Bytes>>;

fn hyper(trust: Trust) -> Hyper {
    Pool::new(Connector::new(trust, Duration::from_secs(5)), Duration::from_secs(60))
}

/// A server that counts the requests that reach it.
struct Served {
    address: SocketAddr,
    requests: Arc<AtomicU32>,
    shutdown: Shutdown,
    running: TaskTracker,
}

impl Served {
    fn start(identity: Option<&Identity>) -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), identity)
    }

    fn at(address: SocketAddr, identity: Option<&Identity>) -> Self {
        let listener = http_serve::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&requests);
        let answer = move || async move {
            counted.fetch_add(1, Ordering::Relaxed);
            "hello"
        };
        let shutdown = Shutdown::default();
        let server = Server::new(listener, Router::new().route("/", get(answer)), Limits::default())
            .with_shutdown(shutdown.clone(), Duration::ZERO);
        let running = TaskTracker::new();
        match identity.cloned() {
            None => running.spawn(server.run()),
            Some(identity) => running.spawn(server.transport(move |stream| {
                let identity = identity.clone();
                async move { identity.accept(stream).await }
            })),
        };
        Self { address, requests, shutdown, running }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/", self.address)
    }

    fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.shutdown.now();
        self.running.close();
        self.running.wait().await;
    }
}

fn identity() -> Identity {
    Identity::make("box").expect("a certificate")
}

async fn ask(client: &Hyper, url: &str) -> Result<Bytes, ExchangeError> {
    let answer = client.request(Request::get(url).body(Empty::new()).expect("a request")).await?;
    Ok(answer.into_body().collect().await.expect("a body").to_bytes())
}

async fn ask_reqwest(trust: Trust, url: &str) -> Result<String, reqwest::Error> {
    http_client::builder(trust).build().expect("a client").get(url).send().await?.text().await
}

#[tokio::test]
async fn the_pinned_certificate_lets_both_clients_through() {
    let identity = identity();
    let served = Served::start(Some(&identity));
    let trust = Trust::Pinned(identity.fingerprint());
    assert_eq!(ask(&hyper(trust), &served.url("https")).await.unwrap().as_ref(), b"hello");
    assert_eq!(ask_reqwest(trust, &served.url("https")).await.unwrap(), "hello");
    // A name that no certificate could be made for is as good.
    let url = format!("https://localhost:{}/", served.address.port());
    assert_eq!(ask(&hyper(trust), &url).await.unwrap().as_ref(), b"hello");
    served.stop().await;
}

#[tokio::test]
async fn another_certificate_is_named_and_shown_no_request() {
    let (shown, wanted) = (identity(), identity());
    let served = Served::start(Some(&shown));
    for (trust, expected) in
        [(Trust::Pinned(wanted.fingerprint()), Some(wanted.fingerprint())), (Trust::Nobody, None)]
    {
        let wrong = WrongCertificate { expected, found: shown.fingerprint() };
        let error = ask(&hyper(trust), &served.url("https")).await.unwrap_err();
        assert_eq!(wrong_certificate(&error), Some(wrong.clone()), "{error:?}");
        let error = ask_reqwest(trust, &served.url("https")).await.unwrap_err();
        assert_eq!(wrong_certificate(&error), Some(wrong), "{error:?}");
    }
    let error = ask(&hyper(Trust::Public), &served.url("https")).await.unwrap_err();
    assert_eq!(wrong_certificate(&error), None, "{error:?}");
    assert_eq!(served.requests(), 0);
    served.stop().await;
}

#[tokio::test]
async fn with_a_pin_plain_http_is_refused() {
    let served = Served::start(None);
    let trust = Trust::Pinned(identity().fingerprint());
    assert!(ask(&hyper(trust), &served.url("http")).await.is_err());
    assert!(ask_reqwest(trust, &served.url("http")).await.is_err());
    // Nor is somebody who speaks no TLS at all told anything.
    assert!(ask(&hyper(trust), &served.url("https")).await.is_err());
    assert_eq!(served.requests(), 0);
    assert_eq!(ask(&hyper(Trust::Nobody), &served.url("http")).await.unwrap().as_ref(), b"hello");
    served.stop().await;
}

/// Shows one certificate and signs with the key of another.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesServerCert for Impostor {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        assert!(hello.signature_schemes().contains(&SignatureScheme::ECDSA_NISTP256_SHA256));
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn whoever_shows_the_certificate_must_have_its_key() {
    let (real, own) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let stolen = rcgen::CertificateParams::default().self_signed(&real).unwrap().der().clone();
    let pin = TlsFingerprint::new(Sha256::digest(&stolen).into());
    let key = ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(own.serialize_der().into())).unwrap();
    let resolver = Impostor(Arc::new(CertifiedKey::new(vec![stolen], key)));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let client = hyper(Trust::Pinned(pin));
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await
    };
    let both = async { tokio::join!(serving, ask(&client, &url)) };
    let (accepted, asked) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("it is refused");
    assert!(accepted.is_err(), "the handshake must not end well");
    let error = asked.unwrap_err();
    assert!(format!("{error:?}").contains("BadSignature"), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_costs_no_more_than_the_bound() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let connector = Connector::new(Trust::Pinned(identity().fingerprint()), Duration::from_millis(50));
    let client: Hyper = Pool::new(connector, Duration::from_secs(60));
    let asked = tokio::time::timeout(Duration::from_secs(20), ask(&client, &url)).await;
    let error = asked.expect("it ends by itself").unwrap_err();
    assert!(format!("{error:?}").contains("said nothing"), "{error:?}");
}

#[tokio::test]
async fn connections_of_one_pin_are_never_used_for_another() {
    let clients = PerPin::new(hyper);
    let (first, second) = (identity(), identity());
    let served = Served::start(Some(&first));
    let url = served.url("https");
    // A connection to the right one is open and would be reused.
    ask(&clients.of(Some(first.fingerprint())), &url).await.unwrap();
    let error = ask(&clients.of(Some(second.fingerprint())), &url).await.unwrap_err();
    assert!(wrong_certificate(&error).is_some(), "{error:?}");
    assert_eq!(served.requests(), 1);
    let address = served.address;
    served.stop().await;
    // Another hive at the same address: what is known of the first one tells nothing of it.
    let served = Served::at(address, Some(&second));
    ask(&clients.of(Some(second.fingerprint())), &url).await.unwrap();
    assert!(ask(&clients.of(Some(first.fingerprint())), &url).await.is_err());
    assert_eq!(served.requests(), 1);
    served.stop().await;
}

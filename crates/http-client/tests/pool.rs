//! What becomes of connections: kept, replaced, closed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use http_client::{Broken, Connector, ExchangeError, Pool, Trust};

const KEPT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

fn pool(keep: Duration) -> Pool<Full<Bytes>> {
    Pool::new(Connector::new(Trust::Nobody, Duration::from_secs(5)), keep)
}

/// A peer whose connections the test plays itself.
struct Peer {
    listener: TcpListener,
}

impl Peer {
    fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("it works on loopback") }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it works on loopback")
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("it works on loopback");
        stream.set_read_timeout(Some(PATIENCE)).expect("it works on loopback");
        stream
    }
}

/// Reads one request up to the end of its body, which ends with a dot; none at the end of the connection.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while !text.ends_with(b".") {
        match stream.read(&mut piece).expect("it works on loopback") {
            0 => return None,
            length => text.extend_from_slice(&piece[..length]),
        }
    }
    Some(String::from_utf8(text).expect("it works on loopback"))
}

fn answer(stream: &mut TcpStream, body: &str) {
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).expect("it works on loopback");
}

async fn ask(pool: &Pool<Full<Bytes>>, address: SocketAddr) -> Result<String, ExchangeError> {
    let request = Request::post(format!("http://{address}/path?query"))
        .body(Full::from("body."))
        .expect("it works on loopback");
    let body = pool.request(request).await?.into_body().collect().await.map_err(ExchangeError::Broke)?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).expect("it works on loopback"))
}

#[tokio::test]
async fn a_connection_is_used_again_and_sends_a_path_and_a_host() {
    let peer = Peer::new();
    let address = peer.address();
    let server = thread::spawn(move || {
        let mut stream = peer.accept();
        let first = request(&mut stream).unwrap();
        answer(&mut stream, "one");
        request(&mut stream).unwrap();
        answer(&mut stream, "two");
        first
    });
    let pool = pool(KEPT);
    assert_eq!(ask(&pool, address).await.unwrap(), "one");
    assert_eq!(ask(&pool, address).await.unwrap(), "two");
    let head = server.join().unwrap().to_lowercase();
    assert!(head.starts_with("post /path?query http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced_and_the_request_sent_once() {
    let peer = Peer::new();
    let address = peer.address();
    let (closed, is_closed) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut stream = peer.accept();
        request(&mut stream).unwrap();
        answer(&mut stream, "one");
        drop(stream);
        closed.send(()).unwrap();
        let mut stream = peer.accept();
        request(&mut stream).unwrap();
        answer(&mut stream, "two");
    });
    let pool = pool(KEPT);
    assert_eq!(ask(&pool, address).await.unwrap(), "one");
    // Meanwhile the runtime, too, learns what became of the connection.
    tokio::task::spawn_blocking(move || is_closed.recv_timeout(PATIENCE).unwrap()).await.unwrap();
    assert_eq!(ask(&pool, address).await.unwrap(), "two");
    server.join().unwrap();
}

#[tokio::test]
async fn without_time_to_keep_them_each_request_has_a_connection_of_its_own() {
    let peer = Peer::new();
    let address = peer.address();
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let mut stream = peer.accept();
            request(&mut stream).unwrap();
            answer(&mut stream, "one");
            assert_eq!(request(&mut stream), None, "a second request on the same connection");
        }
    });
    let pool = pool(Duration::ZERO);
    assert_eq!(ask(&pool, address).await.unwrap(), "one");
    assert_eq!(ask(&pool, address).await.unwrap(), "one");
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_connection_is_closed_in_time() {
    let peer = Peer::new();
    let address = peer.address();
    let server = thread::spawn(move || {
        let mut stream = peer.accept();
        request(&mut stream).unwrap();
        answer(&mut stream, "one");
        request(&mut stream)
    });
    let pool = pool(Duration::from_millis(50));
    assert_eq!(ask(&pool, address).await.unwrap(), "one");
    let closed = tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
    assert_eq!(closed, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_dropped_closes_its_connection_and_pieces_come_one_by_one() {
    let peer = Peer::new();
    let address = peer.address();
    let (more, go_on) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut stream = peer.accept();
        request(&mut stream).unwrap();
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{}", chunk("one")).as_bytes()).unwrap();
        go_on.recv_timeout(PATIENCE).unwrap();
        stream.write_all(chunk("two").as_bytes()).unwrap();
        request(&mut stream)
    });
    let pool = pool(KEPT);
    let request = Request::post(format!("http://{address}/")).body(Full::from("body.")).unwrap();
    let mut body = pool.request(request).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    more.send(()).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
    drop(body);
    assert_eq!(tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn nobody_there_is_told_apart_from_a_connection_that_broke() {
    let peer = Peer::new();
    let address = peer.address();
    let server = thread::spawn(move || {
        request(&mut peer.accept()).unwrap();
    });
    let pool = pool(KEPT);
    assert!(!ask(&pool, address).await.unwrap_err().is_connect());
    server.join().unwrap();
    assert!(ask(&pool, address).await.unwrap_err().is_connect());
}

/// What comes of an answer that the peer gives to a request and closes the connection behind.
async fn of(text: &'static str) -> Result<String, ExchangeError> {
    let peer = Peer::new();
    let address = peer.address();
    let server = thread::spawn(move || {
        let mut stream = peer.accept();
        request(&mut stream).expect("it works on loopback");
        stream.write_all(text.as_bytes()).expect("it works on loopback");
    });
    let answer = ask(&pool(KEPT), address).await;
    server.join().expect("it works on loopback");
    answer
}

#[tokio::test]
async fn an_answer_is_whole_or_an_error() {
    for (text, whole) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none", Some("one")),
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\none", None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n", Some("one")),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n", None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n", None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none!", None),
        ("HTTP/1.1 200 OK\r\n\r\none", Some("one")),
        ("HTTP/1.0 200 OK\r\n\r\none", Some("one")),
        ("HTTP/1.1 204 No Content\r\n\r\n", Some("")),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some("")),
        ("HTTP/1.1 200 OK\r\ncontent-le", None),
        ("", None),
    ] {
        let answer = of(text).await;
        assert_eq!(answer.as_ref().ok().map(String::as_str), whole, "{text:?}: {answer:?}");
        assert!(answer.is_ok() || !answer.unwrap_err().is_connect(), "{text:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told_at_once() {
    let peer = Peer::new();
    let address = peer.address();
    let server = thread::spawn(move || {
        let mut stream = peer.accept();
        request(&mut stream).unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        request(&mut stream)
    });
    let told = tokio::time::timeout(PATIENCE, ask(&pool(KEPT), address)).await.unwrap();
    assert!(matches!(told, Err(ExchangeError::Broke(Broken::Garbled(_)))), "{told:?}");
    assert_eq!(server.join().unwrap(), None, "and the connection is closed");
}

#[tokio::test]
async fn a_connection_with_anything_behind_its_answer_is_not_used_again() {
    let close = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\none";
    let more =
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for first in [close, more] {
        let peer = Peer::new();
        let address = peer.address();
        let server = thread::spawn(move || {
            let mut stream = peer.accept();
            request(&mut stream).unwrap();
            stream.write_all(first.as_bytes()).unwrap();
            let mut other = peer.accept();
            request(&mut other).unwrap();
            answer(&mut other, "two");
        });
        let pool = pool(KEPT);
        assert_eq!(ask(&pool, address).await.unwrap(), "one");
        assert_eq!(ask(&pool, address).await.unwrap(), "two");
        server.join().unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_refuses_a_long_body_before_it_has_read_it_is_understood() {
    for closes in [false, true] {
        let peer = Peer::new();
        let address = peer.address();
        let server = thread::spawn(move || {
            let mut stream = peer.accept();
            assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0);
            let refusal = "HTTP/1.1 413 Too Long\r\ncontent-length: 8\r\n\r\ntoo long";
            stream.write_all(refusal.as_bytes()).unwrap();
            // It reads no more. The client must not wait until it does, nor take the end of its own writing for the answer.
            (!closes).then_some(stream)
        });
        let body = Full::from(vec![b'x'; 16 * 1024 * 1024]);
        let request = Request::post(format!("http://{address}/")).body(body).unwrap();
        let pool = pool(KEPT);
        let answer = tokio::time::timeout(PATIENCE, pool.request(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "too long");
        drop(server.join().unwrap());
    }
}

#[tokio::test]
async fn bodies_of_any_length_and_kind_go_to_a_real_server_and_back() {
    use axum::body::Body;
    let echo = axum::Router::new().fallback(|request: axum::extract::Request| async {
        let is_whole = request.uri().path() == "/whole";
        let body = request.into_body();
        if is_whole { Body::from(axum::body::to_bytes(body, usize::MAX).await.unwrap()) } else { body }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio_util::task::TaskTracker::new().spawn(async move { axum::serve(listener, echo).await });
    let pool: Pool<Body> = Pool::new(Connector::new(Trust::Nobody, PATIENCE), KEPT);
    for length in [0, 1, 999, 1000, 1001, 65_536, 1_000_003] {
        let text: Bytes = (0..length).map(|at| b"0123456789\r\n"[at % 12]).collect::<Vec<u8>>().into();
        for path in ["whole", "piece"] {
            for is_known in [true, false] {
                let body = if is_known {
                    Body::from(text.clone())
                } else {
                    let pieces: Vec<_> = text.chunks(7001).map(Bytes::copy_from_slice).collect();
                    Body::from_stream(futures_util::stream::iter(
                        pieces.into_iter().map(Ok::<_, std::io::Error>),
                    ))
                };
                let request = Request::post(format!("http://{address}/{path}")).body(body).unwrap();
                let answer = tokio::time::timeout(PATIENCE, pool.request(request)).await.unwrap().unwrap();
                let back = answer.into_body().collect().await.unwrap().to_bytes();
                assert!(back == text, "{length} bytes, {path}, {is_known}: {} came back", back.len());
            }
        }
    }
}

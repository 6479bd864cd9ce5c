//! What one exchange makes of bodies that fail or wait, of URIs, and of answers in any pieces.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Empty};
use http_client::{Broken, Connector, ExchangeError, Pool, Trust};
use http_serve::Identity;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};

const KEPT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for whoever has something to do.
const A_WHILE: Duration = Duration::from_millis(500);

/// A byte that nothing around a body has, many times.
const PIECE: &[u8] = &[b'!'; 16 * 1024];

fn pool<B: http_client::Outgoing>(trust: Trust) -> Pool<B> {
    Pool::new(Connector::new(trust, PATIENCE), KEPT)
}

/// Reads up to the end of a request's head.
fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("it works on loopback");
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("it works on loopback")
}

/// A peer of one connection, which gives this answer to the first head and waits for the end. It ends with what it was asked.
fn peer(answer: &'static str) -> (u16, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("it works on loopback");
    let port = listener.local_addr().expect("it works on loopback").port();
    let playing = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it works on loopback");
        let head = head(&mut stream);
        stream.write_all(answer.as_bytes()).expect("it works on loopback");
        // It waits for whatever else it is sent, for as long as the connection is there.
        let _end = stream.read_to_end(&mut Vec::new());
        head
    });
    (port, playing)
}

/// A body that gives a piece and fails.
fn failing() -> Body {
    let failed = std::io::Error::other("the client left");
    Body::from_stream(stream::iter([Ok(Bytes::from_static(b"a piece")), Err(failed)]))
}

#[tokio::test]
async fn a_body_that_fails_ends_the_exchange_although_the_peer_waits_for_the_rest() {
    let (port, playing) = peer("");
    let request = Request::post(format!("http://127.0.0.1:{port}/")).body(failing()).unwrap();
    let told = timeout(PATIENCE, pool(Trust::Nobody).request(request)).await.unwrap();
    assert!(matches!(told, Err(ExchangeError::Broke(Broken::Body(_)))), "{told:?}");
    playing.join().unwrap();
}

#[tokio::test]
async fn a_body_that_fails_ends_an_answer_that_began_already() {
    let (port, playing) = peer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
    let (fail, fails) = oneshot::channel::<()>();
    let late = stream::once(async move {
        fails.await.ok();
        Err::<Bytes, _>(std::io::Error::other("the client left"))
    });
    let request = Request::post(format!("http://127.0.0.1:{port}/")).body(Body::from_stream(late)).unwrap();
    let answer = timeout(PATIENCE, pool(Trust::Nobody).request(request)).await.unwrap().unwrap();
    let mut body = answer.into_body();
    assert_eq!(timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap(), "one");
    fail.send(()).unwrap();
    let told = timeout(PATIENCE, body.frame()).await.unwrap();
    assert!(matches!(told, Some(Err(Broken::Body(_)))), "{told:?}");
    assert!(timeout(PATIENCE, body.frame()).await.unwrap().is_none());
    drop(body);
    playing.join().unwrap();
}

/// How many pieces of a body TLS takes before its peer reads.
async fn unread_through_tls(
    pool: &Pool<Body>,
    listener: &tokio::net::TcpListener,
    identity: &Identity,
) -> usize {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let pieces = stream::iter(std::iter::repeat_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(Bytes::from_static(PIECE))
    }));
    let request = to(listener).body(Body::from_stream(pieces)).expect("a request");
    let held = async {
        let (tcp, _) = listener.accept().await.expect("it works on loopback");
        let _stream = identity.accept(tcp).await.expect("it works on loopback");
        std::future::pending::<()>().await;
    };
    // However long this is, what follows is right; it is only sharper when nothing more would have been taken.
    let _elapsed = timeout(A_WHILE, async { tokio::join!(pool.request(request), held) }).await;
    taken.load(Ordering::Relaxed)
}

/// Sends so many pieces, and a last one when the peer saw them all.
async fn in_two_parts(
    pool: &Pool<Body>,
    listener: &tokio::net::TcpListener,
    identity: &Identity,
    pieces: usize,
) {
    let (taken, is_taken) = oneshot::channel();
    let (came, all_came) = oneshot::channel();
    let playing = async {
        let (tcp, _) = listener.accept().await.expect("it works on loopback");
        let mut stream = identity.accept(tcp).await.expect("it works on loopback");
        let _elapsed = timeout(A_WHILE, is_taken).await;
        let (mut left, mut piece) = (pieces * PIECE.len(), Vec::new());
        while left > 0 {
            piece.clear();
            assert_ne!(stream.read_buf(&mut piece).await.expect("it works on loopback"), 0);
            left -= piece.iter().filter(|byte| **byte == PIECE[0]).count();
        }
        came.send(()).expect("somebody waits for it");
        while !piece.ends_with(b"0\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut piece).await.expect("it works on loopback"), 0);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("it works on loopback");
        stream.flush().await.expect("it works on loopback");
    };
    let beginning = stream::iter((0..pieces).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(PIECE))));
    let end = stream::once(async move {
        taken.send(()).ok();
        all_came.await.expect("it comes");
        Ok(Bytes::from_static(b"end"))
    });
    let request = to(listener).body(Body::from_stream(beginning.chain(end))).expect("a request");
    let (answer, ()) = tokio::join!(pool.request(request), playing);
    assert_eq!(answer.expect("an answer").status(), 204);
}

#[tokio::test]
async fn what_tls_took_is_sent_while_the_body_lets_wait() {
    let identity = Identity::make("box").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = Pool::new(
        Connector::new(Trust::Pinned(identity.fingerprint()), PATIENCE),
        // Each body has a connection of its own.
        Duration::ZERO,
    );
    let most = unread_through_tls(&pool, &listener, &identity).await;
    for less in 0..5 {
        let sending = in_two_parts(&pool, &listener, &identity, most.saturating_sub(less));
        timeout(PATIENCE, sending).await.expect("nobody waits for ever");
    }
}

fn to(listener: &tokio::net::TcpListener) -> http::request::Builder {
    Request::post(format!("https://{}/", listener.local_addr().expect("it works on loopback")))
}

#[tokio::test]
async fn a_host_is_a_name_and_a_port_and_nobodys_password() {
    let (port, playing) = peer("HTTP/1.1 204 No Content\r\n\r\n");
    let request = Request::get(format!("http://user:secret@127.0.0.1:{port}?q")).body(Empty::new()).unwrap();
    drop(pool::<Empty<Bytes>>(Trust::Nobody).request(request).await.unwrap());
    let head = playing.join().unwrap();
    assert_eq!(head, format!("GET /?q HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n"));
}

#[test]
fn an_answer_may_be_dropped_where_no_runtime_is() {
    let (port, playing) = peer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let pool = pool::<Empty<Bytes>>(Trust::Nobody);
    let request = Request::get(format!("http://127.0.0.1:{port}/")).body(Empty::new()).unwrap();
    let answer = runtime.block_on(pool.request(request)).unwrap();
    drop(answer);
    drop(pool);
    playing.join().unwrap();
}

/// An answer with this body, in chunks as long as `chunks` says in turn, or with its length.
fn answer(body: &[u8], chunks: &[usize], is_bare: bool) -> Vec<u8> {
    let line = if is_bare { "\n" } else { "\r\n" };
    let mut text = format!("HTTP/1.1 103 Early{line}{line}HTTP/1.1 200 OK{line}x: y{line}").into_bytes();
    if chunks.is_empty() {
        text.extend_from_slice(format!("content-length: {}{line}{line}", body.len()).as_bytes());
        text.extend_from_slice(body);
        return text;
    }
    text.extend_from_slice(format!("transfer-encoding: chunked{line}{line}").as_bytes());
    let (mut rest, mut lengths) = (body, chunks.iter().cycle());
    while let (false, Some(length)) = (rest.is_empty(), lengths.next()) {
        let (chunk, behind) = rest.split_at(rest.len().min(*length));
        text.extend_from_slice(format!("{:x};x=y\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
        rest = behind;
    }
    text.extend_from_slice(b"0\r\ntrailer: z\r\n\r\n");
    text
}

/// The bodies of two answers on one connection, the first of which comes in pieces of these lengths in turn, with time between
/// them to be read.
fn twice(text: &[u8], cuts: &[usize]) -> (Bytes, Bytes) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("it works on loopback");
        let url = format!("http://{}/", listener.local_addr().expect("it works on loopback"));
        let playing = async {
            let (mut stream, _) = listener.accept().await.expect("it works on loopback");
            stream.set_nodelay(true).expect("it works on loopback");
            let mut asked = vec![0; 4096];
            assert_ne!(stream.read(&mut asked).await.expect("it works on loopback"), 0);
            let (mut rest, mut lengths) = (text, cuts.iter().cycle());
            while let (false, Some(length)) = (rest.is_empty(), lengths.next()) {
                let (piece, behind) = rest.split_at(rest.len().min(*length));
                stream.write_all(piece).await.expect("it works on loopback");
                tokio::task::yield_now().await;
                rest = behind;
            }
            assert_ne!(stream.read(&mut asked).await.expect("it works on loopback"), 0, "it is used again");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain").await.expect("it works");
        };
        let pool = pool::<Empty<Bytes>>(Trust::Nobody);
        let asking = async {
            let mut bodies = Vec::new();
            for _ in 0..2 {
                let request = Request::get(&url).body(Empty::new()).expect("a request");
                let answer = pool.request(request).await.expect("an answer");
                bodies.push(answer.into_body().collect().await.expect("a body").to_bytes());
            }
            (bodies.remove(0), bodies.remove(0))
        };
        let both = async { tokio::join!(asking, playing).0 };
        timeout(PATIENCE, both).await.expect("nobody waits for ever")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn an_answer_is_the_same_wherever_it_is_cut(
        body in prop::collection::vec(prop::sample::select(b"0a;\r\n ".to_vec()), 0..3000),
        chunks in prop::collection::vec(1_usize..700, 0..4),
        cuts in prop::collection::vec(1_usize..1500, 1..8),
        is_bare: bool,
    ) {
        let (first, second) = twice(&answer(&body, &chunks, is_bare), &cuts);
        prop_assert_eq!(&first[..], &body[..]);
        prop_assert_eq!(&second[..], b"again");
    }
}

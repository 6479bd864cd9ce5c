use axum::{body::Body, routing::get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn start(limits: Limits, grace: Duration) -> (SocketAddr, Shutdown, tokio::task::JoinHandle<usize>) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let endless = || async {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<axum::body::Bytes, Infallible>>(1);
        let stream = Box::pin(tokio_stream_of(receiver));
        sender.send(Ok("first".into())).await.unwrap();
        std::mem::forget(sender);
        Body::from_stream(stream)
    };
    let flood = || async {
        let piece = axum::body::Bytes::from(vec![b'a'; 64 * 1024]);
        Body::from_stream(futures_util::stream::repeat_with(move || Ok::<_, Infallible>(piece.clone())))
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/endless", get(endless))
        .route("/flood", get(flood))
        .route(
            "/late",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(700)).await;
                "late"
            }),
        );
    let shutdown = Shutdown::default();
    let server = Server::new(listener, router, limits).with_shutdown(shutdown.clone(), grace);
    let running = TaskTracker::new().spawn(server.run());
    (address, shutdown, running)
}

fn tokio_stream_of<T: Send + 'static>(
    mut receiver: tokio::sync::mpsc::Receiver<T>,
) -> impl futures_core::Stream<Item = T> + Send {
    futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut text));
    let _ = read.await.expect("the server closes the connection");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_request_head_that_never_ends_is_given_up() {
    let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
    let (address, shutdown, running) = start(limits, Duration::ZERO).await;
    for half in ["", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        assert!(!read_to_end(&mut stream).await.contains("200 OK"), "{half:?}");
    }
    shutdown.now();
    running.await.unwrap();
}

#[tokio::test]
async fn no_head_is_awaited_while_an_answer_is() {
    let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
    let (address, shutdown, running) = start(limits, Duration::ZERO).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    for _ in 0..2 {
        stream.write_all(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"late") {
            let read = timeout(Duration::from_secs(10), stream.read_buf(&mut answer)).await.unwrap().unwrap();
            assert!(read > 0, "cut while an answer was under way");
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(1400), "both took longer than a head may");
    assert_eq!(read_to_end(&mut stream).await, "", "closed once nothing more comes");
    shutdown.now();
    running.await.unwrap();
}

#[tokio::test]
async fn a_head_beyond_the_bound_gets_431() {
    let (address, shutdown, running) = start(Limits::default(), Duration::ZERO).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(300 * 1024));
    let _ = stream.write_all(head.as_bytes()).await;
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 431"));
    shutdown.now();
    running.await.unwrap();
}

#[tokio::test]
async fn an_open_stream_cannot_hold_up_a_shutdown_beyond_its_grace() {
    let (address, shutdown, running) = start(Limits::default(), Duration::from_millis(300)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 16];
    stream.read_exact(&mut piece).await.unwrap();
    shutdown.drain();
    let cut = timeout(Duration::from_secs(10), running).await.expect("ends by its grace").unwrap();
    assert_eq!(cut, 1);
    assert!(TcpStream::connect(address).await.is_err(), "a draining server accepts nothing");
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let (address, shutdown, running) = start(Limits::default(), Duration::from_secs(60)).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 16];
    idle.read_exact(&mut piece).await.unwrap();
    shutdown.drain();
    assert_eq!(timeout(Duration::from_secs(10), running).await.expect("does not wait").unwrap(), 0);
}

#[tokio::test]
async fn a_connection_that_has_sent_nothing_yet_does_not_hold_up_a_shutdown() {
    let (address, shutdown, running) = start(Limits::default(), Duration::from_secs(60)).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    // The second connection is accepted behind the first one, so that one is being served.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("hello"));
    shutdown.drain();
    assert_eq!(timeout(Duration::from_secs(5), running).await.expect("does not wait").unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_given_up() {
    let limits = Limits { write: Duration::from_millis(200), ..Limits::default() };
    let (address, shutdown, running) = start(limits, Duration::from_secs(60)).await;
    let mut deaf = TcpStream::connect(address).await.unwrap();
    deaf.write_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    deaf.readable().await.unwrap();
    shutdown.drain();
    let cut =
        timeout(Duration::from_secs(10), running).await.expect("ends with its last connection").unwrap();
    assert_eq!(cut, 0, "the connection ended by itself, long before the grace");
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_served() {
    let limits = Limits { write: Duration::from_millis(400), ..Limits::default() };
    let (address, shutdown, running) = start(limits, Duration::ZERO).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (mut taken, began) = (0, Instant::now());
    let mut buffer = vec![0; 4 * 1024 * 1024];
    while began.elapsed() < Duration::from_millis(1500) {
        let read =
            timeout(Duration::from_secs(5), slow.read(&mut buffer)).await.expect("more comes").unwrap();
        assert!(read > 0, "cut after {taken} bytes");
        taken += read;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shutdown.now();
    running.await.unwrap();
}

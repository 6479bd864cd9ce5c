//! Listener, connections, and their end.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Limits;

/// How long accepting pauses after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a listening socket, so that a port in use is an error before anything else was started.
///
/// # Errors
/// What the system said of socket, address or port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    // A restarted process must get its port back while old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Ends a [`Server`].
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// Take no new connection, let running requests finish until the grace is over.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// End all connections at once.
    pub fn now(&self) {
        self.drain.cancel();
        self.now.cancel();
    }
}

/// A listener with its routes.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
    grace: Duration,
}

impl Server {
    /// Serves `router` on `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, router: Router, limits: Limits) -> Self {
        Self { listener, router, limits, shutdown: Shutdown::default(), grace: Duration::from_secs(30) }
    }

    /// The handle that ends it, and how long running requests get once it was asked to drain.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: Shutdown, grace: Duration) -> Self {
        self.shutdown = shutdown;
        self.grace = grace;
        self
    }

    /// Runs until shut down, over plain TCP. Returns how many connections had to be cut.
    pub async fn run(self) -> usize {
        self.transport(|stream| async { Ok(stream) }).await
    }

    /// Runs until shut down, with `wrap` between each accepted socket and HTTP (TLS, or a fault layer in tests). Returns
    /// how many connections had to be cut.
    pub async fn transport<W, F, Io>(self, wrap: W) -> usize
    where
        W: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Io>> + Send + 'static,
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { listener, router, limits, shutdown, grace } = self;
        let tracker = TaskTracker::new();
        let places = Arc::new(Semaphore::new(limits.connections));
        let wrap = Arc::new(wrap);
        loop {
            let (stream, place) = tokio::select! {
                biased;
                () = shutdown.drain.cancelled() => break,
                accepted = accept(&listener, &places) => accepted,
            };
            // Tokens are small and must not wait for more: without this a stream stalls on delayed acknowledgements.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "could not set TCP_NODELAY");
            }
            let (wrap, router, shutdown) = (Arc::clone(&wrap), router.clone(), shutdown.clone());
            tracker.spawn(async move {
                // The handshake of a transport is part of what a silent client may not prolong.
                if let Ok(Ok(io)) = timeout(limits.head, wrap(stream)).await {
                    connection(io, router, limits, shutdown).await;
                }
                drop(place);
            });
        }
        drop(listener);
        tracker.close();
        let deadline = Instant::now() + grace;
        tokio::select! {
            () = tracker.wait() => return 0,
            () = tokio::time::sleep_until(deadline) => {}
            () = shutdown.now.cancelled() => {}
        }
        let cut = tracker.len();
        shutdown.now();
        tracker.wait().await;
        cut
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            // The semaphore is never closed; should it be, nothing more is accepted.
            std::future::pending::<Infallible>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<Io>(io: Io, router: Router, limits: Limits, shutdown: Shutdown)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = TowerToHyperService::new(router);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .pipeline_flush(false)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.now.cancelled() => return,
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = shutdown.drain.cancelled(), if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(
        limits: Limits,
        grace: Duration,
    ) -> (SocketAddr, Shutdown, tokio::task::JoinHandle<usize>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let endless = || async {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Result<axum::body::Bytes, Infallible>>(1);
            let stream = Box::pin(tokio_stream_of(receiver));
            sender.send(Ok("first".into())).await.unwrap();
            std::mem::forget(sender);
            Body::from_stream(stream)
        };
        let router = Router::new().route("/", get(|| async { "hello" })).route("/endless", get(endless));
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
}

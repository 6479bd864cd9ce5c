//! Listener, connections, and their end.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Bytes};
use bell::Bell;
use futures_util::FutureExt;
use http_body::Body;
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Limits,
    awaited::{Answered, Awaited},
    stall::Stalling,
};

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

/// A listener with what answers on it: axum's routes, or any service of hyper's that has no errors.
#[derive(Debug)]
pub struct Server<S = TowerToHyperService<Router>> {
    listener: TcpListener,
    service: S,
    limits: Limits,
    shutdown: Shutdown,
    grace: Duration,
}

impl Server {
    /// Serves `router` on `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, router: Router, limits: Limits) -> Self {
        Self::with_service(listener, TowerToHyperService::new(router), limits)
    }
}

impl<S> Server<S> {
    /// Serves `service` on `listener`; each connection has a clone of it.
    #[must_use]
    pub fn with_service(listener: TcpListener, service: S, limits: Limits) -> Self {
        Self { listener, service, limits, shutdown: Shutdown::default(), grace: Duration::from_secs(30) }
    }

    /// The handle that ends it, and how long running requests get once it was asked to drain.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: Shutdown, grace: Duration) -> Self {
        self.shutdown = shutdown;
        self.grace = grace;
        self
    }
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
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
        let Self { listener, service, limits, shutdown, grace } = self;
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
            let (wrap, service, shutdown) = (Arc::clone(&wrap), service.clone(), shutdown.clone());
            tracker.spawn(async move {
                // The handshake of a transport is part of what a silent client may not prolong.
                if let Ok(Ok(io)) = timeout(limits.head, wrap(stream)).await {
                    connection(io, service, limits, shutdown).await;
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

async fn connection<Io, S, B>(io: Io, service: S, limits: Limits, shutdown: Shutdown)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let awaited = Awaited::new();
    let heads = awaited.clone();
    let service = service_fn(move |request| {
        let under_way = heads.came();
        let answer = service.call(request);
        answer.map(|answer| answer.map(|response| response.map(|body| Answered { body, under_way })))
    });
    let serving = http1::Builder::new()
        .max_buf_size(limits.head_bytes)
        .pipeline_flush(false)
        // A token is sooner copied than sent beside its frame, and what it was read into is free for the next one.
        .writev(false)
        .serve_connection(TokioIo::new(Stalling::new(io, limits.write)), service);
    let mut serving = pin!(serving);
    let mut drain = pin!(shutdown.drain.cancelled());
    let mut now = pin!(shutdown.now.cancelled());
    let mut no_head = pin!(sleep(limits.head));
    let (bell, mut draining) = (Bell::default(), false);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return Poll::Ready(());
            }
            if !bell.rang(cx) {
                return Poll::Pending;
            }
            let called = &mut Context::from_waker(bell.waker());
            if now.as_mut().poll(called).is_ready() {
                return Poll::Ready(());
            }
            while no_head.as_mut().poll(called).is_ready() {
                let (since, now) = (awaited.since(), Instant::now());
                let due = since.unwrap_or(now) + limits.head;
                if due <= now {
                    tracing::debug!("a client sent no head in time");
                    return Poll::Ready(());
                }
                no_head.as_mut().reset(due);
            }
            if draining || drain.as_mut().poll(called).is_pending() {
                return Poll::Pending;
            }
            draining = true;
            serving.as_mut().graceful_shutdown();
        }
    })
    .await;
}

#[cfg(test)]
mod tests;

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

use crate::{Limits, stall::Stalling};

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
        .serve_connection(TokioIo::new(Stalling::new(io, limits.write)), service);
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
mod tests;

//! The hive's port: open, or refusing as if nothing were there.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use http_serve::{Identity, Limits, Server, Shutdown};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::wire::Wires;

/// What the port is told.
pub(crate) enum NetOrder {
    /// Refuse connections and cut those that are open.
    Down(oneshot::Sender<()>),
    /// Take connections again.
    Up(oneshot::Sender<()>),
}

/// A port that stays ours while nothing listens on it: a bound socket that does not listen refuses connections, and
/// nobody else is given its port meanwhile.
pub(crate) struct Port {
    address: SocketAddr,
    _held: socket2::Socket,
}

impl Port {
    /// # Errors
    /// What the system said of the address.
    pub(crate) fn hold(address: SocketAddr) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, _held: socket })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        http_serve::bind(self.address)
    }
}

/// The port with what serves it.
pub(crate) struct Net {
    pub(crate) port: Port,
    pub(crate) router: Router,
    pub(crate) identity: Option<Identity>,
    pub(crate) wires: Arc<Wires>,
    pub(crate) tasks: TaskTracker,
}

impl Net {
    fn serve(&self, listener: TcpListener) -> (Shutdown, JoinHandle<usize>) {
        let shutdown = Shutdown::default();
        let server = Server::new(listener, self.router.clone(), Limits::default())
            .with_shutdown(shutdown.clone(), Duration::ZERO);
        let wires = Arc::clone(&self.wires);
        let running = match self.identity.clone() {
            None => self.tasks.spawn(server.transport(move |stream| {
                let wires = Arc::clone(&wires);
                async move { Ok(wires.wrap(stream)) }
            })),
            // The faults of the wire lie below TLS, as they do on a real one.
            Some(identity) => self.tasks.spawn(server.transport(move |stream| {
                let (wires, identity) = (Arc::clone(&wires), identity.clone());
                async move { identity.accept(wires.wrap(stream)).await }
            })),
        };
        (shutdown, running)
    }

    /// Serves the port until `stop`.
    pub(crate) async fn run(
        self,
        first: TcpListener,
        mut orders: mpsc::Receiver<NetOrder>,
        stop: CancellationToken,
    ) {
        let mut serving = Some(self.serve(first));
        while let Some(Some(order)) = stop.run_until_cancelled(orders.recv()).await {
            close(serving.take()).await;
            let done = match order {
                NetOrder::Down(done) => done,
                NetOrder::Up(done) => {
                    match self.port.listen() {
                        Ok(listener) => serving = Some(self.serve(listener)),
                        Err(error) => {
                            tracing::error!(%error, address = %self.port.address, "could not listen again");
                        }
                    }
                    done
                }
            };
            // Whoever asked may be gone.
            let _ = done.send(());
        }
        close(serving).await;
    }
}

async fn close(serving: Option<(Shutdown, JoinHandle<usize>)>) {
    if let Some((shutdown, running)) = serving {
        shutdown.now();
        if running.await.is_err() {
            tracing::warn!("the accept loop ended in a panic");
        }
    }
}

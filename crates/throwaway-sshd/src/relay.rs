//! A wire in between that can be cut.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How long nothing passes before a connection is cut: what went through has been read by then, so the other side sees the end of
/// it, not an error within.
const SILENCE: Duration = Duration::from_millis(200);

/// Passes bytes on to a port of 127.0.0.1, until it has passed so many from the client.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    inside: Arc<Inside>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inside {
    to: u16,
    /// Bytes of one connection that go through before it is cut.
    budget: AtomicU64,
    /// Bytes that clients sent through, all connections together.
    passed: AtomicU64,
    delay: Duration,
    ends: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Starts one. Each chunk is held for `delay`, in both directions.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(to: u16, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let inside = Arc::new(Inside {
            to,
            budget: AtomicU64::new(u64::MAX),
            passed: AtomicU64::new(0),
            delay,
            ends: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&inside);
        let accepting = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if shared.ends.load(Ordering::Relaxed) {
                    return;
                }
                // A connection that cannot be passed on is dropped.
                let _ = stream.and_then(|stream| shared.pass(stream));
            }
        })?;
        Ok(Self { address, inside, accepting: Some(accepting) })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts each connection, from now on, once a client has sent so many bytes through it.
    pub fn cut_after(&self, bytes: u64) {
        self.inside.budget.store(bytes, Ordering::Relaxed);
    }

    /// Cuts every connection that is open now.
    pub fn cut_now(&self) {
        self.inside.cut();
    }

    /// How many bytes clients sent through.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.inside.passed.load(Ordering::Relaxed)
    }
}

impl Inside {
    fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // The other side was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn pass(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.to))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.open.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
        }
        let (up, down) = ((client.try_clone()?, server.try_clone()?), (server, client));
        for ((from, to), counts) in [(up, true), (down, false)] {
            let inside = Arc::clone(self);
            std::thread::Builder::new()
                .name("relay".to_owned())
                .spawn(move || inside.copy(from, to, counts))?;
        }
        Ok(())
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, counts: bool) {
        let mut left = if counts { self.budget.load(Ordering::Relaxed) } else { u64::MAX };
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if !self.delay.is_zero() {
                std::thread::park_timeout(self.delay);
            }
            let pass = usize::try_from(left).unwrap_or(count).min(count);
            left -= pass as u64;
            if counts {
                self.passed.fetch_add(pass as u64, Ordering::Relaxed);
            }
            let is_gone = to.write_all(&buffer[..pass]).is_err();
            if pass < count {
                std::thread::park_timeout(SILENCE);
            }
            if is_gone || pass < count {
                break;
            }
        }
        for stream in [from, to] {
            // The other side was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.inside.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.inside.cut();
    }
}

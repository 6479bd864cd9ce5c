//! A wire in between that can be cut.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long nothing passes before a connection is cut: what went through has been read by then, so the other side sees the end of
/// it, not an error within.
const SILENCE: Duration = Duration::from_millis(200);

/// Chunks that are on the wire at once.
const UNDER_WAY: usize = 64;

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
    /// Starts one. Each chunk takes `delay`, in both directions.
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

    /// Reads what comes and has it written when it is due, so that what is under way at once arrives at once.
    fn copy(&self, mut from: TcpStream, to: TcpStream, counts: bool) {
        let mut left = if counts { self.budget.load(Ordering::Relaxed) } else { u64::MAX };
        let mut buffer = vec![0; 64 * 1024];
        let (under_way, arriving) = sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let Ok(back) = from.try_clone() else { return };
        let writing =
            std::thread::Builder::new().name("relay".to_owned()).spawn(move || write(&arriving, to, &back));
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let pass = usize::try_from(left).unwrap_or(count).min(count);
            left -= pass as u64;
            if counts {
                self.passed.fetch_add(pass as u64, Ordering::Relaxed);
            }
            let sent = under_way.send((Instant::now() + self.delay, buffer[..pass].to_owned()));
            if pass < count {
                std::thread::park_timeout(SILENCE);
            }
            if sent.is_err() || pass < count {
                break;
            }
        }
        drop(under_way);
        if let Ok(writing) = writing {
            // It ends with what is under way.
            let _ = writing.join();
        }
    }
}

fn write(arriving: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream, back: &TcpStream) {
    for (due, bytes) in arriving {
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    for stream in [&to, back] {
        // The other side was faster.
        let _ = stream.shutdown(Shutdown::Both);
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

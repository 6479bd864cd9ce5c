//! A connection whose blocking work is done by a thread of its own, and which can always be given up from outside.
//!
//! ```text
//!   async caller ──job──▶ thread "ssh HOST": owns the libssh2 session, one job at a time
//!        │                     ▲
//!        └─ no beat in time, or the caller left: shut the socket down ─┘
//! ```
//!
//! A shut socket makes whatever libssh2 call is blocked return at once, and every one after it, so the thread ends however deep it
//! was in. libssh2's own timeouts do not do that: they fire once for the call, and then again for each object that is dropped.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use fleet::Hostname;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use crate::SshError;

/// Threads that own a session now, given up or not. It comes back to zero when all sessions are gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Threads(Arc<AtomicUsize>);

/// One of them.
struct Counted(Threads);

impl Threads {
    pub(crate) fn living(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn one_more(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Job = Box<dyn FnOnce(&mut Peer) + Send>;

/// The session as its thread sees it.
pub(crate) struct Peer {
    pub(crate) ssh: ssh2::Session,
    socket: Socket,
}

/// The socket, shared by libssh2, the thread that polls it, and whoever gives it up.
#[derive(Debug, Clone)]
struct Socket(Arc<TcpStream>);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Peer {
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.0.as_fd()
    }
}

/// Why a job came to no result.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What libssh2 or the socket says; the caller knows what it was doing.
    Lost(String),
    /// Said already.
    Told(SshError),
}

impl From<ssh2::Error> for Trouble {
    fn from(error: ssh2::Error) -> Self {
        Self::Lost(error.message().to_owned())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<SshError> for Trouble {
    fn from(error: SshError) -> Self {
        Self::Told(error)
    }
}

/// How a job says that it gets on.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    began: Instant,
    last_ms: Arc<AtomicU64>,
    patience_ms: Arc<AtomicU64>,
}

impl Beat {
    fn new(patience: Duration) -> Self {
        let patience_ms = Arc::new(AtomicU64::new(millis(patience)));
        Self { began: Instant::now(), last_ms: Arc::default(), patience_ms }
    }

    /// Something happened: the time starts anew.
    pub(crate) fn beat(&self) {
        self.last_ms.fetch_max(millis(self.began.elapsed()), Ordering::Relaxed);
    }

    /// From now on the next sign of life may take so long.
    pub(crate) fn wait_up_to(&self, patience: Duration) {
        self.beat();
        self.patience_ms.store(millis(patience), Ordering::Relaxed);
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms.load(Ordering::Relaxed))
    }

    fn due(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + self.patience()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Session {
    host: Hostname,
    jobs: SyncSender<Job>,
    socket: Socket,
}

/// Shuts the socket down unless the job it watches came to its end.
struct Watch<'a>(Option<&'a Session>);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.0 {
            session.cut();
        }
    }
}

impl Session {
    /// Gives a connected socket a session and a thread.
    pub(crate) fn start(host: Hostname, stream: TcpStream, threads: &Threads) -> Result<Self, SshError> {
        let failed = |reason: String| SshError::Own { host: host.clone(), reason };
        let socket = Socket(Arc::new(stream));
        let mut ssh = ssh2::Session::new().map_err(|error| failed(error.message().to_owned()))?;
        ssh.set_tcp_stream(socket.clone());
        let mut peer = Peer { ssh, socket: socket.clone() };
        let (jobs, todo): (_, Receiver<Job>) = sync_channel(1);
        let counted = threads.one_more();
        let work = move || {
            while let Ok(job) = todo.recv() {
                job(&mut peer);
            }
            drop(peer);
            drop(counted);
        };
        let thread = std::thread::Builder::new().name(format!("ssh {host}")).spawn(work);
        thread.map_err(|error| failed(error.to_string()))?;
        Ok(Self { host, jobs, socket })
    }

    /// Ends the connection, whatever is being done with it.
    fn cut(&self) {
        // It fails when the other side was faster.
        let _ = self.socket.0.shutdown(Shutdown::Both);
    }

    /// Has the thread do something, which has to give a sign of life at least every `patience`, unless it asks for another one.
    /// Afterwards, and when the caller does not wait for the end, the connection is gone.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        patience: Duration,
        job: impl FnOnce(&mut Peer, &Beat) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, SshError> {
        let lost = |reason: String| SshError::Lost { host: self.host.clone(), doing, reason };
        let (sender, mut outcome) = oneshot::channel();
        let beat = Beat::new(patience);
        let job: Job = {
            let beat = beat.clone();
            Box::new(move |peer| {
                // Nobody waits any more when the caller gave up.
                let _ = sender.send(job(peer, &beat));
            })
        };
        let mut watch = Watch(Some(self));
        self.jobs.try_send(job).map_err(|_| lost("the session has ended".to_owned()))?;
        loop {
            tokio::select! {
                biased;
                outcome = &mut outcome => {
                    return match outcome {
                        Ok(Ok(value)) => {
                            watch.0 = None;
                            Ok(value)
                        }
                        Ok(Err(Trouble::Told(error))) => Err(error),
                        Ok(Err(Trouble::Lost(reason))) => Err(lost(reason)),
                        Err(_) => Err(lost("its thread ended".to_owned())),
                    };
                }
                () = sleep_until(beat.due()) => {
                    if beat.due() <= Instant::now() {
                        return Err(SshError::Stalled { host: self.host.clone(), doing, within: beat.patience() });
                    }
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cut();
    }
}

//! The layer between socket and HTTP that delays, slows, cuts, swallows and corrupts bytes.
//!
//! A request handler must be able to harm its own connection (answer raw bytes, reset it in mid-stream). `http-serve`
//! runs a connection and its handlers in one task, so the task's id leads a handler to its connection.

mod io;
mod lane;

use std::{
    collections::HashMap,
    io as std_io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{net::TcpStream, sync::watch, task};

pub(crate) use self::io::FaultIo;
use crate::{
    journal::OpenCall,
    script::{Cut, Script, WireScript},
};

/// What was handed to hyper leaves within this time, so that a cut comes behind it and not instead of it.
const FLUSH: Duration = Duration::from_millis(15);

/// Locks; a panic elsewhere must not turn one failed test into many.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All open connections.
pub(crate) struct Wires {
    open: Mutex<HashMap<task::Id, Arc<Wire>>>,
    script: watch::Receiver<Arc<Script>>,
    next: AtomicU64,
}

/// One connection.
pub(crate) struct Wire {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// The call that it carries now.
    pub(crate) call: Mutex<Option<OpenCall>>,
    stream: TcpStream,
    script: watch::Receiver<Arc<Script>>,
    harm: Mutex<Harm>,
    read_waker: AtomicWaker,
    write_waker: AtomicWaker,
}

/// What one connection suffers besides the script.
#[derive(Default)]
struct Harm {
    cut: Option<Cut>,
    own: Option<WireScript>,
    /// Bytes that had passed when `own` was set: to the hive, from the hive.
    base: (u64, u64),
    passed: (u64, u64),
}

impl Wires {
    pub(crate) fn new(script: watch::Receiver<Arc<Script>>) -> Self {
        Self { open: Mutex::default(), script, next: AtomicU64::new(1) }
    }

    /// Puts the layer on an accepted socket. Must be called in the task that serves the connection.
    pub(crate) fn wrap(self: &Arc<Self>, stream: TcpStream) -> FaultIo {
        let wire = Arc::new(Wire {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            call: Mutex::default(),
            stream,
            script: self.script.clone(),
            harm: Mutex::default(),
            read_waker: AtomicWaker::new(),
            write_waker: AtomicWaker::new(),
        });
        let task = task::try_id();
        if let Some(task) = task {
            lock(&self.open).insert(task, Arc::clone(&wire));
        }
        FaultIo::new(wire, Arc::clone(self), task)
    }

    fn forget(&self, task: task::Id) {
        lock(&self.open).remove(&task);
    }

    /// The connection of the running handler; none when the router was called without a socket.
    pub(crate) fn current(&self) -> Option<Arc<Wire>> {
        let task = task::try_id()?;
        lock(&self.open).get(&task).cloned()
    }

    /// Cuts every connection.
    pub(crate) fn cut_all(&self, how: Cut) {
        for wire in lock(&self.open).values() {
            wire.cut(how);
        }
    }

    /// Lets every connection look at the script again.
    pub(crate) fn wake_all(&self) {
        for wire in lock(&self.open).values() {
            wire.wake();
        }
    }
}

impl Wire {
    fn wake(&self) {
        self.read_waker.wake();
        self.write_waker.wake();
    }

    /// Ends the connection now.
    pub(crate) fn cut(&self, how: Cut) {
        if how == Cut::Rst {
            // Closing a socket whose linger time is zero sends a reset instead of an end.
            if let Err(error) = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
                tracing::warn!(%error, "could not prepare a reset");
            }
        }
        lock(&self.harm).cut = Some(how);
        self.wake();
    }

    /// Ends the connection once what was handed to it before has left.
    pub(crate) async fn cut_behind(&self, how: Cut) {
        tokio::time::sleep(FLUSH).await;
        self.cut(how);
    }

    /// Faults of this connection alone, with offsets counted from now.
    pub(crate) fn suffer(&self, script: WireScript) {
        let mut harm = lock(&self.harm);
        harm.base = harm.passed;
        harm.own = Some(script);
        drop(harm);
        self.wake();
    }

    /// Writes past HTTP.
    pub(crate) async fn write_raw(&self, mut bytes: &[u8]) -> std_io::Result<()> {
        while !bytes.is_empty() {
            if lock(&self.harm).cut.is_some() {
                return Err(std_io::ErrorKind::ConnectionReset.into());
            }
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == std_io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

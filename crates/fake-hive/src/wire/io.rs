//! The socket as HTTP sees it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task,
};

use super::{
    Wire, Wires,
    lane::{Lane, Next, WAITING_MAX},
    lock,
};
use crate::script::{Cut, Direction};

/// A connection with faults.
pub(crate) struct FaultIo {
    wire: Arc<Wire>,
    wires: Arc<Wires>,
    task: Option<task::Id>,
    inbound: Lane,
    outbound: Lane,
    ended: bool,
}

#[derive(Clone, Copy)]
enum Way {
    ToHive,
    FromHive,
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl FaultIo {
    pub(super) fn new(wire: Arc<Wire>, wires: Arc<Wires>, task: Option<task::Id>) -> Self {
        Self { wire, wires, task, inbound: Lane::new(), outbound: Lane::new(), ended: false }
    }

    /// The faults of one direction now, and how many bytes passed since they count.
    fn faults(&self, way: Way) -> (Direction, u64) {
        let harm = lock(&self.wire.harm);
        let (script, base) = match harm.own {
            Some(own) => (own, harm.base),
            None => (self.wire.script.borrow().wire, (0, 0)),
        };
        match way {
            Way::ToHive => (script.to_hive, harm.passed.0 - base.0),
            Way::FromHive => (script.from_hive, harm.passed.1 - base.1),
        }
    }

    fn is_cut(&self) -> bool {
        lock(&self.wire.harm).cut.is_some()
    }

    /// Takes what the socket has; ready once nothing more can be taken.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; 16 * 1024];
        while !self.ended && !self.inbound.is_full() {
            ready!(self.wire.stream.poll_read_ready(cx))?;
            match self.wire.stream.try_read(&mut piece) {
                Ok(0) => self.ended = true,
                Ok(n) => self.inbound.push(Bytes::copy_from_slice(&piece[..n])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is due; ready once nothing waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_cut() {
                return Poll::Ready(Err(reset()));
            }
            let (faults, passed) = self.faults(Way::FromHive);
            if self.outbound.is_empty() && faults.cut.is_none() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.wire.stream.poll_write_ready(cx))?;
            match ready!(self.outbound.poll_next(cx, &faults, passed, WAITING_MAX)) {
                Next::Empty => return Poll::Ready(Ok(())),
                Next::Cut(how) => self.wire.cut(how),
                Next::Pass(mut bytes) => match self.wire.stream.try_write(&bytes) {
                    Ok(written) => {
                        lock(&self.wire.harm).passed.1 += written as u64;
                        let rest = bytes.split_off(written);
                        if !rest.is_empty() {
                            self.outbound.give_back(rest);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.outbound.give_back(bytes),
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }
}

impl AsyncRead for FaultIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.wire.read_waker.register(cx.waker());
        loop {
            if this.is_cut() {
                return Poll::Ready(Err(reset()));
            }
            let filled = this.poll_fill(cx);
            if let Poll::Ready(Err(error)) = filled {
                return Poll::Ready(Err(error));
            }
            let (faults, passed) = this.faults(Way::ToHive);
            match ready!(this.inbound.poll_next(cx, &faults, passed, buf.remaining())) {
                Next::Pass(bytes) => {
                    lock(&this.wire.harm).passed.0 += bytes.len() as u64;
                    buf.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Next::Cut(how) => this.wire.cut(how),
                // The socket or the script's next change wakes us. A swallowed end is not seen either; the idle bound of
                // the server frees the connection then.
                Next::Empty if filled.is_pending() || (faults.swallow && this.ended) => return Poll::Pending,
                Next::Empty if this.ended => return Poll::Ready(Ok(())),
                Next::Empty => {}
            }
        }
    }
}

impl AsyncWrite for FaultIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.wire.write_waker.register(cx.waker());
        if this.is_cut() {
            return Poll::Ready(Err(reset()));
        }
        if this.outbound.is_full() {
            ready!(this.poll_drain(cx))?;
        }
        let taken = buf.len().min(WAITING_MAX);
        this.outbound.push(Bytes::copy_from_slice(&buf[..taken]));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.wire.write_waker.register(cx.waker());
        this.poll_drain(cx)
    }

    /// Dropping the socket sends the end.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Drop for FaultIo {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.wires.forget(task);
        }
        // A handler may still hold on to its connection, and the socket must not stay open for that.
        if lock(&self.wire.harm).cut != Some(Cut::Rst) {
            let _ = socket2::SockRef::from(&self.wire.stream).shutdown(std::net::Shutdown::Both);
        }
    }
}

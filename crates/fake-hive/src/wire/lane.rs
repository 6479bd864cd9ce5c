//! One direction of a connection: bytes that wait, and when the next of them may pass.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::script::{Cut, Direction};

/// Most bytes that wait in a lane.
pub(super) const WAITING_MAX: usize = 64 * 1024;

/// A slowed lane passes its bytes in portions of this part of a second.
const PORTIONS_PER_S: u64 = 20;

/// Bytes of one direction that were taken and not yet passed on.
pub(super) struct Lane {
    /// With the time that each piece came, or none once it was due.
    waiting: VecDeque<(Option<Instant>, Bytes)>,
    bytes: usize,
    next_at: Instant,
    sleep: Pin<Box<Sleep>>,
}

/// What may happen next.
pub(super) enum Next {
    /// These bytes pass.
    Pass(Bytes),
    /// The connection ends here.
    Cut(Cut),
    /// Nothing waits.
    Empty,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            next_at: Instant::now(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= WAITING_MAX
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.waiting.push_back((Some(Instant::now()), bytes));
    }

    /// Gives back bytes that were due and could not be passed on yet.
    pub(super) fn give_back(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.waiting.push_front((None, bytes));
    }

    /// The next bytes, at most `limit`, once they are due. `passed` counts those before, from the faults' own start.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        faults: &Direction,
        passed: u64,
        limit: usize,
    ) -> Poll<Next> {
        if let Some(cut) = faults.cut
            && passed >= cut.bytes
        {
            return Poll::Ready(Next::Cut(cut.how));
        }
        if faults.swallow {
            self.waiting.clear();
            self.bytes = 0;
        }
        let Some((arrived, _)) = self.waiting.front() else { return Poll::Ready(Next::Empty) };
        let delay = Duration::from_millis(faults.delay_ms);
        let by_delay = arrived.map(|arrived| arrived + delay);
        let by_rate = faults.bytes_per_s.map(|_| self.next_at);
        if let Some(due) = by_delay.max(by_rate)
            && due > Instant::now()
        {
            self.sleep.as_mut().reset(due);
            ready!(self.sleep.as_mut().poll(cx));
        }
        let mut portion = limit as u64;
        if let Some(rate) = faults.bytes_per_s {
            portion = portion.min((rate / PORTIONS_PER_S).max(1));
        }
        if let Some(cut) = faults.cut {
            portion = portion.min(cut.bytes - passed);
        }
        let bytes = self.take(usize::try_from(portion).unwrap_or(usize::MAX));
        if let Some(rate) = faults.bytes_per_s {
            self.next_at = Instant::now() + Duration::from_secs_f64(bytes.len() as f64 / rate.max(1) as f64);
        }
        Poll::Ready(Next::Pass(corrupted(bytes, faults.corrupt_at.and_then(|at| at.checked_sub(passed)))))
    }

    fn take(&mut self, most: usize) -> Bytes {
        let Some((_, front)) = self.waiting.front_mut() else { return Bytes::new() };
        let taken = front.split_to(most.min(front.len()));
        if front.is_empty() {
            self.waiting.pop_front();
        }
        self.bytes -= taken.len();
        taken
    }
}

/// The bytes with one bit of one of them flipped, if that one is among them.
fn corrupted(bytes: Bytes, at: Option<u64>) -> Bytes {
    match at.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < bytes.len()) {
        None => bytes,
        Some(at) => {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            changed.into()
        }
    }
}

//! In-flight counts as guards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// The counters that all views of one worker share.
#[derive(Debug)]
pub(crate) struct Load {
    in_flight: AtomicU32,
    /// Woken when a slot becomes free, for those who wait for one.
    released: Arc<Notify>,
    /// Since when nothing is under way, in milliseconds since `begun`.
    idle_since: AtomicU64,
    begun: Instant,
}

impl Load {
    pub(crate) fn new(released: Arc<Notify>) -> Arc<Self> {
        let in_flight = AtomicU32::new(0);
        Arc::new(Self { in_flight, released, idle_since: AtomicU64::new(0), begun: Instant::now() })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How long nothing has been under way; none if something is.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since.load(Ordering::Acquire));
        (self.in_flight() == 0).then(|| self.begun.elapsed().saturating_sub(since))
    }

    pub(crate) fn take(self: &Arc<Self>, slots: u32) -> Option<Lease> {
        let taken = self
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < slots).then_some(n + 1));
        taken.ok().map(|_| Lease { load: Arc::clone(self) })
    }
}

/// One slot of a worker, held from before the request is sent until its answer has ended. Dropping it frees the slot.
#[derive(Debug)]
pub struct Lease {
    load: Arc<Load>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // As if two that end at once had each counted on its own.
        if planted::bug("leaked-slot") && self.load.in_flight() > 1 {
            return;
        }
        let now = u64::try_from(self.load.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.load.idle_since.store(now, Ordering::Release);
        self.load.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.load.released.notify_waiters();
    }
}

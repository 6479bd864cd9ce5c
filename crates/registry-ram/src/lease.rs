//! In-flight counts as guards.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tokio::sync::watch;

/// The counters that all views of one worker share.
#[derive(Debug)]
pub(crate) struct Load {
    in_flight: AtomicU32,
    suspect: AtomicBool,
    /// Woken when a slot becomes free, for those who wait for one.
    released: watch::Sender<u64>,
}

impl Load {
    pub(crate) fn new(released: watch::Sender<u64>) -> Arc<Self> {
        Arc::new(Self { in_flight: AtomicU32::new(0), suspect: AtomicBool::new(false), released })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn take(self: &Arc<Self>, slots: u32) -> Option<Lease> {
        let taken = self
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < slots).then_some(n + 1));
        taken.ok().map(|_| Lease { load: Arc::clone(self) })
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    pub(crate) fn set_suspect(&self, suspect: bool) {
        self.suspect.store(suspect, Ordering::Relaxed);
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
        self.load.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.load.released.send_modify(|n| *n = n.wrapping_add(1));
    }
}

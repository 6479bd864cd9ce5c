//! Who is being served: the gate before a worker, and the count behind it.

use std::sync::Arc;

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    NotYet,
    Open,
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Counts {
    gate: Gate,
    /// All requests that were let in and not ended.
    open: u32,
    /// Those of them that occupy a slot.
    busy: u32,
    /// How many that occupied one have ended.
    ended: u64,
}

/// Counts the requests to one worker. Gate and count are one value, so a request is let in or refused before a drain
/// looks at the count, never in between.
#[derive(Debug)]
pub(crate) struct Traffic {
    counts: watch::Sender<Counts>,
}

/// What a request does with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It asks for tokens, so it occupies a slot.
    Generates,
    /// It only looks.
    Looks,
}

/// A request on its way; its end is the end of this value, whatever the path.
#[derive(Debug)]
pub(crate) struct InFlight {
    traffic: Arc<Traffic>,
    admission: Admission,
}

impl Traffic {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: watch::Sender::new(Counts { gate: Gate::NotYet, open: 0, busy: 0, ended: 0 }),
        })
    }

    pub(crate) fn open_gate(&self) {
        self.counts.send_modify(|counts| {
            if counts.gate == Gate::NotYet {
                counts.gate = Gate::Open;
            }
        });
    }

    pub(crate) fn close_gate(&self) {
        self.counts.send_modify(|counts| counts.gate = Gate::Closed);
    }

    /// Lets a request in, if the worker takes any.
    pub(crate) fn admit(self: &Arc<Self>, admission: Admission) -> Option<InFlight> {
        let is_let_in = self.counts.send_if_modified(|counts| {
            if counts.gate != Gate::Open {
                return false;
            }
            counts.open += 1;
            counts.busy += u32::from(admission == Admission::Generates);
            true
        });
        is_let_in.then(|| InFlight { traffic: Arc::clone(self), admission })
    }

    pub(crate) fn busy(&self) -> u32 {
        self.counts.borrow().busy
    }

    /// How many requests for tokens have ended; tells that there were some between two looks.
    pub(crate) fn ended(&self) -> u64 {
        self.counts.borrow().ended
    }

    /// Ends when no request is on its way.
    pub(crate) async fn idle(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.counts.subscribe().wait_for(|counts| counts.open == 0).await;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.traffic.counts.send_modify(|counts| {
            counts.open -= 1;
            let generated = self.admission == Admission::Generates;
            counts.busy -= u32::from(generated);
            counts.ended += u64::from(generated);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_let_in_before_the_gate_opens_or_after_it_closed() {
        let traffic = Traffic::new();
        assert!(traffic.admit(Admission::Generates).is_none());
        traffic.open_gate();
        let request = traffic.admit(Admission::Generates).expect("the gate is open");
        let look = traffic.admit(Admission::Looks).expect("the gate is open");
        assert_eq!(traffic.busy(), 1);
        traffic.close_gate();
        traffic.open_gate();
        assert!(traffic.admit(Admission::Looks).is_none(), "a closed gate stays closed");
        let idle = traffic.idle();
        drop(request);
        drop(look);
        idle.await;
        assert_eq!((traffic.busy(), traffic.ended()), (0, 1));
    }
}

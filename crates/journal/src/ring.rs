//! The ring and its writers.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use fleet::{Event, EventKind, Timestamp};
use tokio::sync::Notify;

use crate::{Subscription, slots::Slots};

/// The events of this run that are still remembered. Clones share them.
#[derive(Clone)]
pub struct Journal(Arc<Ring>);

pub(crate) struct Ring {
    /// The event of number n is in the slot n modulo their count, until another one needs it.
    slots: Slots<Event>,
    /// The number of the newest event, which may still be on its way into its slot.
    newest: AtomicU64,
    /// Wakes the subscriptions after each event.
    pub(crate) recorded: Notify,
}

/// What a reader finds at a number.
pub(crate) enum Found {
    /// The event.
    Event(Arc<Event>),
    /// Nothing yet.
    NotYet,
    /// The event is gone; the oldest that may still be there has this number.
    Gone(u64),
}

impl Journal {
    /// An empty journal that remembers the last `capacity` events, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Ring {
            slots: Slots::new(capacity),
            newest: AtomicU64::new(0),
            recorded: Notify::new(),
        }))
    }

    /// Records that something happened now, and returns its number. Waits for nobody but who copies an event from or to the
    /// same slot.
    pub fn record(&self, kind: EventKind) -> u64 {
        let ring = &*self.0;
        let seq = ring.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let event = Event { seq, at: Timestamp::from(SystemTime::now()), kind };
        let mut held = ring.slots.of(seq);
        // A writer that was held up for a whole round must not put its old event over a newer one.
        if held.as_ref().is_none_or(|held| held.seq < seq) {
            let older = held.replace(event);
            drop(held);
            drop(older);
        } else {
            drop(held);
        }
        ring.recorded.notify_waiters();
        seq
    }

    /// The remembered events with a number above `seq`, oldest first; 0 gives all. Events that are being written at this
    /// moment, and those behind them, may be missing; a [`Subscription`] waits for them.
    #[must_use]
    pub fn since(&self, seq: u64) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        let mut next = seq.saturating_add(1);
        loop {
            match self.0.find(next) {
                Found::Event(event) => {
                    events.push(event);
                    next += 1;
                }
                Found::Gone(oldest) => next = oldest,
                Found::NotYet => return events,
            }
        }
    }

    /// The number of the newest event, 0 if there was none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.newest.load(Ordering::SeqCst)
    }

    /// Follows the events with a number above `from`, or those that come from now on. A number that this run has not
    /// reached is one of an earlier run, whose reader has seen nothing of this one: it gets all that is remembered.
    #[must_use]
    pub fn subscribe(&self, from: Option<u64>) -> Subscription {
        let newest = self.newest();
        let seen = from.map_or(newest, |from| if from > newest { 0 } else { from });
        Subscription::new(Arc::clone(&self.0), seen + 1)
    }
}

impl Ring {
    pub(crate) fn find(&self, seq: u64) -> Found {
        let held = self.slots.of(seq).clone();
        match held {
            Some(event) if event.seq == seq => Found::Event(Arc::new(event)),
            Some(newer) if newer.seq > seq => {
                let newest = self.newest.load(Ordering::SeqCst);
                let oldest = (newest + 1).saturating_sub(self.slots.count());
                Found::Gone(oldest.max(seq + 1))
            }
            _ => Found::NotYet,
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("newest", &self.newest()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(journal: &Journal, count: u64) {
        for _ in 0..count {
            journal.record(EventKind::QueenStopping);
        }
    }

    fn numbers(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn numbers_grow_by_one_from_one() {
        let journal = Journal::new(8);
        assert_eq!((journal.newest(), numbers(&journal.since(0))), (0, vec![]));
        assert_eq!(journal.record(EventKind::QueenStopping), 1);
        assert_eq!(journal.record(EventKind::QueenStopping), 2);
        assert_eq!(numbers(&journal.since(0)), [1, 2]);
        assert_eq!(numbers(&journal.since(1)), [2]);
        assert_eq!(numbers(&journal.since(2)), []);
        assert_eq!(numbers(&journal.since(u64::MAX)), []);
    }

    #[test]
    fn the_oldest_event_goes_when_the_newest_comes() {
        for capacity in 1..5 {
            let journal = Journal::new(capacity);
            fill(&journal, 23);
            let kept: Vec<u64> = (24 - capacity as u64..=23).collect();
            assert_eq!(numbers(&journal.since(0)), kept);
            assert_eq!(numbers(&journal.since(22)), [23]);
        }
    }

    #[test]
    fn a_journal_without_room_still_remembers_one_event() {
        let journal = Journal::new(0);
        fill(&journal, 2);
        assert_eq!(numbers(&journal.since(0)), [2]);
    }

    #[test]
    fn many_writers_lose_no_number_and_leave_the_newest_events() {
        let journal = Journal::new(64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| fill(&journal, 5_000));
            }
            scope.spawn(|| {
                while journal.newest() < 20_000 {
                    let seen = numbers(&journal.since(0));
                    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
                }
            });
        });
        assert_eq!(numbers(&journal.since(0)), (19_937..=20_000).collect::<Vec<_>>());
    }
}

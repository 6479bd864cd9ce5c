//! What was decided of the last requests.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fleet::{DecisionKind, DecisionStep, RequestDecisions, RequestId, RequestOutcome};

use crate::slots::Slots;

/// Most decisions that are kept of one request.
const STEPS: usize = 32;

/// The decisions of the last requests of this run. Clones share them.
#[derive(Clone)]
pub struct Decisions(Arc<Kept>);

struct Kept {
    slots: Slots<Entry>,
    /// The number of the newest request.
    newest: AtomicU64,
}

struct Entry {
    number: u64,
    /// With all steps but the first.
    request: RequestDecisions,
    /// Mostly the only one.
    first: Option<DecisionStep>,
}

/// The decisions of one request, which are being made. Clones share them.
#[derive(Clone)]
pub struct Record {
    kept: Arc<Kept>,
    number: u64,
    begun: Instant,
}

impl Decisions {
    /// Remembers the last `capacity` requests, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Kept { slots: Slots::new(capacity), newest: AtomicU64::new(0) }))
    }

    /// A request came; the oldest one goes if there is no room.
    #[must_use]
    pub fn begin(&self, request: RequestDecisions) -> Record {
        let number = self.0.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let mut held = self.0.slots.of(number);
        let is_later = held.as_ref().is_none_or(|held| held.number < number);
        let older = if is_later { held.replace(Entry { number, request, first: None }) } else { None };
        drop(held);
        // What it holds is given back when nobody waits for the lock.
        drop(older);
        Record { kept: Arc::clone(&self.0), number, begun: Instant::now() }
    }

    /// What was decided of the last request of this name, if that is remembered.
    #[must_use]
    pub fn of(&self, id: &RequestId) -> Option<RequestDecisions> {
        let newest = self.0.newest.load(Ordering::SeqCst);
        // A person asks, now and then; requests come all the time, and are spared an index. A client may use a name twice.
        let numbers = (newest.saturating_sub(self.0.slots.count()) + 1..=newest).rev();
        numbers.into_iter().find_map(|number| {
            let held = self.0.slots.of(number);
            let entry = held.as_ref().filter(|entry| entry.request.request_id == *id)?;
            let mut request = entry.request.clone();
            request.steps.splice(0..0, entry.first.clone());
            Some(request)
        })
    }
}

impl Record {
    /// Changes the entry, unless its place was given to a later request.
    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut held = self.kept.slots.of(self.number);
        if let Some(entry) = held.as_mut().filter(|entry| entry.number == self.number) {
            change(entry);
        }
    }

    /// Notes a decision that was made now.
    pub fn note(&self, kind: DecisionKind) {
        let after_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.change(|entry| {
            let step = DecisionStep { after_ms, kind };
            if entry.first.is_none() {
                entry.first = Some(step);
            } else if entry.request.steps.len() + 1 < STEPS {
                entry.request.steps.push(step);
            }
        });
    }

    /// Notes how the request ended.
    pub fn end(&self, outcome: RequestOutcome, code: Option<&str>, attempts: u32) {
        self.change(|Entry { request, .. }| {
            request.outcome = Some(outcome);
            request.code = code.map(str::to_owned);
            request.attempts = attempts;
        });
    }

    /// How long ago the request came.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decisions").field("newest", &self.0.newest).finish_non_exhaustive()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn request(name: &str) -> RequestDecisions {
        RequestDecisions {
            request_id: name.parse().expect("an id"),
            model: "a/b".parse().expect("a model"),
            at: SystemTime::now().into(),
            prompt_bytes: 0,
            max_tokens: None,
            region: None,
            steps: Vec::new(),
            outcome: None,
            code: None,
            attempts: 0,
        }
    }

    fn of(decisions: &Decisions, name: &str) -> Option<usize> {
        decisions.of(&name.parse().expect("an id")).map(|found| found.steps.len())
    }

    #[test]
    fn the_oldest_request_goes_and_what_is_kept_of_one_is_bounded() {
        let decisions = Decisions::new(2);
        let first = decisions.begin(request("a"));
        (0..1000).for_each(|_| first.note(DecisionKind::ColdStart));
        first.end(RequestOutcome::Failed, Some("no_hive"), 1);
        assert_eq!(of(&decisions, "a"), Some(STEPS));
        drop(decisions.begin(request("b")));
        drop(decisions.begin(request("c")));
        assert_eq!(["a", "b", "c"].map(|name| of(&decisions, name)), [None, Some(0), Some(0)]);
    }

    #[test]
    fn a_name_that_is_used_twice_means_the_last_request() {
        let decisions = Decisions::new(2);
        drop(decisions.begin(request("a")));
        decisions.begin(request("a")).note(DecisionKind::ColdStart);
        drop(decisions.begin(request("b")));
        assert_eq!(of(&decisions, "a"), Some(1), "the older one went, the newer one is there");
        drop(decisions.begin(request("c")));
        assert_eq!(of(&decisions, "a"), None);
    }
}

//! What was decided of the last requests.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fleet::{DecisionKind, DecisionStep, RequestDecisions, RequestId, RequestOutcome};

/// Most decisions that are kept of one request.
const STEPS: usize = 32;

/// The decisions of the last requests of this run. Clones share them.
#[derive(Clone)]
pub struct Decisions(Arc<Mutex<Kept>>);

struct Kept {
    capacity: usize,
    /// In the order in which they came.
    order: VecDeque<Record>,
}

/// The decisions of one request, which are being made. Clones share them.
#[derive(Clone)]
pub struct Record {
    request_id: RequestId,
    begun: Instant,
    kept: Arc<Mutex<RequestDecisions>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Decisions {
    /// Remembers the last `capacity` requests, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self(Arc::new(Mutex::new(Kept { capacity, order: VecDeque::new() })))
    }

    /// A request came; the oldest one goes if there is no room.
    #[must_use]
    pub fn begin(&self, request: RequestDecisions) -> Record {
        let request_id = request.request_id.clone();
        let record = Record { request_id, begun: Instant::now(), kept: Arc::new(Mutex::new(request)) };
        let mut kept = locked(&self.0);
        let oldest = if kept.order.len() == kept.capacity { kept.order.pop_front() } else { None };
        kept.order.push_back(record.clone());
        drop(kept);
        // What it holds is given back when nobody waits for the lock.
        drop(oldest);
        record
    }

    /// What was decided of the last request of this name, if that is remembered.
    #[must_use]
    pub fn of(&self, id: &RequestId) -> Option<RequestDecisions> {
        // A person asks, now and then; requests come all the time, and are spared an index. A client may use a name twice.
        let record = locked(&self.0).order.iter().rev().find(|record| record.request_id == *id).cloned();
        record.map(|record| locked(&record.kept).clone())
    }
}

impl Record {
    /// Notes a decision that was made now.
    pub fn note(&self, kind: DecisionKind) {
        let after_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut kept = locked(&self.kept);
        if kept.steps.len() < STEPS {
            kept.steps.push(DecisionStep { after_ms, kind });
        }
    }

    /// Notes how the request ended.
    pub fn end(&self, outcome: RequestOutcome, code: Option<&str>, attempts: u32) {
        let mut kept = locked(&self.kept);
        kept.outcome = Some(outcome);
        kept.code = code.map(str::to_owned);
        kept.attempts = attempts;
    }

    /// How long ago the request came.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decisions").field("kept", &locked(&self.0).order.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("request_id", &self.request_id).finish_non_exhaustive()
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

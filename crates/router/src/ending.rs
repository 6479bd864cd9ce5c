//! How a request ends, told once whichever way it does.

use fleet::{EventKind, ModelRef, RequestId, RequestOutcome};
use journal::{Journal, Record};
use queen_api::ErrorCode;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::attempt::Attempts;

/// Tells the journal how a request ended: as it was told, or cancelled if nobody said anything. Until then it takes down what
/// is decided of the request.
#[derive(Debug)]
pub(crate) struct Ending {
    journal: Journal,
    request_id: RequestId,
    model: ModelRef,
    outcome: RequestOutcome,
    attempts: Attempts,
    code: Option<&'static str>,
    record: Record,
    /// Keeps the router from being idle until the end is in the journal: fields are dropped after `Drop::drop`.
    _under_way: TaskTrackerToken,
}

impl Ending {
    pub(crate) fn new(
        journal: Journal,
        request_id: RequestId,
        model: ModelRef,
        record: Record,
        under_way: TaskTrackerToken,
    ) -> Self {
        let (outcome, attempts) = (RequestOutcome::Cancelled, Attempts::default());
        Self { journal, request_id, model, outcome, attempts, code: None, record, _under_way: under_way }
    }

    /// The count that goes into the journal.
    pub(crate) const fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// What was decided so far.
    pub(crate) const fn record(&self) -> &Record {
        &self.record
    }

    /// Nothing was told yet after all: somebody else goes on.
    pub(crate) fn reopened(self) -> Self {
        let mut open = self;
        open.outcome = RequestOutcome::Cancelled;
        open.code = None;
        open
    }

    /// A failure that was told before stays one.
    pub(crate) fn completed(&mut self) {
        if self.code.is_none() {
            self.outcome = RequestOutcome::Completed;
        }
    }

    pub(crate) fn failed(&mut self, code: ErrorCode) {
        self.outcome = RequestOutcome::Failed;
        self.code = Some(code.as_str());
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.record.end(self.outcome, self.code, self.attempts.count());
        self.journal.record(EventKind::RequestEnded {
            request_id: self.request_id.clone(),
            model: self.model.clone(),
            outcome: self.outcome,
            attempts: self.attempts.count(),
            code: self.code.map(str::to_owned),
        });
    }
}

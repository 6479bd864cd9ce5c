//! The workers that a request was given to in vain.

use fleet::{Digest, HiveId, WorkerId};
use registry_ram::{FleetView, WorkerView};

use crate::{Job, RouteError, attempt::Failure, route::MAX_ATTEMPTS};

/// The workers that a request has tried. Most requests try none in vain.
#[derive(Default)]
pub(super) struct Tried(Option<Box<Past>>);

/// What became of the turns that there were.
#[derive(Default)]
struct Past {
    workers: Vec<(HiveId, WorkerId)>,
    lost: Option<(HiveId, WorkerId)>,
    turns: usize,
    /// How many workers ended with the request.
    died: u32,
    may_vanish: bool,
    /// The only file that may answer: another one would not go on with what was begun.
    digest: Option<Digest>,
}

impl Tried {
    /// An answer broke off on this worker.
    pub(super) fn broken(hive_id: HiveId, worker_id: WorkerId, digest: Digest) -> Self {
        let workers = vec![(hive_id, worker_id)];
        let digest = Some(digest);
        Self(Some(Box::new(Past { workers, turns: 1, died: 1, may_vanish: true, lost: None, digest })))
    }

    pub(super) fn has(&self, worker: &WorkerView) -> bool {
        self.0.as_ref().is_some_and(|past| {
            let other_file = past.digest.is_some() && worker.record.digest != past.digest;
            other_file || past.workers.iter().any(|tried| is(worker, tried))
        })
    }

    /// Whether the worker may be given the request.
    pub(super) fn leaves(&self, worker: &WorkerView, job: &Job, view: &FleetView) -> bool {
        !self.has(worker) && is_within(worker, job, view)
    }

    /// Turns to a worker, those too of which it saw nothing.
    pub(super) fn turns(&self) -> usize {
        self.0.as_ref().map_or(0, |past| past.turns)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.turns() > 0
    }

    /// Whether the last failure means that the worker will not be there much longer.
    pub(super) fn may_vanish(&self) -> bool {
        self.0.as_ref().is_some_and(|past| past.may_vanish)
    }

    /// The worker whose connection broke before anything came back, which tells nothing of the worker itself.
    pub(super) fn lost(&self) -> Option<&(HiveId, WorkerId)> {
        self.0.as_ref()?.lost.as_ref()
    }

    /// Whether the only worker that is left is the one whose connection broke.
    pub(super) fn is_left_with_the_lost(&self, job: &Job, view: &FleetView) -> bool {
        let Some(lost) = self.lost() else { return false };
        let mut left = view.serving(&job.model).iter().filter(|worker| self.leaves(worker, job, view));
        left.all(|worker| is(worker, lost))
    }

    pub(super) fn note(&mut self, worker: &WorkerView, failure: &Failure) {
        let past = self.0.get_or_insert_default();
        past.turns += 1;
        past.died += u32::from(matches!(failure, Failure::Died(_)));
        past.may_vanish = matches!(
            failure,
            Failure::Died(_) | Failure::NotSent(_) | Failure::Unknown(_) | Failure::Lost(_)
        );
        let name = (worker.hive_id.clone(), worker.record.worker_id.clone());
        // It may be tried again if there is no other, but not a third time.
        if matches!(failure, Failure::Lost(_)) && past.lost.as_ref() != Some(&name) {
            past.lost = Some(name);
        } else {
            past.workers.push(name);
        }
    }

    /// What the client is told if there is no other worker.
    pub(super) fn told(&self, worker: &WorkerView, failure: Failure, attempts: u32) -> RouteError {
        let (worker_id, hive_id) = (worker.record.worker_id.clone(), worker.hive_id.clone());
        let reason = match failure {
            Failure::Silent(waited) => return RouteError::WorkerTimeout { worker_id, hive_id, waited },
            Failure::Died(_) if self.0.as_ref().is_some_and(|past| past.died >= MAX_ATTEMPTS) => {
                return RouteError::KilledWorkers { worker_id, hive_id, attempts };
            }
            Failure::Failed { what, said: Some(said) } => format!("{what}: {said}"),
            failure => failure.for_the_log(),
        };
        RouteError::WorkerFailed { worker_id, hive_id, reason, attempts }
    }
}

fn is(worker: &WorkerView, (hive_id, worker_id): &(HiveId, WorkerId)) -> bool {
    worker.hive_id == *hive_id && worker.record.worker_id == *worker_id
}

/// Whether a worker stands where the request may go.
pub(super) fn is_within(worker: &WorkerView, job: &Job, view: &FleetView) -> bool {
    job.terms.region.is_none()
        || view.hive(&worker.hive_id).is_some_and(|hive| hive.region == job.terms.region)
}

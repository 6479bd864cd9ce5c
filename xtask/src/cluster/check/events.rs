//! What the queen says happened, against what its clients saw, and in an order in which it may.

use std::collections::{BTreeMap, BTreeSet};

use fleet::{Event, EventKind, HiveId, HivePhase, ModelRef, RequestOutcome, WorkerId, WorkerState};

use super::ATTEMPTS;
use crate::cluster::{
    answer::{End, Outcome},
    fleet::Cluster,
};

pub(super) fn violations(cluster: &Cluster, outcomes: &[Outcome]) -> Vec<String> {
    let mut violations = cluster.queen.events.faults();
    let events = cluster.queen.events.all();
    violations.extend(requests(&events, outcomes, cluster.queen.was_killed));
    violations.extend(Placed::of(cluster.regions()).follow(&events));
    violations
}

/// I5 and I7: how requests ended, and how often they were sent.
fn requests(events: &[Event], outcomes: &[Outcome], was_killed: bool) -> Vec<String> {
    let mut violations = Vec::new();
    let (mut attempts, mut ends) =
        (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, Vec<RequestOutcome>>::new());
    for event in events {
        match &event.kind {
            EventKind::Attempt { request_id, .. } => *attempts.entry(request_id.as_str()).or_default() += 1,
            EventKind::RequestEnded { request_id, outcome, attempts: told, .. } => {
                if *told as usize > ATTEMPTS {
                    violations.push(format!("request {request_id} had {told} attempts"));
                }
                ends.entry(request_id.as_str()).or_default().push(*outcome);
            }
            _ => {}
        }
    }
    for (id, ends) in ends.iter().filter(|(_, ends)| ends.len() > 1) {
        violations.push(format!("request {id} ended {} times: {ends:?}", ends.len()));
    }
    let unended = attempts.keys().filter(|id| !ends.contains_key(*id) && !was_killed);
    violations.extend(unended.map(|id| format!("request {id} was sent to a worker and never ended")));
    for outcome in outcomes {
        let told = ends.get(outcome.id.as_str()).and_then(|ends| ends.first());
        if let Some(told) = told
            && !agree(&outcome.end, *told)
        {
            violations
                .push(format!("the client of {} saw {:?}, the queen says {told:?}", outcome.id, outcome.end));
        }
    }
    violations
}

/// Whether both sides tell the same of an end. A client that leaves does so at a moment of its own.
fn agree(seen: &End, told: RequestOutcome) -> bool {
    match seen {
        End::Complete => told == RequestOutcome::Completed,
        End::Error { .. } => told == RequestOutcome::Failed,
        End::Truncated | End::Left => true,
    }
}

/// I3: what is under way at each moment of the events.
#[derive(Default)]
struct Placed<'a> {
    /// Transfers, by store and model.
    transfers: BTreeSet<(&'a HiveId, &'a ModelRef)>,
    /// Workers that load, and of which model.
    loading: BTreeMap<(&'a HiveId, &'a WorkerId), &'a ModelRef>,
    /// Where hives stand: whoever insists on a region is served there, so each has its own.
    regions: BTreeMap<String, String>,
    violations: Vec<String>,
}

impl<'a> Placed<'a> {
    fn of(regions: BTreeMap<String, String>) -> Self {
        Self { regions, ..Self::default() }
    }

    fn are_apart(&self, one: &HiveId, other: &HiveId) -> bool {
        self.regions.get(one.as_str()) != self.regions.get(other.as_str())
    }

    fn follow(mut self, events: &'a [Event]) -> Vec<String> {
        for event in events {
            // Another queen: what the one before had under way it has to find out for itself.
            if event.seq == 1 {
                self.transfers.clear();
                self.loading.clear();
            }
            self.take(&event.kind);
        }
        self.violations
    }

    fn take(&mut self, event: &'a EventKind) {
        match event {
            EventKind::Download { hive_id, model_ref, state } => {
                let this = (hive_id, model_ref);
                if state.is_final() {
                    self.transfers.remove(&this);
                } else if !self.transfers.insert(this) {
                    self.violations.push(format!("two transfers of {model_ref} to {hive_id} at a time"));
                }
            }
            EventKind::Worker { hive_id, worker_id, model_ref, state, .. } => match state {
                WorkerState::Starting | WorkerState::Loading { .. } => {
                    self.loading.insert((hive_id, worker_id), model_ref);
                }
                _ => {
                    self.loading.remove(&(hive_id, worker_id));
                }
            },
            EventKind::Spawn { hive_id, model_ref, .. } => {
                let other = self
                    .loading
                    .iter()
                    .find(|((hive, _), model)| **model == model_ref && !self.are_apart(hive, hive_id));
                if let Some(((elsewhere, worker), _)) = other {
                    let told = format!(
                        "{model_ref} is started on {hive_id} while worker {worker} on {elsewhere} loads it"
                    );
                    self.violations.push(told);
                }
            }
            EventKind::HivePhase { hive_id, phase, .. } if *phase != HivePhase::Online => {
                self.transfers.retain(|(hive, _)| *hive != hive_id);
                self.loading.retain(|(hive, _), _| *hive != hive_id);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use fleet::{DownloadState, Timestamp};

    use super::*;

    #[test]
    fn an_answer_that_only_the_queen_thinks_complete_is_noticed() {
        let error =
            End::Error { code: String::new(), message: String::new(), details: serde_json::Value::Null };
        assert!(agree(&End::Complete, RequestOutcome::Completed));
        assert!(!agree(&End::Complete, RequestOutcome::Cancelled));
        assert!(!agree(&error, RequestOutcome::Completed));
        assert!(agree(&End::Left, RequestOutcome::Completed));
    }

    fn told(kinds: Vec<EventKind>) -> Vec<String> {
        let events: Vec<_> =
            (1..).zip(kinds).map(|(seq, kind)| Event { seq, at: Timestamp::from_millis(0), kind }).collect();
        Placed::default().follow(&events)
    }

    #[test]
    fn two_of_one_thing_at_a_time_are_noticed() {
        let (hive_id, model_ref): (HiveId, ModelRef) = ("a".parse().unwrap(), "x/y".parse().unwrap());
        let download = |state| {
            let (hive_id, model_ref) = (hive_id.clone(), model_ref.clone());
            EventKind::Download { hive_id, model_ref, state }
        };
        let (begin, end) = (download(DownloadState::Queued), download(DownloadState::Complete));
        assert_eq!(told(vec![begin.clone(), end, begin.clone()]), [""; 0]);
        assert_eq!(told(vec![begin.clone(), begin]).len(), 1);
        let launch_id: fleet::LaunchId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let worker = |state| EventKind::Worker {
            hive_id: hive_id.clone(),
            launch_id: launch_id.clone(),
            worker_id: "w-1".parse().unwrap(),
            model_ref: model_ref.clone(),
            state,
        };
        let spawn = EventKind::Spawn {
            hive_id: hive_id.clone(),
            launch_id: launch_id.clone(),
            model_ref: model_ref.clone(),
        };
        assert_eq!(told(vec![spawn.clone(), worker(WorkerState::Ready), spawn.clone()]), [""; 0]);
        assert_eq!(told(vec![spawn.clone(), worker(WorkerState::Starting), spawn]).len(), 1);
    }
}

//! Which worker takes a request.

use fleet::{HiveId, WorkerId};

/// A ready worker of the model.
#[derive(Debug, Clone, Copy)]
pub struct WorkerCandidate<'a> {
    /// Its hive.
    pub hive_id: &'a HiveId,
    /// The worker.
    pub worker_id: &'a WorkerId,
    /// Requests that the queen has under way on it.
    pub in_flight: u32,
    /// How many it answers at once.
    pub slots: u32,
    /// Whether a request to it failed since its hive last reported it.
    pub suspect: bool,
}

/// The position of the worker that should take the next request: one that is not suspect, has a free slot, and has the
/// smallest part of its slots in use. None if all are full; a suspect one only if no other is free.
#[must_use]
pub fn choose_worker(candidates: &[WorkerCandidate<'_>]) -> Option<usize> {
    let free = candidates.iter().enumerate().filter(|(_, c)| c.in_flight < c.slots);
    free.min_by(|(_, a), (_, b)| {
        // a/b < c/d without division: both have at least one slot, as a slot is free.
        let used =
            (u64::from(a.in_flight) * u64::from(b.slots)).cmp(&(u64::from(b.in_flight) * u64::from(a.slots)));
        let more_slots = b.slots.cmp(&a.slots);
        let name = (a.hive_id, a.worker_id).cmp(&(b.hive_id, b.worker_id));
        a.suspect.cmp(&b.suspect).then(used).then(more_slots).then(name)
    })
    .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_choice_has_a_free_slot_and_does_not_depend_on_the_order(
            loads in prop::collection::vec((0u32..5, 0u32..5, any::<bool>()), 0..8),
            turn in 0usize..8,
        ) {
            let hive: HiveId = "box".parse().unwrap();
            let names: Vec<WorkerId> = (0..loads.len()).map(|i| format!("w-{i}").parse().unwrap()).collect();
            let mut candidates: Vec<_> = loads.iter().zip(&names).map(|(&(in_flight, slots, suspect), worker_id)| {
                WorkerCandidate { hive_id: &hive, worker_id, in_flight, slots, suspect }
            }).collect();
            let chosen = choose_worker(&candidates).map(|at| candidates[at]);
            match chosen {
                None => prop_assert!(candidates.iter().all(|c| c.in_flight >= c.slots)),
                Some(c) => {
                    prop_assert!(c.in_flight < c.slots);
                    let better = candidates.iter().any(|o| !o.suspect && o.in_flight < o.slots);
                    prop_assert!(!(c.suspect && better));
                }
            }
            let turn = turn % candidates.len().max(1);
            candidates.rotate_left(turn);
            let again = choose_worker(&candidates).map(|at| candidates[at].worker_id);
            prop_assert_eq!(again, chosen.map(|c| c.worker_id));
        }
    }
}

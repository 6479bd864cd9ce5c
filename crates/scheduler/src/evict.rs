//! Whom to stop so that another model has room.

use std::time::Duration;

use fleet::{DeviceSelector, WorkerId, WorkerStateName};

/// A worker that holds memory.
#[derive(Debug, Clone, Copy)]
pub struct Resident<'a> {
    /// Which.
    pub worker_id: &'a WorkerId,
    /// Where its memory is.
    pub device: DeviceSelector,
    /// How much, in bytes.
    pub memory: u64,
    /// Where it stands.
    pub state: WorkerStateName,
    /// Requests under way on it.
    pub in_flight: u32,
    /// Since the last one ended.
    pub idle: Duration,
    /// Whether its owner wants it to stay.
    pub pinned: bool,
}

impl Resident<'_> {
    /// One that loads, serves or is pinned stays.
    pub(crate) const fn may_go(&self) -> bool {
        matches!(self.state, WorkerStateName::Ready) && self.in_flight == 0 && !self.pinned
    }
}

/// The positions of those that make `room` bytes on a device: the longest idle first, and none that is not needed. None if
/// there is no room to be made.
#[must_use]
pub fn evict(residents: &[Resident<'_>], device: DeviceSelector, room: u64) -> Option<Vec<usize>> {
    if room == 0 {
        return Some(Vec::new());
    }
    let mut going: Vec<usize> = (0..residents.len())
        .filter(|at| residents[*at].device == device && residents[*at].may_go())
        .collect();
    going.sort_by(|a, b| {
        let (a, b) = (&residents[*a], &residents[*b]);
        b.idle.cmp(&a.idle).then(a.worker_id.cmp(b.worker_id))
    });
    let mut made = 0_u64;
    let enough = going.iter().position(|at| {
        made = made.saturating_add(residents[*at].memory);
        made >= room
    })?;
    going.truncate(enough + 1);
    // The last one may be large enough to spare some before it, the most useful ones first.
    for place in (0..going.len()).rev() {
        let memory = residents[going[place]].memory;
        if made - memory >= room {
            made -= memory;
            going.remove(place);
        }
    }
    Some(going)
}

#[cfg(test)]
mod tests {
    use fleet::DeviceKind;
    use proptest::prelude::*;

    use super::*;

    const GPU: DeviceSelector = DeviceSelector { kind: DeviceKind::Cuda, index: 0 };

    fn resident(worker_id: &WorkerId, memory: u64, idle: u64) -> Resident<'_> {
        let (state, idle) = (WorkerStateName::Ready, Duration::from_secs(idle));
        Resident { worker_id, device: GPU, memory, state, in_flight: 0, idle, pinned: false }
    }

    #[test]
    fn the_longest_idle_goes_first_and_nobody_in_vain() {
        let ids: Vec<WorkerId> = (0..3).map(|i| format!("w-{i}").parse().unwrap()).collect();
        let all = [resident(&ids[0], 5, 10), resident(&ids[1], 3, 30), resident(&ids[2], 20, 20)];
        assert_eq!(evict(&all, GPU, 3), Some(vec![1]));
        assert_eq!(evict(&all, GPU, 10), Some(vec![2]), "the small one need not go as well");
        assert_eq!(evict(&all, GPU, 28), Some(vec![1, 2, 0]));
        assert_eq!(evict(&all, GPU, 29), None);
        assert_eq!(evict(&all, GPU, 0), Some(vec![]));
    }

    fn states() -> impl Strategy<Value = WorkerStateName> {
        use WorkerStateName as S;
        prop::sample::select(vec![S::Starting, S::Loading, S::Ready, S::Draining, S::Stopping, S::Failed])
    }

    proptest! {
        #[test]
        fn those_that_go_are_idle_make_the_room_and_are_all_needed(
            workers in prop::collection::vec((0u64..50, 0u64..50, states(), 0u32..2, any::<bool>(), any::<bool>()), 0..8),
            room in 1u64..120,
        ) {
            let ids: Vec<WorkerId> = (0..workers.len()).map(|i| format!("w-{i}").parse().unwrap()).collect();
            let all: Vec<_> = workers.iter().zip(&ids).map(|(&(memory, idle, state, in_flight, pinned, here), id)| {
                let device = if here { GPU } else { DeviceSelector { index: 1, ..GPU } };
                Resident { state, in_flight, pinned, device, ..resident(id, memory, idle) }
            }).collect();
            let able: u64 = all.iter().filter(|r| r.may_go() && r.device == GPU).map(|r| r.memory).sum();
            match evict(&all, GPU, room) {
                None => prop_assert!(able < room),
                Some(going) => {
                    let made: u64 = going.iter().map(|at| all[*at].memory).sum();
                    prop_assert!(made >= room);
                    for at in going {
                        prop_assert!(all[at].may_go() && all[at].device == GPU);
                        prop_assert!(made - all[at].memory < room, "one went in vain");
                    }
                }
            }
        }
    }
}

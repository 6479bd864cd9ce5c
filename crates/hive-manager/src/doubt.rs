//! Whether it is the queen herself who is cut off.
//!
//! One network hive that falls silent is gone. When most of them fall silent at a time, what they have in common is more
//! likely at fault: the queen's own network. Then none of them counts as lost: they get no requests, which would not reach
//! them, but their rows stay as they are, none is held against them when they come back, and it is told once.
//!
//! A process that was seen to be gone is another matter, as is a machine that had been silent before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fleet::HiveId;
use tokio::time::Instant;

/// Silences that begin within this time are one.
const AT_A_TIME: Duration = Duration::from_secs(10);

/// Of fewer hives nobody can tell.
const LEAST: usize = 3;

/// A machine that is silent for longer is off, whatever else is.
const LONGEST: Duration = Duration::from_secs(60);

/// Which network hives answer.
#[derive(Debug, Default)]
pub(crate) struct Doubt(Mutex<Silences>);

impl Doubt {
    fn silences(&self) -> std::sync::MutexGuard<'_, Silences> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hive answers.
    pub(crate) fn answers(&self, id: &HiveId) {
        let mut silences = self.silences();
        if silences.hives.get(id) != Some(&None) {
            silences.hives.insert(id.clone(), None);
        }
    }

    /// The hive is not expected to answer, or was seen not to run.
    pub(crate) fn forget(&self, id: &HiveId) {
        self.silences().hives.remove(id);
    }

    /// A hive that answered says nothing any more.
    pub(crate) fn silent(&self, id: &HiveId) {
        if let Some((silent, of)) = self.silences().silent(id, Instant::now()) {
            tracing::warn!(
                silent,
                of,
                "most network hives fell silent at a time: this queen may be cut off herself, and counts none of them as lost"
            );
        }
    }

    /// Whether the hive's silence is not to be held against it.
    pub(crate) fn excuses(&self, id: &HiveId) -> bool {
        self.silences().excuses(id, Instant::now())
    }
}

#[derive(Debug, Default)]
struct Silences {
    /// Each hive that answered once, and since when it does not any more.
    hives: BTreeMap<HiveId, Option<Instant>>,
    /// Since when the queen doubts herself, and which hives answered just before.
    doubt: Option<(Instant, BTreeSet<HiveId>)>,
}

impl Silences {
    /// Notes a silence. If it makes the queen doubt herself, how many hives are silent, and of how many.
    fn silent(&mut self, id: &HiveId, now: Instant) -> Option<(usize, usize)> {
        match self.hives.get_mut(id) {
            Some(since @ None) => *since = Some(now),
            _ => return None,
        }
        let doubts = self.doubts(now);
        let lately = |since: &Instant| now.saturating_duration_since(*since) <= AT_A_TIME;
        let counted = self.hives.iter().filter(|(_, since)| since.as_ref().is_none_or(lately));
        let counted: BTreeSet<HiveId> = counted.map(|(id, _)| id.clone()).collect();
        let silent = counted.iter().filter(|id| self.is_silent(id)).count();
        if counted.len() < LEAST || silent * 2 <= counted.len() {
            return None;
        }
        let of = counted.len();
        match &mut self.doubt {
            // Whoever falls silent while she doubts is of the same.
            Some((_, hives)) if doubts => {
                hives.extend(counted);
                None
            }
            doubt => {
                *doubt = Some((now, counted));
                Some((silent, of))
            }
        }
    }

    fn is_silent(&self, id: &HiveId) -> bool {
        self.hives.get(id).is_some_and(Option::is_some)
    }

    /// She does until half of them answer again.
    fn doubts(&self, now: Instant) -> bool {
        self.doubt.as_ref().is_some_and(|(since, hives)| {
            let silent = hives.iter().filter(|id| self.is_silent(id)).count();
            silent * 2 > hives.len() && now.saturating_duration_since(*since) < LONGEST
        })
    }

    fn excuses(&self, id: &HiveId, now: Instant) -> bool {
        let is_one = self.doubt.as_ref().is_some_and(|(_, hives)| hives.contains(id));
        is_one && self.is_silent(id) && self.doubts(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(number: u32) -> HiveId {
        format!("h-{number}").parse().unwrap()
    }

    /// So many hives that answer.
    fn fleet(hives: u32) -> Silences {
        let hives = (0..hives).map(|number| (id(number), None)).collect();
        Silences { hives, doubt: None }
    }

    #[test]
    fn most_of_at_least_three_at_a_time_are_the_queens_own_fault() {
        let now = Instant::now();
        for (of, silent, doubts) in [
            (1, 1, false),
            (2, 2, false),
            (3, 1, false),
            (3, 2, true),
            (4, 2, false),
            (4, 3, true),
            (9, 5, true),
        ] {
            let mut silences = fleet(of);
            let told = (0..silent).filter_map(|n| silences.silent(&id(n), now + SECOND * n)).count();
            assert_eq!(told, usize::from(doubts), "{silent} of {of}");
            assert_eq!(silences.excuses(&id(0), now + SECOND * 9), doubts, "{silent} of {of}");
            assert!(!silences.excuses(&id(of), now), "one that was never heard of");
            assert!(silent == of || !silences.excuses(&id(of - 1), now), "one that answers needs no excuse");
        }
    }

    #[test]
    fn those_that_were_lost_one_by_one_are_lost() {
        let (mut silences, now) = (fleet(5), Instant::now());
        for n in 0..5 {
            assert_eq!(silences.silent(&id(n), now + SECOND * 11 * n), None, "{n}");
            assert!(!silences.excuses(&id(n), now + SECOND * 11 * n));
        }
    }

    #[test]
    fn one_that_was_silent_before_has_no_part_in_it() {
        let (mut silences, now) = (fleet(4), Instant::now());
        silences.silent(&id(0), now);
        let later = now + SECOND * 60;
        assert_eq!((silences.silent(&id(1), later), silences.silent(&id(2), later)), (None, Some((2, 3))));
        assert!(silences.excuses(&id(1), later) && !silences.excuses(&id(0), later));
    }

    #[test]
    fn the_doubt_ends_when_half_are_back_and_after_a_minute() {
        let now = Instant::now();
        let doubting = || {
            let mut silences = fleet(4);
            (0..4).for_each(|n| _ = silences.silent(&id(n), now));
            assert!((0..4).all(|n| silences.excuses(&id(n), now)));
            silences
        };
        let mut silences = doubting();
        silences.hives.insert(id(0), None);
        assert!(silences.excuses(&id(3), now));
        silences.hives.insert(id(1), None);
        assert!(!silences.excuses(&id(3), now));
        assert!(!doubting().excuses(&id(3), now + LONGEST));
    }

    #[test]
    fn one_more_silence_is_not_told_again() {
        let (mut silences, now) = (fleet(6), Instant::now());
        let told: Vec<_> = (0..6).filter_map(|n| silences.silent(&id(n), now + SECOND * 3 * n)).collect();
        assert_eq!(told, [(4, 6)]);
        assert!(silences.excuses(&id(5), now + SECOND * 20));
    }

    #[test]
    fn what_was_seen_to_be_gone_does_not_count() {
        let (mut silences, now) = (fleet(3), Instant::now());
        silences.silent(&id(0), now);
        silences.hives.remove(&id(0));
        assert_eq!(silences.silent(&id(1), now), None);
        assert!(!silences.excuses(&id(1), now));
    }
}

//! Which worker has seen the beginning of a prompt.
//!
//! A prompt is cut at fixed places, close together at its beginning and further apart behind, and the hash at each place
//! stands for everything before it. Two prompts with the same hash at a place have the same text up to there, so a worker
//! that was sent one of them has most likely kept what it computed of that beginning.

use std::collections::HashMap;

use crate::hash::{Folding, fold};

/// Distance of the first places, in bytes.
const STEP: usize = 512;

/// Up to here places are [`STEP`] apart; behind, [`PER_OCTAVE`] of them stand in each doubling of the length.
const DENSE: usize = 8 * 1024;

const PER_OCTAVE: usize = 8;

/// Workers remembered for one place. A beginning that more have seen is taken as known to all: whoever has not will soon, and
/// it says nothing about where a request is best off.
const HOLDERS: usize = 16;

/// The text of a prompt up to some place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    hash: u64,
    /// Length of the beginning, in bytes.
    bytes: u32,
}

/// A prompt as the hashes of its beginnings, shortest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixChain {
    marks: Vec<Mark>,
    bytes: u32,
}

impl PrefixChain {
    /// The chain of a prompt. What else must be equal for a worker's memory of it to be of use, such as the tools of a
    /// chat, goes into `salt`.
    #[must_use]
    pub fn of(prompt: &[u8], salt: &[u8]) -> Self {
        let mut hash = fold(0x9e37_79b9_7f4a_7c15, salt);
        let mut marks = Vec::new();
        let mut from = 0;
        for at in places(prompt.len()) {
            hash = fold(hash, &prompt[from..at]);
            from = at;
            marks.push(Mark { hash, bytes: u32::try_from(at).unwrap_or(u32::MAX) });
        }
        Self { marks, bytes: u32::try_from(prompt.len()).unwrap_or(u32::MAX) }
    }

    /// Length of the whole prompt, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// Where a prompt of this length is cut.
fn places(length: usize) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let step = if at < DENSE { STEP } else { (1 << at.ilog2()) / PER_OCTAVE };
        at += step;
        (at <= length).then_some(at)
    })
}

/// One worker that has seen a beginning.
#[derive(Debug, Clone, Copy)]
struct Holder {
    seat: u32,
    /// How many tokens the worker had handled by then.
    clock: u64,
}

type Generation = HashMap<u64, Vec<Holder>, Folding>;

/// Which workers have seen which beginnings, of one model.
///
/// Two generations bound the memory: beginnings that are seen or asked for go to the young one; when that is full the old
/// one is dropped and the young one takes its place. So the least recently used half goes at a time, and nothing need be
/// kept in order.
#[derive(Debug)]
pub struct PrefixIndex {
    young: Generation,
    old: Generation,
    /// Most beginnings in one generation.
    bound: usize,
}

impl PrefixIndex {
    /// Remembers at most `bound` beginnings, at least two.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { young: Generation::default(), old: Generation::default(), bound: (bound / 2).max(1) }
    }

    /// How many beginnings are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that a worker was sent this prompt when it had handled `clock` tokens.
    pub fn note(&mut self, chain: &PrefixChain, seat: u32, clock: u64) {
        for mark in &chain.marks {
            let holders = self.young_entry(mark.hash);
            holders.retain(|holder| holder.seat != seat);
            if holders.len() < HOLDERS {
                holders.push(Holder { seat, clock });
            }
        }
    }

    fn young_entry(&mut self, hash: u64) -> &mut Vec<Holder> {
        if !self.young.contains_key(&hash) {
            if self.young.len() == self.bound {
                self.old = std::mem::take(&mut self.young);
            }
            let holders = self.old.remove(&hash).unwrap_or_default();
            self.young.insert(hash, holders);
        }
        self.young.entry(hash).or_default()
    }

    /// Tells `found` of each worker that has seen a beginning of this prompt: the worker, the beginning's length in bytes,
    /// and the clock at which the worker saw it last. Longer beginnings come later. Returns the length of the beginning that
    /// all have seen.
    pub fn look(&mut self, chain: &PrefixChain, mut found: impl FnMut(u32, u32, u64)) -> u32 {
        let mut common = 0;
        for mark in &chain.marks {
            let in_young = self.young.contains_key(&mark.hash);
            if !in_young && !self.old.contains_key(&mark.hash) {
                break;
            }
            let holders = self.young_entry(mark.hash);
            if holders.len() == HOLDERS {
                common = mark.bytes;
                continue;
            }
            for holder in holders.iter() {
                found(holder.seat, mark.bytes, holder.clock);
            }
        }
        common
    }

    /// Erases a worker that is gone, or that began anew.
    pub fn forget(&mut self, seat: u32) {
        for generation in [&mut self.young, &mut self.old] {
            generation.retain(|_, holders| {
                holders.retain(|holder| holder.seat != seat);
                !holders.is_empty()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn longest(index: &mut PrefixIndex, chain: &PrefixChain, seat: u32) -> u32 {
        let mut longest = 0;
        index.look(chain, |holder, bytes, _| {
            if holder == seat {
                longest = longest.max(bytes);
            }
        });
        longest
    }

    #[test]
    fn a_longer_conversation_is_known_up_to_where_the_shorter_one_ended() {
        let mut index = PrefixIndex::new(1000);
        let first: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        index.note(&PrefixChain::of(&first, b""), 7, 0);
        let mut second = first.clone();
        second.extend(std::iter::repeat_n(b'x', 5_000));
        let known = longest(&mut index, &PrefixChain::of(&second, b""), 7);
        assert!((18_000..=20_000).contains(&known), "{known}");
        assert_eq!(longest(&mut index, &PrefixChain::of(&second, b"other tools"), 7), 0);
        second[100] ^= 1;
        assert_eq!(longest(&mut index, &PrefixChain::of(&second, b""), 7), 0, "another beginning");
    }

    #[test]
    fn places_grow_with_the_length_not_in_step_with_it() {
        assert!(places(32 * 1024 * 1024).count() < 128);
        assert_eq!(places(STEP - 1).count(), 0);
        assert!(places(100_000).is_sorted());
    }

    proptest! {
        #[test]
        fn memory_is_bounded_whatever_is_noted(
            prompts in prop::collection::vec((any::<u64>(), 0usize..20_000, 0u32..100), 1..60),
            bound in 2usize..200,
        ) {
            let mut index = PrefixIndex::new(bound);
            for (salt, length, seat) in prompts {
                let chain = PrefixChain::of(&vec![1; length], &salt.to_le_bytes());
                index.note(&chain, seat, 0);
                index.look(&chain, |_, _, _| ());
                prop_assert!(index.len() <= bound.max(2));
            }
        }

        #[test]
        fn a_forgotten_worker_is_never_found(
            prompts in prop::collection::vec((0u8..4, 512usize..9_000, 0u32..4), 1..30),
            gone in 0u32..4,
        ) {
            let mut index = PrefixIndex::new(10_000);
            for &(text, length, seat) in &prompts {
                index.note(&PrefixChain::of(&vec![text; length], b""), seat, 0);
            }
            index.forget(gone);
            for &(text, length, seat) in &prompts {
                let found = longest(&mut index, &PrefixChain::of(&vec![text; length], b""), seat);
                prop_assert_eq!(found == 0, seat == gone);
            }
        }
    }
}

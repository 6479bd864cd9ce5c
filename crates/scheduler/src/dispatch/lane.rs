//! A worker in the course of one plan.

use super::{
    Seat, float,
    plan::{Ask, Expected},
    seat::Firsts,
};
use crate::{Lengths, Rates, breaker::Standing};

/// How long it is believed when a busy worker's slots become free, if nothing happens there.
const ENDS_BELIEVED_S: f64 = 0.01;

/// What each stream beside counts for while nobody waits: most will have ended before long, and that answers stand still while
/// a prompt is read is counted with the reading. Where somebody waits, each that ends is followed by another one.
const BESIDE: f64 = 0.1;

/// A worker in the course of one plan: as it stands, and what the plan itself has already given it.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// As of which change of its seat it stands here; none if the plan changed it, or time does.
    as_of: Option<u64>,
    /// As of which changes of its seat and of its kind its rates are these.
    rated: Option<(u64, u64)>,
    /// Whether more wait than the one who is to be served.
    crowded: bool,
    pub(super) standing: Standing,
    pub(super) free: usize,
    /// Of how many slots, and how many are taken.
    pub(super) slots: u32,
    pub(super) taken: u32,
    pub(super) by_name: u32,
    /// When its slots become free, once none is; unsorted.
    ends: Vec<f64>,
    /// Until when these are believed, if there are any.
    ends_until: f64,
    firsts: Firsts,
    token_s: f64,
    prefill_token_s: f64,
    round_trip_s: f64,
    pub(super) cached_bytes: u32,
}

impl Lane {
    /// From one plan to the next, most workers stand as they stood.
    pub(super) fn reset(&mut self, seat: &Seat, kinds: &[Rates], seen: Seen, now: f64) {
        // What was measured of the worker itself is not that of its twins.
        let twins = if seat.rates.are_measured() { 0 } else { kinds[seat.kind].changes() };
        let rated = Some((seat.changes, twins));
        if self.rated != rated || self.crowded != seen.crowded {
            (self.rated, self.crowded) = (rated, seen.crowded);
            self.token_s = self.token_s(seat, kinds);
            self.prefill_token_s = seat.rates.prefill_tok_s(&kinds[seat.kind]).recip();
            self.round_trip_s = seat.offer.round_trip.as_secs_f64();
        }
        if self.as_of == Some(seat.changes) && (self.ends.is_empty() || now < self.ends_until) {
            return;
        }
        let standing = standing(seat, seen.alone, now);
        // Of a breaker that is not closed, time alone may change how it stands.
        self.as_of = seat.breaker.is_untroubled().then_some(seat.changes);
        self.standing = standing;
        self.free = seat.free(standing);
        (self.slots, self.by_name, self.firsts) = (seat.offer.slots, seat.by_name, seat.firsts);
        self.taken = u32::try_from(seat.running.len()).unwrap_or(u32::MAX);
        self.ends.clear();
    }

    /// A request was sent there in the course of the plan.
    pub(super) fn took(&mut self, seat: &Seat, kinds: &[Rates], first: f64, end: f64) {
        (self.as_of, self.rated) = (None, None);
        self.free = self.free.saturating_sub(1);
        self.taken += 1;
        self.firsts = self.firsts.and(first);
        if !self.ends.is_empty() {
            self.ends.push(end);
        }
        self.token_s = self.token_s(seat, kinds);
    }

    /// When the next slot is free.
    pub(super) fn opens(&mut self, seat: &Seat, lengths: &Lengths, kinds: &[Rates], now: f64) -> f64 {
        if self.free > 0 {
            return now;
        }
        if self.ends.is_empty() {
            self.ends_until = now + ENDS_BELIEVED_S;
            self.ends.extend(seat.ends(lengths, kinds, now));
        }
        self.ends.iter().copied().fold(f64::MAX, f64::min).max(now)
    }

    /// A request is expected to take the next slot until `end`.
    pub(super) fn book(
        &mut self,
        seat: &Seat,
        lengths: &Lengths,
        kinds: &[Rates],
        (first, end): (f64, f64),
        now: f64,
    ) {
        self.as_of = None;
        self.firsts = self.firsts.and(first);
        if self.ends.is_empty() {
            self.ends.extend(seat.ends(lengths, kinds, now));
        }
        if self.free > 0 {
            self.free -= 1;
            self.ends.push(end);
            return;
        }
        let earliest = self.ends.iter_mut().min_by(|a, b| a.total_cmp(b));
        if let Some(slot) = earliest {
            *slot = end;
        }
    }
}

fn standing(seat: &Seat, alone: bool, now: f64) -> Standing {
    if alone { seat.breaker.standing_alone(now) } else { seat.breaker.standing(now) }
}

/// What a plan finds, whoever the worker is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Whether no worker at all is given requests.
    pub(super) alone: bool,
    /// Whether more than one waits.
    pub(super) crowded: bool,
}

impl Lane {
    /// Seconds for each token of one more stream.
    fn token_s(&self, seat: &Seat, kinds: &[Rates]) -> f64 {
        let beside = seat.running.len().min(seat.offer.slots.saturating_sub(1) as usize);
        let each = if self.crowded { 1.0 } else { BESIDE };
        seat.rates.token_s(float(beside as u64).mul_add(each, 1.0), &kinds[seat.kind])
    }

    pub(super) fn expected(&self, ask: &Ask, opens: f64) -> Expected {
        // The last token is always read: an engine needs it to write the first one.
        let cached_tokens = (ask.byte_tokens * f64::from(self.cached_bytes)).min(ask.prompt_tokens - 1.0);
        Expected {
            wait_s: opens.max(self.firsts.read_until(ask.now)) - ask.now,
            prefill_s: (ask.prompt_tokens - cached_tokens) * self.prefill_token_s,
            decode_s: ask.output_tokens * self.token_s,
            round_trip_s: self.round_trip_s,
            prompt_tokens: ask.prompt_tokens,
            cached_tokens,
        }
    }
}

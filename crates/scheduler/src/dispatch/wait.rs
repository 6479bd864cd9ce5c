//! How long somebody will wait.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    Dispatch, Duration, Ticket, float,
    plan::{Ask, may_go},
};
use crate::breaker::Standing;

/// Answers that must have been seen before anybody is told how long it will take.
const KNOWN: u32 = 8;

impl Dispatch {
    /// How long a request that waits is expected to wait from now on, if all before it take the first slot that becomes
    /// free. None before enough answers were seen to know, or if no worker is there for it.
    #[must_use]
    pub fn expected_wait(&self, ticket: Ticket, now: Duration) -> Option<Duration> {
        if self.lengths.seen() < KNOWN {
            return None;
        }
        let now = now.as_secs_f64();
        let place = self.waiting.position(ticket)?;
        let request = &self.waiting.get(place)?.request;
        let mut slots = Vec::new();
        for (at, seat) in self.seats.iter().enumerate().filter(|(_, seat)| may_go(request, seat)) {
            let from = match seat.breaker.standing(now) {
                Standing::Open(until) => until.min(now + 3600.0),
                _ => now,
            };
            let free = (seat.offer.slots as usize).saturating_sub(seat.running.len());
            let opens = std::iter::repeat_n(now, free).chain(seat.ends(&self.lengths, &self.kinds, now));
            slots.extend(opens.map(|opens| Reverse((millis(opens.max(from)), at))));
        }
        let mut slots = BinaryHeap::from(slots);
        for before in self.waiting.iter().take(place) {
            let Reverse((opens, at)) = slots.pop()?;
            let seat = &self.seats[at];
            let ask = Ask::of(self, before, now);
            let rates = &self.kinds[seat.kind];
            let read = ask.prompt_tokens / seat.rates.prefill_tok_s(rates);
            let written = ask.output_tokens * seat.rates.token_s(float(seat.offer.slots.into()), rates);
            slots.push(Reverse((opens + millis(read + written), at)));
        }
        let Reverse((opens, _)) = slots.peek()?;
        Some(Duration::from_millis(opens.saturating_sub(millis(now))))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is at least 0")]
fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e3) as u64
}

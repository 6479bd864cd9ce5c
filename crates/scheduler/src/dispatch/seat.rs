//! One worker of the model: what is under way on it, and what was measured of it.

use super::{Finished, Offer, Outcome, Request, Ticket, float};
use crate::{
    Lengths, Rates,
    breaker::{Breaker, Standing},
};

/// A request that was sent.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) ticket: Ticket,
    pub(super) sent: f64,
    /// When the first piece of the answer came.
    pub(super) first: Option<f64>,
    /// When it is expected to come.
    pub(super) first_expected: f64,
    /// Tokens of the prompt that the worker does not remember, as far as is known.
    pub(super) unread: f64,
    pub(super) request: Request,
    /// When it came.
    pub(super) since: f64,
    /// Where [`Seat::stream_seconds`] stood at the first piece.
    pub(super) streams_at_first: f64,
}

/// When the first pieces of some answers are expected: of the first one, and of the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Firsts {
    earliest: f64,
    latest: f64,
}

impl Default for Firsts {
    /// None is.
    fn default() -> Self {
        Self { earliest: f64::MAX, latest: 0.0 }
    }
}

impl Firsts {
    pub(super) fn and(self, expected: f64) -> Self {
        Self { earliest: self.earliest.min(expected), latest: self.latest.max(expected) }
    }

    /// When the prompts will have been read. One that is late is expected to be late by as much again: so a worker that has stopped
    /// moving is avoided long before anybody knows that it has.
    pub(super) fn read_until(self, now: f64) -> f64 {
        self.latest.max(now + (now - self.earliest))
    }
}

#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: u32,
    /// Its place among all in the order of their names.
    pub(super) by_name: u32,
    pub(super) offer: Offer,
    pub(super) present: bool,
    pub(super) rates: Rates,
    /// Its place among the kinds of workers, which are twins.
    pub(super) kind: usize,
    pub(super) running: Vec<Running>,
    pub(super) breaker: Breaker,
    /// How often anything changed that a plan looks at.
    pub(super) changes: u64,
    /// When the first pieces are expected of those that have none yet.
    pub(super) firsts: Firsts,
    /// Tokens that it has handled, prompts and answers: its memory keeps the last of them.
    pub(super) clock: u64,
    /// When the last first piece came: a worker reads one prompt after another.
    last_first: f64,
    /// Streams over time, in seconds, up to `counted`.
    stream_seconds: f64,
    counted: f64,
}

impl Seat {
    pub(super) fn new(number: u32, kind: usize, offer: Offer) -> Self {
        let rates = Rates::new(offer.guess);
        Self {
            number,
            by_name: 0,
            offer,
            present: true,
            rates,
            kind,
            running: Vec::new(),
            breaker: Breaker::default(),
            changes: 0,
            firsts: Firsts::default(),
            clock: 0,
            last_first: 0.0,
            stream_seconds: 0.0,
            counted: 0.0,
        }
    }

    /// How many requests it may be given now.
    pub(super) fn free(&self, standing: Standing) -> usize {
        let slots = (self.offer.slots as usize).saturating_sub(self.running.len());
        match standing {
            Standing::Sound | Standing::Suspect => slots,
            Standing::Half => slots.min(1),
            Standing::Open(_) => 0,
        }
    }

    fn count(&mut self, now: f64) {
        self.stream_seconds += float(self.running.len() as u64) * (now - self.counted).max(0.0);
        self.counted = now;
    }

    /// Something has changed that a plan looks at.
    pub(super) fn changed(&mut self) {
        self.changes += 1;
        let unread = self.running.iter().filter(|running| running.first.is_none());
        self.firsts = unread.fold(Firsts::default(), |firsts, running| firsts.and(running.first_expected));
    }

    pub(super) fn send(&mut self, running: Running) {
        self.count(running.sent);
        self.clock += whole(running.unread);
        self.breaker.sent(running.ticket);
        self.running.push(running);
        self.changed();
    }

    pub(super) fn first_token(&mut self, at: usize, now: f64, twins: &mut Rates) {
        self.count(now);
        let begun = self.running[at].sent.max(self.last_first);
        let running = &mut self.running[at];
        if running.first.is_some() {
            return;
        }
        running.first = Some(now);
        running.streams_at_first = self.stream_seconds;
        self.changed();
        let running = &self.running[at];
        let seconds = now - begun - self.offer.round_trip.as_secs_f64();
        // A handful of tokens takes as long as the step that reads them: nothing to learn of the rate.
        if running.unread >= 64.0 {
            for rates in [&mut self.rates, twins] {
                rates.read(running.unread, seconds.max(1e-4));
            }
        }
        self.last_first = now;
    }

    pub(super) fn finish(&mut self, at: usize, how: Finished, now: f64, twins: &mut Rates) -> Running {
        self.count(now);
        let running = self.running.swap_remove(at);
        self.changed();
        match how.how {
            Outcome::Nothing => {}
            Outcome::Complete => self.breaker.completed(),
            Outcome::Failed => self.breaker.failed(running.ticket, now),
            Outcome::Silent => self.breaker.fell_silent(running.ticket, now, self.offer.handled),
        }
        self.breaker.left(running.ticket);
        if let Some(tokens) = how.output_tokens {
            self.clock += tokens;
            let Some((first, streams_at_first)) = self.first_of(&running, how, now, twins) else {
                return running;
            };
            let seconds = now - first;
            if tokens >= 8 && seconds > 0.0 {
                let streams = (self.stream_seconds - streams_at_first) / seconds;
                for rates in [&mut self.rates, twins] {
                    rates.wrote(float(tokens - 1), seconds, streams.max(1.0));
                }
            }
        }
        running
    }

    /// When the first piece of an answer came, and how many streams there had been by then. Of an answer that came in one
    /// piece nobody saw it: the prompt is taken to have been read as fast as others, and in half of the time at most.
    fn first_of(&self, running: &Running, how: Finished, now: f64, twins: &Rates) -> Option<(f64, f64)> {
        if let Some(first) = running.first {
            return Some((first, running.streams_at_first));
        }
        if how.how != Outcome::Complete {
            return None;
        }
        let way = self.offer.round_trip.as_secs_f64();
        let read = running.sent + way + running.unread / self.rates.prefill_tok_s(twins);
        let first = read.min(f64::midpoint(running.sent, now));
        let streams = float(self.running.len() as u64 + 1);
        Some((first, streams.mul_add(first - now, self.stream_seconds)))
    }

    /// When each request under way is expected to end.
    pub(super) fn ends(&self, lengths: &Lengths, twins: &[Rates], now: f64) -> impl Iterator<Item = f64> {
        let token_s = self.rates.token_s(float(self.running.len() as u64), &twins[self.kind]);
        self.running.iter().map(move |running| match running.first {
            Some(first) => {
                let (written, most) = (now - first, running.request.max_tokens);
                let left = lengths.remaining(written / token_s, most) * token_s;
                // It should have ended, so it is slower than was thought.
                let late = most.is_some_and(|most| written >= f64::from(most) * token_s);
                now + if late { written / 2.0 } else { left }
            }
            // What is late is expected to be late by as much again.
            None => {
                let first = now + (running.first_expected - now).abs();
                lengths.remaining(0.0, running.request.max_tokens).mul_add(token_s, first)
            }
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of tokens")]
fn whole(tokens: f64) -> u64 {
    tokens.max(0.0) as u64
}

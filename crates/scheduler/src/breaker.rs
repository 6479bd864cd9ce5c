//! Whether a worker that failed is given requests.
//!
//! ```text
//!          a failure                       five in a row, or silence
//! sound ───────────────▶ suspect ───────────────────────────────────▶ open ◀──────────────┐
//!   ▲ ▲                     │ a second later, or an answer              │ its time is over │ the probe fails:
//!   │ └─────────────────────┘                                          ▼                  │ twice as long
//!   └──────────────────────────────────── the probe is answered ─── half-open ────────────┘
//! ```
//!
//! Half-open is no state that something must lead to: it is what open is once its time is over, and it lasts until a
//! request was given as the probe and has ended, whichever way. So no breaker can stay open by a lost event.
//!
//! A worker that fell silent would let the probe wait as long as the requests before. Its time is therefore long, and over
//! as soon as its hive reports that it read or wrote a token. Where there is no other worker it is tried sooner all the same:
//! a long wait is better than none.

use crate::Ticket;

/// Failures in a row that open it.
const OPENS_AT: u32 = 5;

/// How long a worker that failed once comes after all others.
const SUSPECT_S: f64 = 1.0;

/// How long it stays open: the first time, and at most.
const FIRST_S: f64 = 1.0;
const LONGEST_S: f64 = 60.0;

/// The same for a worker that fell silent.
const SILENT_FIRST_S: f64 = 60.0;
const SILENT_LONGEST_S: f64 = 600.0;

/// How a worker stands with requests.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) enum Standing {
    /// It is given requests.
    #[default]
    Sound,
    /// It failed a moment ago: others come before it.
    Suspect,
    /// One request is due, to see whether it answers again.
    Half,
    /// It is given nothing before this moment, or while the probe is under way.
    Open(f64),
}

/// The breaker of one worker.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Breaker {
    /// Failures in a row.
    failures: u32,
    suspect_until: f64,
    open: Option<Open>,
    /// How often in a row it was opened.
    opened: i32,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: f64,
    /// The same where there is no other worker.
    until_alone: f64,
    /// What the worker had read and written when it fell silent.
    silent_at: Option<u64>,
    probe: Option<Ticket>,
}

impl Breaker {
    /// Whether nothing failed since the last answer that was complete.
    pub(crate) fn is_untroubled(&self) -> bool {
        self.open.is_none() && self.suspect_until <= 0.0
    }

    pub(crate) fn standing(&self, now: f64) -> Standing {
        self.standing_until(now, |open| open.until)
    }

    /// The same where there is no other worker that is given requests.
    pub(crate) fn standing_alone(&self, now: f64) -> Standing {
        self.standing_until(now, |open| open.until_alone)
    }

    fn standing_until(&self, now: f64, until: impl Fn(Open) -> f64) -> Standing {
        match self.open {
            None if now < self.suspect_until => Standing::Suspect,
            None => Standing::Sound,
            Some(open) if open.probe.is_some() => Standing::Open(f64::MAX),
            Some(open) if now < until(open) => Standing::Open(until(open)),
            Some(_) => Standing::Half,
        }
    }

    /// A request was given to the worker.
    pub(crate) fn sent(&mut self, ticket: Ticket) {
        if let Some(open) = &mut self.open {
            open.probe = Some(ticket);
        }
    }

    /// A request that the worker had is over, whichever way, or was not sent after all.
    pub(crate) fn left(&mut self, ticket: Ticket) {
        if let Some(open) = self.open.as_mut().filter(|open| open.probe == Some(ticket)) {
            open.probe = None;
        }
    }

    /// The worker answered. A stream may still break: until one is complete a single failure opens it again.
    pub(crate) fn answered(&mut self) {
        if self.open.take().is_some() {
            self.failures = OPENS_AT - 1;
        }
    }

    /// An answer is complete.
    pub(crate) fn completed(&mut self) {
        *self = Self::default();
    }

    /// A request failed on the worker. What was sent before the breaker opened says nothing new.
    pub(crate) fn failed(&mut self, ticket: Ticket, now: f64) {
        self.suspect_until = now + SUSPECT_S;
        let probed = self.open.is_some_and(|open| open.probe == Some(ticket));
        if self.open.is_some() && !probed {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= OPENS_AT || probed {
            let silent_at = self.open.and_then(|open| open.silent_at);
            let pause = self.pause(FIRST_S, LONGEST_S, ticket);
            let until = now + pause;
            self.open = Some(Open { until, until_alone: until, silent_at, probe: None });
        }
    }

    /// The worker sent nothing for as long as anybody waits; it had handled so many tokens by then.
    pub(crate) fn fell_silent(&mut self, ticket: Ticket, now: f64, handled: u64) {
        let probed = self.open.is_some_and(|open| open.probe == Some(ticket));
        if self.open.is_none() || probed {
            let pause = self.pause(SILENT_FIRST_S, SILENT_LONGEST_S, ticket);
            let (until, until_alone) = (now + pause, now + FIRST_S);
            self.open = Some(Open { until, until_alone, silent_at: Some(handled), probe: None });
        }
    }

    /// Its hive reports that it has handled so many tokens: one that was silent and goes on may be probed.
    pub(crate) fn handled(&mut self, tokens: u64) {
        if let Some(open) = self.open.as_mut().filter(|open| open.silent_at.is_some_and(|at| at != tokens)) {
            (open.until, open.until_alone, open.silent_at) = (0.0, 0.0, None);
        }
    }

    /// Longer each time, and by up to a quarter longer or shorter, so that those that were opened at once are not probed at
    /// once.
    fn pause(&mut self, first: f64, longest: f64, ticket: Ticket) -> f64 {
        let pause = (first * 2.0_f64.powi(self.opened)).min(longest);
        self.opened = (self.opened + 1).min(16);
        pause * (0.75 + 0.5 * ticket.spread())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket(number: u64) -> Ticket {
        Ticket(number)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for number in 0..5 {
            assert!(!matches!(breaker.standing(0.0), Standing::Open(_)), "after {number} failures");
            breaker.failed(ticket(number), 0.0);
        }
        breaker
    }

    #[test]
    fn it_opens_after_five_failures_in_a_row_and_an_answer_between_begins_anew() {
        assert!(matches!(opened().standing(0.0), Standing::Open(_)));
        let mut breaker = Breaker::default();
        for number in 0..40 {
            breaker.failed(ticket(number), 0.0);
            if number % 4 == 3 {
                breaker.completed();
            }
            assert!(!matches!(breaker.standing(0.0), Standing::Open(_)));
        }
        breaker.failed(ticket(50), 7.0);
        assert_eq!((breaker.standing(7.5), breaker.standing(8.5)), (Standing::Suspect, Standing::Sound));
    }

    #[test]
    fn one_request_at_a_time_probes_it_and_a_failure_doubles_its_time() {
        let mut breaker = opened();
        let mut now = 0.0;
        let mut pauses = Vec::new();
        for number in 10..20 {
            let Standing::Open(until) = breaker.standing(now) else { panic!("it is open") };
            pauses.push(until - now);
            now = until;
            assert_eq!(breaker.standing(now), Standing::Half);
            breaker.sent(ticket(number));
            assert_eq!(breaker.standing(now), Standing::Open(f64::MAX), "the probe is under way");
            breaker.failed(ticket(number), now);
            breaker.left(ticket(number));
        }
        assert!(pauses[0] < 1.3 && pauses[1] > pauses[0] && pauses[2] > pauses[1], "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 75.0), "{pauses:?}");
        breaker.sent(ticket(99));
        breaker.answered();
        assert_eq!(breaker.standing(now + 2.0), Standing::Sound);
        breaker.failed(ticket(100), now);
        assert!(matches!(breaker.standing(now), Standing::Open(_)), "not complete yet, and it broke again");
    }

    #[test]
    fn a_worker_that_fell_silent_is_probed_once_it_moves() {
        let mut breaker = Breaker::default();
        breaker.fell_silent(ticket(1), 100.0, 700);
        breaker.handled(700);
        assert_eq!(breaker.standing_alone(102.0), Standing::Half, "better than nothing");
        assert!(matches!(breaker.standing(140.0), Standing::Open(_)), "nothing moved");
        breaker.handled(701);
        assert_eq!(breaker.standing(140.0), Standing::Half);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Send,
        Answer(usize),
        Complete(usize),
        Fail(usize),
        Silence(usize),
        Leave(usize),
        Pass(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let which = 0usize..4;
        let step = prop_oneof![
            3 => Just(Step::Send),
            1 => which.clone().prop_map(Step::Answer),
            1 => which.clone().prop_map(Step::Complete),
            4 => which.clone().prop_map(Step::Fail),
            1 => which.clone().prop_map(Step::Silence),
            1 => which.prop_map(Step::Leave),
            2 => (0u32..2000).prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn whatever_happened_it_comes_to_be_probed_and_the_probe_closes_it(steps in steps()) {
            let mut breaker = Breaker::default();
            let (mut now, mut next, mut under_way) = (0.0, 0, Vec::new());
            for step in steps {
                let mut end = |which: usize| (which < under_way.len()).then(|| under_way.remove(which));
                match step {
                    Step::Send => if !matches!(breaker.standing(now), Standing::Open(_)) {
                        next += 1;
                        breaker.sent(ticket(next));
                        under_way.push(ticket(next));
                    },
                    Step::Answer(which) => if which < under_way.len() { breaker.answered() },
                    Step::Complete(which) => if let Some(one) = end(which) { breaker.completed(); breaker.left(one) },
                    Step::Fail(which) => if let Some(one) = end(which) { breaker.failed(one, now); breaker.left(one) },
                    Step::Silence(which) => if let Some(one) = end(which) { breaker.fell_silent(one, now, 0); breaker.left(one) },
                    Step::Leave(which) => if let Some(one) = end(which) { breaker.left(one) },
                    Step::Pass(tenths) => now += f64::from(tenths) / 10.0,
                }
            }
            under_way.into_iter().for_each(|one| breaker.left(one));
            now += 800.0;
            prop_assert!(!matches!(breaker.standing(now), Standing::Open(_)), "{:?}", breaker);
            breaker.sent(ticket(next + 1));
            breaker.answered();
            prop_assert_eq!(breaker.standing(now), Standing::Sound);
        }
    }
}

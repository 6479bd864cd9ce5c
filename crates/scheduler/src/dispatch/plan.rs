//! From who waits and what is free to who goes where.

use std::{sync::Arc, time::Duration};

use arrayvec::ArrayVec;
use fleet::ALTERNATIVES;

use super::{
    Assigned, Dispatch, Lane, Planned, Request, Running, Seat, Ticket, Waiting, WorkerKey, lane::Seen,
};
use crate::breaker::Standing;

/// Requests at the head of the line that are looked at in one go.
const LOOK_AHEAD: usize = 128;

/// What a worker that just failed must be better by to be tried before a busy one.
const SUSPICION_S: f64 = 0.5;

/// When to look again for somebody who waits though a worker is free.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How long a comparison for somebody who waits is believed.
const BELIEVED_S: f64 = 0.05;

/// Expected times within this part of each other are equal.
const TIE: f64 = 0.01;

/// What is expected of a request on one worker, in seconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Expected {
    /// Until it has a slot and the worker has read what came before.
    pub wait_s: f64,
    /// To read what the worker does not remember of the prompt.
    pub prefill_s: f64,
    /// To write the answer.
    pub decode_s: f64,
    /// To the worker and back.
    pub round_trip_s: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: f64,
    /// Of these the ones that the worker remembers.
    pub cached_tokens: f64,
}

impl Expected {
    /// All of it.
    #[must_use]
    pub fn total_s(&self) -> f64 {
        self.wait_s + self.prefill_s + self.decode_s + self.round_trip_s
    }

    /// What decides. The reading counts three times: somebody waits for the first word meanwhile, the answers that the worker is
    /// writing stand still, and what it reads pushes older prompts out of its memory. So a request stays with the worker
    /// that remembers its prompt unless it would wait there for longer than this is worth.
    #[must_use]
    pub fn cost_s(&self) -> f64 {
        self.total_s() + 2.0 * self.prefill_s
    }

    /// When the first piece and the end of the answer are expected.
    fn times(&self, now: f64) -> (f64, f64) {
        let end = now + self.total_s();
        (end - self.decode_s, end)
    }
}

/// One worker that a request could have gone to.
#[derive(Debug, Clone)]
pub struct Considered {
    /// Which.
    pub worker: Arc<WorkerKey>,
    /// What was expected of it.
    pub expected: Expected,
    /// Whether it failed a request a moment ago.
    pub suspect: bool,
}

/// Why a request went where it went.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What was expected there.
    pub expected: Expected,
    /// How long it had waited by then.
    pub waited: Duration,
    /// The next best workers, best first.
    pub others: ArrayVec<Considered, ALTERNATIVES>,
    /// How many workers were compared.
    pub compared: usize,
}

/// One worker that is compared. There may be hundreds, so only what is compared is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    at: usize,
    /// What decides.
    cost_s: f64,
    /// To read the prompt.
    prefill_s: f64,
    /// Whether it has a free slot; if not, when one is expected is part of the wait.
    free: bool,
    suspect: bool,
    /// Whether it is to be seen whether it answers again.
    probe: bool,
}

impl Dispatch {
    /// Gives workers to those who wait. Also says when to ask again if nothing happens until then: somebody waits for a busy
    /// worker though another one is free, which is wrong if the busy one stays so.
    pub fn assign(&mut self, now: Duration) -> (Vec<Assigned>, Option<Duration>) {
        let mut assigned = Vec::new();
        let at = now.as_secs_f64();
        if self.waiting.is_empty() {
            return (assigned, None);
        }
        self.lanes.resize_with(self.seats.len(), Lane::default);
        let seen = Seen { alone: self.all_are_open(at), crowded: self.waiting.len() > 1 };
        for (lane, seat) in self.lanes.iter_mut().zip(&self.seats) {
            lane.reset(seat, &self.kinds, seen, at);
        }
        let mut place = 0;
        for _ in 0..LOOK_AHEAD {
            let open = self.lanes.iter().any(|lane| lane.free > 0);
            if !open || place == self.waiting.len() {
                break;
            }
            if self.keeps_waiting(place, at) {
                place += 1;
                continue;
            }
            match self.choose(place, at) {
                Some((chosen, ask)) if chosen.free => assigned.extend(self.send(place, chosen, &ask)),
                Some((chosen, ask)) => {
                    self.waits(place, chosen, &ask);
                    place += 1;
                }
                None => place += 1,
            }
        }
        let declined = !self.waiting.is_empty() && self.lanes.iter().any(|lane| lane.free > 0);
        (assigned, if declined { Some(now + LOOK_AGAIN) } else { self.next_probe() })
    }

    /// Those who failed on one worker and wait for others that have all failed too often. They are no probes, or requests that
    /// fail wherever they go would keep sound workers out, so nothing is left for them to wait for.
    #[must_use]
    pub fn hopeless(&self, now: Duration) -> Vec<Ticket> {
        let now = now.as_secs_f64();
        let sound = |seat: &Seat| matches!(seat.breaker.standing(now), Standing::Sound | Standing::Suspect);
        let again = self.waiting.iter().filter(|waiting| !waiting.request.tried.is_empty());
        let left = |request: &Request| self.seats.iter().filter(|seat| may_go(request, seat)).count();
        let hopeless = again.filter(|waiting| {
            let may_wait = self.seats.iter().any(|seat| may_go(&waiting.request, seat) && sound(seat));
            !may_wait && left(&waiting.request) > 0
        });
        hopeless.map(|waiting| waiting.ticket).collect()
    }

    /// How long no worker at all will be given a request, if all have failed too often; none while one of them is being tried.
    #[must_use]
    pub fn all_failing(&self, now: Duration) -> Option<Duration> {
        let now = now.as_secs_f64();
        if !self.all_are_open(now) {
            return None;
        }
        let opens = self.seats.iter().map(|seat| match seat.breaker.standing_alone(now) {
            Standing::Open(until) => until,
            _ => now,
        });
        // A probe that is under way has no time, and may end well.
        let soonest = opens.map(|until| if until < f64::MAX { until } else { now }).min_by(f64::total_cmp)?;
        Duration::try_from_secs_f64(soonest - now).ok().filter(|pause| !pause.is_zero())
    }

    /// Whether no worker at all is given requests.
    fn all_are_open(&self, now: f64) -> bool {
        self.seats.iter().all(|seat| matches!(seat.breaker.standing(now), Standing::Open(_)))
    }

    /// When a worker that is not given requests may be given one again, if somebody waits.
    fn next_probe(&self) -> Option<Duration> {
        let open = self.lanes.iter().filter_map(|lane| match lane.standing {
            Standing::Open(until) => Some(until),
            _ => None,
        });
        let next = open.min_by(f64::total_cmp).filter(|_| !self.waiting.is_empty());
        // Rounded up: a moment too early it would not be time yet.
        next.and_then(|at| Duration::try_from_secs_f64(at + 1e-3).ok())
    }

    /// Whether what somebody waits for was compared a moment ago, and is still taken. So a line costs one comparison of
    /// all workers for each request and quarter of a second, however much happens meanwhile.
    fn keeps_waiting(&mut self, place: usize, now: f64) -> bool {
        let Some(planned) = self.waiting.get(place).and_then(|waiting| waiting.planned) else { return false };
        let Some(at) = position(&self.seats, planned.seat) else { return false };
        let keeps = planned.until > now && self.lanes[at].free == 0;
        if keeps {
            let times = (planned.first, planned.end);
            self.lanes[at].book(&self.seats[at], &self.lengths, &self.kinds, times, now);
        }
        keeps
    }

    /// What is expected of a request on a worker that it was compared for.
    fn expected(&mut self, at: usize, ask: &Ask) -> Expected {
        let Self { lanes, seats, lengths, kinds, .. } = self;
        let opens = lanes[at].opens(&seats[at], lengths, kinds, ask.now);
        lanes[at].expected(ask, opens)
    }

    fn waits(&mut self, place: usize, chosen: Choice, ask: &Ask) {
        let (first, end) = self.expected(chosen.at, ask).times(ask.now);
        let seat = &self.seats[chosen.at];
        self.lanes[chosen.at].book(seat, &self.lengths, &self.kinds, (first, end), ask.now);
        let until = ask.now + BELIEVED_S;
        if let Some(waiting) = self.waiting.get_mut(place) {
            waiting.planned = Some(Planned { seat: seat.number, first, end, until });
        }
    }

    /// Notes in each lane how much of a prompt its worker remembers.
    fn remembered(&mut self, place: usize) {
        let Self { prefixes, seats, lanes, waiting, .. } = self;
        for lane in lanes.iter_mut() {
            lane.cached_bytes = 0;
        }
        let Some(waiting) = waiting.get(place) else { return };
        let common = prefixes.look(&waiting.request.prompt, |number, bytes, clock| {
            let Some(at) = position(seats, number) else { return };
            // What a worker keeps is bounded: newer prompts and answers push older ones out.
            if seats[at].clock - clock <= seats[at].offer.memory_tokens {
                lanes[at].cached_bytes = bytes;
            }
        });
        for lane in lanes.iter_mut() {
            lane.cached_bytes = lane.cached_bytes.max(common);
        }
    }

    /// The worker with the least expected time; all that were compared are in `choices` afterwards.
    fn choose(&mut self, place: usize, now: f64) -> Option<(Choice, Ask)> {
        self.remembered(place);
        let ask = Ask::of(self, self.waiting.get(place)?, now);
        self.compare(place, &ask).map(|chosen| (chosen, ask))
    }

    fn compare(&mut self, place: usize, ask: &Ask) -> Option<Choice> {
        let Self { seats, lanes, choices, lengths, kinds, waiting, .. } = self;
        let request = &waiting.get(place)?.request;
        choices.clear();
        let (mut has_probe, mut has_suspect) = (false, false);
        let goes_anywhere = request.region.is_none() && request.tried.is_empty();
        for (at, (seat, lane)) in seats.iter().zip(lanes.iter_mut()).enumerate() {
            let standing = lane.standing;
            let takes = lane.slots > 0 && !matches!(standing, Standing::Open(_));
            if takes && (goes_anywhere || may_go(request, seat)) {
                let opens = lane.opens(seat, lengths, kinds, ask.now);
                let expected = lane.expected(ask, opens);
                let (cost_s, prefill_s) = (expected.cost_s(), expected.prefill_s);
                let (free, suspect) = (lane.free > 0, standing == Standing::Suspect);
                let probe = standing == Standing::Half;
                has_probe |= probe;
                has_suspect |= suspect;
                choices.push(Choice { at, cost_s, prefill_s, free, suspect, probe });
            }
        }
        // A worker that failed is tried by a request that can still go elsewhere, however good the others are: nothing else
        // would tell that it answers again.
        if has_probe && request.tried.is_empty() {
            let due = choices.iter().filter(|choice| choice.probe && choice.free);
            if let Some(probe) = best_of(due, lanes) {
                return Some(probe);
            }
        }
        if !has_probe && !has_suspect {
            return best_of(choices.iter(), lanes);
        }
        let sound = choices.iter().filter(|choice| !choice.probe);
        let best = |suspect| best_of(sound.clone().filter(|c| c.suspect == suspect), lanes);
        match (best(false), best(true)) {
            // One that failed a moment ago comes after all free ones, and is tried before a long wait.
            (Some(sound), Some(suspect)) => {
                let waits = !sound.free;
                let better = suspect.cost_s + SUSPICION_S < sound.cost_s;
                Some(if waits && better { suspect } else { sound })
            }
            (sound, suspect) => sound.or(suspect),
        }
    }

    /// The best of the workers that were compared and not chosen, best first.
    fn next_best(&mut self, chosen: &Choice, ask: &Ask) -> ArrayVec<Considered, ALTERNATIVES> {
        let mut best = [None::<Choice>; ALTERNATIVES];
        for &other in self.choices.iter().filter(|other| other.at != chosen.at) {
            let is_behind = |better: &Option<Choice>| better.is_some_and(|b| b.cost_s <= other.cost_s);
            // Nearly all are worse than those that were found before.
            let mut at = ALTERNATIVES;
            while at > 0 && !is_behind(&best[at - 1]) {
                at -= 1;
                if at + 1 < ALTERNATIVES {
                    best[at + 1] = best[at];
                }
            }
            if at < ALTERNATIVES {
                best[at] = Some(other);
            }
        }
        let considered = |other: Choice| Considered {
            worker: Arc::clone(&self.seats[other.at].offer.worker),
            expected: self.expected(other.at, ask),
            suspect: other.suspect,
        };
        best.into_iter().flatten().map(considered).collect()
    }

    fn send(&mut self, place: usize, chosen: Choice, ask: &Ask) -> Option<Assigned> {
        let waiting = self.waiting.serve(place)?;
        let now = ask.now;
        let expected = self.expected(chosen.at, ask);
        let (first, end) = expected.times(now);
        let compared = self.choices.len();
        let others = self.next_best(&chosen, ask);
        let seat = &mut self.seats[chosen.at];
        self.sent.insert(waiting.ticket, seat.number);
        self.prefixes.note(&waiting.request.prompt, seat.number, seat.clock);
        let Expected { prompt_tokens, cached_tokens, .. } = expected;
        seat.send(Running {
            ticket: waiting.ticket,
            sent: now,
            first: None,
            first_expected: first,
            unread: prompt_tokens - cached_tokens,
            request: waiting.request,
            since: waiting.since,
            streams_at_first: 0.0,
        });
        self.lanes[chosen.at].took(seat, &self.kinds, first, end);
        let waited = Duration::try_from_secs_f64(now - waiting.since).unwrap_or_default();
        let decision = Box::new(Decision { expected, waited, others, compared });
        Some(Assigned { ticket: waiting.ticket, worker: Arc::clone(&seat.offer.worker), decision })
    }
}

/// What one request asks, in tokens.
pub(super) struct Ask {
    pub(super) prompt_tokens: f64,
    /// Of each byte of the prompt.
    pub(super) byte_tokens: f64,
    pub(super) output_tokens: f64,
    pub(super) now: f64,
}

impl Ask {
    pub(super) fn of(dispatch: &Dispatch, waiting: &Waiting, now: f64) -> Self {
        let bytes = f64::from(waiting.request.prompt.bytes()).max(1.0);
        let prompt_tokens = (bytes / dispatch.token_bytes).max(1.0);
        Self {
            prompt_tokens,
            byte_tokens: prompt_tokens / bytes,
            output_tokens: dispatch.lengths.remaining(0.0, waiting.request.max_tokens),
            now,
        }
    }
}

pub(super) fn may_go(request: &Request, seat: &Seat) -> bool {
    let there = request.region.is_none() || request.region == seat.offer.region;
    there && !request.tried.contains(&seat.offer.worker)
}

pub(super) fn position(seats: &[Seat], number: u32) -> Option<usize> {
    // Mostly nobody has gone, and the numbers follow each other.
    let first = seats.first()?.number;
    let near = number.checked_sub(first)? as usize;
    if seats.get(near).is_some_and(|seat| seat.number == number) {
        return Some(near);
    }
    seats.binary_search_by_key(&number, |seat| seat.number).ok()
}

/// The least expected time. Among equals a free one, then the one that remembers the most, then the one with the smallest part
/// of its slots taken, so that a burst is shared by all; then by name, in whatever order the workers stand.
fn best_of<'a>(choices: impl Iterator<Item = &'a Choice> + Clone, lanes: &[Lane]) -> Option<Choice> {
    let least = choices.clone().map(|choice| choice.cost_s).min_by(f64::total_cmp)?;
    let equal = choices.filter(|choice| choice.cost_s <= least.mul_add(1.0 + TIE, 1e-3));
    let best = equal.min_by(|a, b| {
        let (one, other) = (&lanes[a.at], &lanes[b.at]);
        // a/b < c/d without division: both have at least one slot.
        let taken = |mine: &Lane, theirs: &Lane| u64::from(mine.taken) * u64::from(theirs.slots);
        let less = taken(one, other).cmp(&taken(other, one));
        let read = a.prefill_s.total_cmp(&b.prefill_s);
        b.free.cmp(&a.free).then(read).then(less).then(one.by_name.cmp(&other.by_name))
    });
    best.copied()
}

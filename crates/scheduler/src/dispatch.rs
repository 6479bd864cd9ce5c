//! Who gets which worker of one model, and when.
//!
//! A request waits in one line, by class and by turns of the callers, and is bound to a worker only when that worker has a free slot and no busy one is expected
//! to have answered sooner. What the line holds is taken into account: each request in front of another is expected to
//! take the slot that is best for it, so the first ones wait for the fast worker while the last one is better off with
//! the slow one now.
//!
//! ```text
//! enter ──▶ waiting ──assign──▶ sent ──first_token──▶ answering ──finish──▶ (learned)
//!              └──withdraw──▶ ∅   └──────────finish───────────────────────────┘
//! ```

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use fleet::{HiveId, LaunchId, WorkerId};

use crate::{Folding, Lengths, PrefixChain, PrefixIndex, Rates, Speed};

mod lane;
mod line;
mod plan;
mod seat;

use lane::Lane;
use line::{Line, Rank};
use plan::Choice;
pub use plan::{Considered, Decision, Expected};
use seat::{Running, Seat};

mod wait;

/// Beginnings of prompts that are remembered of one model.
const PREFIXES: usize = 128 * 1024;

/// A worker of one launch. Its successor after a restart is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkerKey {
    /// Its hive.
    pub hive_id: HiveId,
    /// The launch that owns it.
    pub launch_id: LaunchId,
    /// The worker.
    pub worker_id: WorkerId,
}

impl Hash for WorkerKey {
    /// Its own name tells most workers apart, and each request asks.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.worker_id.as_str().as_bytes());
    }
}

/// A ready worker of the model, as it stands now.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which.
    pub worker: Arc<WorkerKey>,
    /// How many requests it answers at once.
    pub slots: u32,
    /// Tokens of prompts and answers that it keeps in memory, all slots together.
    pub memory_tokens: u64,
    /// Tokens that it has read and written so far, as its hive reports: whether it moves.
    pub handled: u64,
    /// Where it stands, if its owner said so.
    pub region: Option<Arc<str>>,
    /// To its hive and back.
    pub round_trip: Duration,
    /// What it is thought to do before it is measured.
    pub guess: Speed,
}

/// Whose requests are served first when not all can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Before all others: somebody sits and waits.
    High,
    /// What is not said to be anything else.
    #[default]
    Normal,
    /// After all others: it may as well be done at night.
    Low,
}

/// What one request asks.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its class.
    pub priority: Priority,
    /// Who asks, by any number that is always the same: callers take turns.
    pub caller: u64,
    /// Its prompt.
    pub prompt: PrefixChain,
    /// Most tokens that it wants.
    pub max_tokens: Option<u32>,
    /// The only region that it may go to.
    pub region: Option<Arc<str>>,
    /// Workers that it must not be sent to: they failed it.
    pub tried: Vec<Arc<WorkerKey>>,
}

/// A request's name in one dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// A number from 0 to 1 that differs from ticket to ticket (the finaliser of SplitMix64).
    pub(crate) fn spread(self) -> f64 {
        let mut z = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        float((z ^ (z >> 31)) >> 40) / float(1 << 24)
    }
}

/// A request got a worker.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// The request.
    pub ticket: Ticket,
    /// Its worker.
    pub worker: Arc<WorkerKey>,
    /// Why this one.
    pub decision: Box<Decision>,
}

/// How a request that was sent ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Finished {
    /// Tokens of its prompt, if the worker counted them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of its answer, if they were counted.
    pub output_tokens: Option<u64>,
    /// How that was.
    pub how: Outcome,
}

/// What the end of a request says of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Nothing: whoever asked left, or the worker had too much to do.
    #[default]
    Nothing,
    /// The worker answered to the end. What it said against the request is an answer too.
    Complete,
    /// It failed.
    Failed,
    /// It sent nothing for as long as anybody waits.
    Silent,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    request: Request,
    since: f64,
    rank: Rank,
    /// What it waits for, as last compared.
    planned: Option<Planned>,
}

/// A slot that somebody waits for.
#[derive(Debug, Clone, Copy)]
struct Planned {
    seat: u32,
    /// When the first piece and the end of the answer are expected.
    first: f64,
    end: f64,
    /// Until when this is believed.
    until: f64,
}

/// The requests and workers of one model.
#[derive(Debug)]
pub struct Dispatch {
    /// Sorted by number; numbers are never used again.
    seats: Vec<Seat>,
    next_seat: u32,
    /// Where each request went that is under way.
    sent: HashMap<Ticket, u32, Folding>,
    waiting: Line,
    next_ticket: u64,
    prefixes: PrefixIndex,
    lengths: Lengths,
    /// What was measured of each kind of worker: those of the same guess, which is that of device and model.
    kinds: Vec<Rates>,
    /// Bytes of a prompt for each token of it.
    token_bytes: f64,
    /// Room for plans, kept from one to the next.
    lanes: Vec<Lane>,
    choices: Vec<Choice>,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self {
            seats: Vec::new(),
            next_seat: 0,
            sent: HashMap::default(),
            waiting: Line::default(),
            next_ticket: 0,
            prefixes: PrefixIndex::new(PREFIXES),
            lengths: Lengths::default(),
            kinds: Vec::new(),
            token_bytes: 4.0,
            lanes: Vec::new(),
            choices: Vec::new(),
        }
    }
}

impl Dispatch {
    /// These are the workers now. Of one that is not among them nothing is remembered.
    pub fn workers(&mut self, offers: impl IntoIterator<Item = Offer>) {
        for seat in &mut self.seats {
            seat.present = false;
        }
        // Mostly they come in the order in which they came before.
        let (mut next, mut has_come) = (0, false);
        for offer in offers {
            let is_it = |seat: &Seat| seat.offer.worker == offer.worker;
            let known = match self.seats.get(next) {
                Some(seat) if is_it(seat) => Some(next),
                _ => self.seats.iter().position(is_it),
            };
            if let Some(seat) = known.and_then(|at| self.seats.get_mut(at)) {
                next = known.map_or(next, |at| at + 1);
                seat.changed();
                seat.breaker.handled(offer.handled);
                seat.offer = offer;
                seat.present = true;
            } else {
                let kind = self.kind(offer.guess);
                self.seats.push(Seat::new(self.next_seat, kind, offer));
                self.next_seat += 1;
                has_come = true;
            }
        }
        let mut has_gone = false;
        for gone in self.seats.extract_if(.., |seat| !seat.present) {
            has_gone = true;
            self.prefixes.forget(gone.number);
            for running in gone.running {
                self.sent.remove(&running.ticket);
            }
        }
        if has_gone {
            // Whoever stood behind them stands elsewhere now.
            self.lanes.clear();
        }
        if has_gone || has_come {
            let mut by_name: Vec<_> = self.seats.iter_mut().collect();
            by_name.sort_by(|one, other| one.offer.worker.cmp(&other.offer.worker));
            for (seat, place) in by_name.into_iter().zip(0..) {
                seat.by_name = place;
                seat.changed();
            }
        }
    }

    fn kind(&mut self, guess: Speed) -> usize {
        self.kinds.iter().position(|rates| rates.guess() == guess).unwrap_or_else(|| {
            self.kinds.push(Rates::new(guess));
            self.kinds.len() - 1
        })
    }

    /// The worker that a request was given has no free slot after all: somebody else took it. The request waits again, before
    /// all others, and the worker counts as full until [`Dispatch::workers`] says how it stands.
    pub fn refused(&mut self, ticket: Ticket) {
        let Some((seat, at)) = seat_of(&mut self.seats, &self.sent, ticket) else { return };
        self.sent.remove(&ticket);
        let Running { request, since, .. } = seat.running.swap_remove(at);
        seat.changed();
        seat.breaker.left(ticket);
        seat.offer.slots = u32::try_from(seat.running.len()).unwrap_or(u32::MAX);
        let rank = self.waiting.rank(request.priority, request.caller);
        self.waiting.push_front(Waiting { ticket, request, since, rank, planned: None });
    }

    /// A request comes and waits behind all others of its class and round.
    pub fn enter(&mut self, request: Request, now: Duration) -> Ticket {
        let waiting = self.ticket(request, now);
        let ticket = waiting.ticket;
        self.waiting.push(waiting);
        ticket
    }

    /// A request that was sent and failed is older than all who wait: it comes before them.
    pub fn enter_again(&mut self, request: Request, now: Duration) -> Ticket {
        let waiting = self.ticket(request, now);
        let ticket = waiting.ticket;
        self.waiting.push_front(waiting);
        ticket
    }

    fn ticket(&mut self, request: Request, now: Duration) -> Waiting {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let rank = self.waiting.rank(request.priority, request.caller);
        Waiting { ticket, request, since: now.as_secs_f64(), rank, planned: None }
    }

    /// A request that waits leaves. False if it does not wait any more.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(ticket)
    }

    /// All who wait leave.
    pub fn withdraw_all(&mut self) -> Vec<Ticket> {
        self.waiting.clear()
    }

    /// Who is served last. Whoever was sent to a worker before is not counted.
    #[must_use]
    pub fn last(&self) -> Option<Ticket> {
        self.waiting.last()
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many come before this one.
    #[must_use]
    pub fn ahead(&self, ticket: Ticket) -> Option<usize> {
        self.waiting.position(ticket)
    }

    /// Requests that are under way on a worker.
    #[must_use]
    pub fn running(&self, worker: &WorkerKey) -> usize {
        self.seats.iter().find(|seat| *seat.offer.worker == *worker).map_or(0, |seat| seat.running.len())
    }

    /// Whether there is nothing to remember: no worker, and nobody who waits for one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.seats.is_empty() && self.waiting.is_empty()
    }

    /// The worker answers, be it in one piece or with what it has against the request.
    pub fn answered(&mut self, ticket: Ticket) {
        if let Some((seat, _)) = seat_of(&mut self.seats, &self.sent, ticket) {
            seat.breaker.answered();
            seat.changed();
        }
    }

    /// The first piece of a stream came.
    pub fn first_token(&mut self, ticket: Ticket, now: Duration) {
        let Self { seats, sent, kinds, .. } = self;
        if let Some((seat, at)) = seat_of(seats, sent, ticket) {
            seat.breaker.answered();
            seat.first_token(at, now.as_secs_f64(), &mut kinds[seat.kind]);
        }
    }

    /// A request that was sent is over: its slot is free, and what it tells is learned.
    pub fn finish(&mut self, ticket: Ticket, how: Finished, now: Duration) {
        let Self { seats, sent, kinds, .. } = self;
        let Some((seat, at)) = seat_of(seats, sent, ticket) else { return };
        sent.remove(&ticket);
        let running = seat.finish(at, how, now.as_secs_f64(), &mut kinds[seat.kind]);
        if let Some(tokens) = how.prompt_tokens.filter(|tokens| *tokens > 16)
            && running.request.prompt.bytes() > 0
        {
            let ratio = f64::from(running.request.prompt.bytes()) / float(tokens);
            self.token_bytes = self.token_bytes.mul_add(0.9, 0.1 * ratio.clamp(0.5, 32.0));
        }
        if let Some(tokens) = how.output_tokens.filter(|_| how.how == Outcome::Complete) {
            self.lengths.saw(float(tokens));
        }
    }
}

fn seat_of<'a>(
    seats: &'a mut [Seat],
    sent: &HashMap<Ticket, u32, Folding>,
    ticket: Ticket,
) -> Option<(&'a mut Seat, usize)> {
    let at = plan::position(seats, *sent.get(&ticket)?)?;
    let seat = seats.get_mut(at)?;
    let running = seat.running.iter().position(|running| running.ticket == ticket)?;
    Some((seat, running))
}

#[expect(clippy::cast_precision_loss, reason = "token counts are far below what a float holds exactly")]
const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;

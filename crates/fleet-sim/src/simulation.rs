//! One trace on some machines under one policy, in simulated time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use crate::{
    Machine, Policy, Sent, Trace,
    engine::{Engine, Happened},
};

/// Longest time that is simulated, in seconds: a policy that leaves somebody waiting for ever ends here.
const HORIZON_S: f64 = 1e6;

/// What came of a run. All times in seconds.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// From the first request to the last end.
    pub makespan_s: f64,
    /// From each request to its first token at the router, in order of size.
    pub first_token_s: Vec<f64>,
    /// Tokens that all machines wrote per second, from the first request until nothing was left to send.
    pub saturated_tok_s: f64,
    /// How many requests went to each machine.
    pub sent: Vec<usize>,
    /// When the last one was sent.
    pub last_sent_s: f64,
    /// When each machine had answered all that it was sent.
    pub done_s: Vec<f64>,
}

impl Outcome {
    /// What a part of all requests stay below.
    #[must_use]
    pub fn first_token(&self, part: f64) -> f64 {
        let last = self.first_token_s.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a position in a short list"
        )]
        let at = (last as f64 * part).round() as usize;
        self.first_token_s.get(at).copied().unwrap_or(0.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Arrives(usize),
    Reaches(usize, usize),
    First(usize),
    Ends(usize),
    Wake,
}

/// Events in the order of their time, and those of the same time in the order of their making.
#[derive(Debug, Default)]
struct Agenda {
    events: Vec<Event>,
    order: BinaryHeap<Reverse<(Time, usize)>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Agenda {
    fn add(&mut self, at: f64, event: Event) {
        self.order.push(Reverse((Time(at), self.events.len())));
        self.events.push(event);
    }

    fn next(&self) -> Option<f64> {
        self.order.peek().map(|Reverse((Time(at), _))| *at)
    }

    fn pop(&mut self) -> Option<Event> {
        self.order.pop().map(|Reverse((_, at))| self.events[at])
    }
}

struct Run<'a> {
    trace: &'a Trace,
    machines: &'a [Machine],
    engines: Vec<Engine>,
    agenda: Agenda,
    followers: BTreeMap<usize, Vec<usize>>,
    arrived: Vec<f64>,
    first: Vec<Option<f64>>,
    ended: usize,
    sent: Vec<usize>,
    done: Vec<f64>,
    last_sent: f64,
    written_by_then: f64,
    now: f64,
}

/// Runs a trace to its end.
#[must_use]
pub fn simulate(trace: &Trace, machines: &[Machine], policy: &mut dyn Policy) -> Outcome {
    let mut run = Run {
        trace,
        machines,
        engines: machines.iter().map(Engine::new).collect(),
        agenda: Agenda::default(),
        followers: BTreeMap::new(),
        arrived: vec![0.0; trace.requests.len()],
        first: vec![None; trace.requests.len()],
        ended: 0,
        sent: vec![0; machines.len()],
        done: vec![0.0; machines.len()],
        last_sent: 0.0,
        written_by_then: 0.0,
        now: 0.0,
    };
    for (at, asked) in trace.requests.iter().enumerate() {
        match asked.after {
            None => run.agenda.add(asked.at, Event::Arrives(at)),
            Some(before) => run.followers.entry(before).or_default().push(at),
        }
    }
    while run.ended < trace.requests.len() && run.now < HORIZON_S && run.step(policy) {}
    let mut first_token_s: Vec<f64> =
        run.first.iter().zip(&run.arrived).map(|(first, at)| first.unwrap_or(HORIZON_S) - at).collect();
    first_token_s.sort_by(f64::total_cmp);
    Outcome {
        makespan_s: if run.ended == trace.requests.len() { run.now } else { f64::INFINITY },
        first_token_s,
        saturated_tok_s: run.written_by_then / run.last_sent.max(1e-9),
        sent: run.sent,
        last_sent_s: run.last_sent,
        done_s: run.done,
    }
}

impl Run<'_> {
    /// Goes to what happens next; false if nothing does.
    fn step(&mut self, policy: &mut dyn Policy) -> bool {
        let engine = (0..self.engines.len())
            .filter_map(|at| Some((self.engines[at].next()?, at)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let event = self.agenda.next();
        match (engine, event) {
            (Some((to, at)), event) if event.is_none_or(|event| to <= event) => {
                self.work(at, to);
                true
            }
            (_, Some(to)) => {
                (0..self.engines.len()).for_each(|at| self.work(at, to));
                let sends = self.agenda.pop().map(|event| self.happens(event, policy)).unwrap_or_default();
                self.send(sends);
                true
            }
            (_, None) => false,
        }
    }

    /// Has one machine work until `to`, and what happens there be known at the router when the way back is over.
    fn work(&mut self, at: usize, to: f64) {
        self.now = to;
        let happened = self.engines[at].work(to, self.trace);
        let back = to + self.machines[at].round_trip_s / 2.0;
        for what in happened {
            match what {
                Happened::First(request) => self.agenda.add(back, Event::First(request)),
                Happened::Finished(request) => {
                    self.done[at] = back;
                    self.agenda.add(back, Event::Ends(request));
                }
            }
        }
    }

    fn happens(&mut self, event: Event, policy: &mut dyn Policy) -> Sent {
        let now = self.now;
        match event {
            Event::Arrives(request) => {
                self.arrived[request] = now;
                policy.arrives(request, &self.trace.requests[request], now)
            }
            Event::Reaches(request, machine) => {
                self.engines[machine].take(request, self.trace);
                Sent::default()
            }
            Event::First(request) => {
                self.first[request] = Some(now);
                policy.first(request, now)
            }
            Event::Ends(request) => {
                self.ended += 1;
                for next in self.followers.remove(&request).unwrap_or_default() {
                    self.agenda.add(now + self.trace.requests[next].at, Event::Arrives(next));
                }
                policy.ends(request, &self.trace.requests[request], now)
            }
            Event::Wake => policy.wakes(now),
        }
    }

    fn send(&mut self, sent: Sent) {
        for (request, machine) in sent.to {
            self.sent[machine] += 1;
            self.last_sent = self.now;
            self.written_by_then = self.engines.iter().map(|engine| engine.written).sum();
            let there = self.now + self.machines[machine].round_trip_s / 2.0;
            self.agenda.add(there, Event::Reaches(request, machine));
        }
        if let Some(at) = sent.wake_at {
            self.agenda.add(at.max(self.now), Event::Wake);
        }
    }
}

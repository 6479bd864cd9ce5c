//! How long it takes to choose a worker.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use scheduler::{
    Assigned, Dispatch, Finished, Offer, Outcome, PrefixChain, Request, Speed, Ticket, WorkerKey,
};

/// Workers of a hive, and how many of all serve the model that is asked for: one in five.
const PER_HIVE: usize = 10;
const ON_THE_MODEL: usize = 5;

const PREFILL_TOK_S: f64 = 4000.0;
const PREFIXES: usize = 10_000;
const CHOICES: usize = 20_000;

pub(crate) fn run() {
    println!("one choice with its bookkeeping, every second slot taken, {PREFIXES} prompts remembered");
    println!("  {:>8} {:>8} {:>10} {:>10} {:>10}   should be", "workers", "hives", "on model", "p50", "p99");
    for workers in [500, 1_000, 2_000, 5_000, 10_000] {
        let mut times = measure(workers / ON_THE_MODEL);
        times.sort_unstable();
        let [half, most] = [times.len() / 2, times.len() * 99 / 100].map(|at| times[at]);
        println!(
            "  {workers:>8} {:>8} {:>10} {:>7.1} µs {:>7.1} µs   {}",
            workers / PER_HIVE,
            workers / ON_THE_MODEL,
            half.as_secs_f64() * 1e6,
            most.as_secs_f64() * 1e6,
            if workers == 500 { "p99 ≤ 20 µs" } else { "" }
        );
    }
}

fn measure(workers: usize) -> Vec<Duration> {
    let mut load = Load { dispatch: Dispatch::default(), now: Duration::ZERO, ..Load::default() };
    load.dispatch.workers((0..workers).filter_map(offer));
    // Half of the slots are taken when a request stays for a second.
    let pause = Duration::from_secs(1) / u32::try_from(workers * 2).unwrap_or(u32::MAX);
    for at in 0..PREFIXES {
        load.ask(prompt(at), pause);
    }
    (0..CHOICES).map(|at| load.ask(prompt(at * 7 % (PREFIXES * 2)), pause)).collect()
}

/// Requests that are under way.
#[derive(Default)]
struct Load {
    dispatch: Dispatch,
    now: Duration,
    /// When what happens to which; whether it is the end.
    due: BinaryHeap<Reverse<(Duration, Ticket, bool)>>,
}

impl Load {
    /// The time that it took to choose a worker for one more.
    fn ask(&mut self, prompt: PrefixChain, pause: Duration) -> Duration {
        self.now += pause;
        while let Some(Reverse((at, ticket, ends))) = self.due.peek().copied()
            && at <= self.now
        {
            self.due.pop();
            if ends {
                let how = Finished { prompt_tokens: None, output_tokens: Some(75), how: Outcome::Complete };
                self.dispatch.finish(ticket, how, at);
                self.assign(at);
            } else {
                self.dispatch.first_token(ticket, at);
                self.due.push(Reverse((at + Duration::from_millis(750), ticket, true)));
            }
        }
        let now = self.now;
        let request = Request { prompt, max_tokens: Some(512), ..Request::default() };
        let began = Instant::now();
        self.dispatch.enter(request, now);
        let (assigned, _) = black_box(self.dispatch.assign(now));
        let took = began.elapsed();
        self.sent(&assigned, now);
        took
    }

    fn assign(&mut self, now: Duration) {
        let (assigned, _) = self.dispatch.assign(now);
        self.sent(&assigned, now);
    }

    fn sent(&mut self, assigned: &[Assigned], now: Duration) {
        for Assigned { ticket, decision, .. } in assigned {
            let unread = decision.expected.prompt_tokens - decision.expected.cached_tokens;
            let first = now + Duration::from_secs_f64(unread / PREFILL_TOK_S);
            self.due.push(Reverse((first, *ticket, false)));
        }
    }
}

/// Conversations of 2 to 10 KiB with a common beginning.
fn prompt(at: usize) -> PrefixChain {
    let mut text = vec![b'a'; 1024];
    text.extend(at.to_le_bytes());
    text.resize(2048 + at * 97 % 8192, b'b');
    PrefixChain::of(&text, b"")
}

fn offer(at: usize) -> Option<Offer> {
    Some(Offer {
        worker: Arc::new(WorkerKey {
            hive_id: format!("hive-{}", at / PER_HIVE).parse().ok()?,
            launch_id: "launch".parse().ok()?,
            worker_id: format!("w-{at}").parse().ok()?,
        }),
        slots: 4,
        memory_tokens: 4 * 32_768,
        handled: 0,
        region: None,
        round_trip: Duration::from_millis(1),
        guess: Speed { prefill_tok_s: PREFILL_TOK_S, decode_tok_s: 100.0 },
    })
}

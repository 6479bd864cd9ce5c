//! A time that no schedule can beat, however much it knows.

use std::collections::HashSet;

use crate::{Asked, Machine, Trace, trace::BLOCK};

/// Tokens to read and to write.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    prompt: f64,
    output: f64,
}

/// A time, in seconds, before which no schedule has answered all: whatever comes after some moment must be done by all
/// machines together, as if every request could be cut at will, each machine did what it does best with all its slots
/// busy, and no text were read twice in the whole fleet; and no request, nor any that waits for its answer, is done sooner
/// than on the fastest idle machine.
#[must_use]
pub fn lower_bound(trace: &Trace, machines: &[Machine]) -> f64 {
    let mut begins = Vec::with_capacity(trace.requests.len());
    let mut ends: Vec<f64> = Vec::with_capacity(trace.requests.len());
    for asked in &trace.requests {
        let begin = asked.after.map_or(asked.at, |before| ends[before] + asked.at);
        begins.push(begin);
        ends.push(begin + alone(asked, machines));
    }
    let mut order: Vec<usize> = (0..begins.len()).collect();
    order.sort_by(|a, b| begins[*a].total_cmp(&begins[*b]));
    let work = fresh_work(trace, &order);
    let mut bound = ends.iter().copied().fold(0.0, f64::max);
    let mut left = Work::default();
    for (at, request) in order.iter().enumerate().rev() {
        left.prompt += work[at].prompt;
        left.output += work[at].output;
        bound = bound.max(begins[*request] + together(left, machines));
    }
    bound
}

/// On the fastest idle machine, which remembers all of the prompt but the last token.
fn alone(asked: &Asked, machines: &[Machine]) -> f64 {
    let output = f64::from(asked.output_tokens.saturating_sub(1));
    let there = machines.iter().filter(|m| asked.region.is_none_or(|region| m.region == region));
    there
        .map(|m| output.mul_add(m.token_s(1.0), m.prefill_tok_s.recip()) + m.round_trip_s)
        .fold(f64::MAX, f64::min)
}

/// The work of each request in this order, its prompt without what any earlier one contained.
fn fresh_work(trace: &Trace, order: &[usize]) -> Vec<Work> {
    let mut seen: HashSet<u64> = HashSet::new();
    let mut work = Vec::with_capacity(order.len());
    for request in order {
        let asked = &trace.requests[*request];
        let fresh = asked.blocks.iter().filter(|block| !seen.contains(block)).count() * BLOCK;
        let rest = asked.prompt_tokens as usize % BLOCK;
        // Text that the answer of the request before it brought was written, not read.
        let prompt = f64::from(u32::try_from(fresh + rest).unwrap_or(u32::MAX)).max(1.0);
        work.push(Work { prompt, output: f64::from(asked.output_tokens.saturating_sub(1)) });
        seen.extend(asked.blocks_after.iter().copied());
    }
    work
}

/// All machines together, each doing what it does best.
fn together(work: Work, machines: &[Machine]) -> f64 {
    // While a machine reads, its other slots write one token for each 512 that are read.
    let beside = machines.iter().map(|m| f64::from(m.slots - 1)).fold(0.0, f64::max) / 512.0;
    let output = beside.mul_add(-work.prompt, work.output).max(0.0);
    let mut readers: Vec<_> = machines.iter().map(|m| (m.prefill_tok_s, m.decode_most())).collect();
    readers.sort_by(|a, b| (b.0 / b.1).total_cmp(&(a.0 / a.1)));
    let enough = |seconds: f64| {
        let (mut prompt, mut written) = (work.prompt, 0.0);
        for (read, write) in &readers {
            let reading = (prompt / read).min(seconds);
            prompt -= reading * read;
            written += (seconds - reading) * write;
        }
        prompt <= 1e-6 && written >= output
    };
    let (mut low, mut high) = (0.0, 1.0);
    while !enough(high) {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if enough(middle) { high = middle } else { low = middle }
    }
    low
}

//! What a worker does with the requests that it was sent.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{Machine, Trace, trace::BLOCK};

/// Prompt tokens that are read between two tokens of those that are being written.
const CHUNK: f64 = 512.0;

/// What happened on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// The prompt was read and the first token written.
    First(usize),
    /// The answer is complete.
    Finished(usize),
}

#[derive(Debug)]
struct Reading {
    request: usize,
    left: f64,
}

#[derive(Debug)]
struct Writing {
    request: usize,
    left: f64,
}

/// The worker of one machine.
#[derive(Debug)]
pub(crate) struct Engine {
    machine: Machine,
    queue: VecDeque<usize>,
    /// Has a slot; the first one is being read.
    reading: VecDeque<Reading>,
    writing: Vec<Writing>,
    memory: Memory,
    now: f64,
    /// Tokens written so far.
    pub(crate) written: f64,
}

impl Engine {
    pub(crate) fn new(machine: &Machine) -> Self {
        let memory = Memory::new(usize::try_from(machine.memory_tokens).unwrap_or(usize::MAX) / BLOCK);
        Self {
            machine: machine.clone(),
            queue: VecDeque::new(),
            reading: VecDeque::new(),
            writing: Vec::new(),
            memory,
            now: 0.0,
            written: 0.0,
        }
    }

    pub(crate) fn take(&mut self, request: usize, trace: &Trace) {
        self.queue.push_back(request);
        self.admit(trace);
    }

    fn admit(&mut self, trace: &Trace) {
        while self.reading.len() + self.writing.len() < self.machine.slots as usize {
            let Some(request) = self.queue.pop_front() else { break };
            self.reading.push_back(Reading { request, left: f64::MAX });
        }
        self.begin(trace);
    }

    /// What of the first prompt in line is not remembered is known when it is begun.
    fn begin(&mut self, trace: &Trace) {
        if let Some(first) = self.reading.front_mut().filter(|first| first.left > 1e12) {
            let asked = &trace.requests[first.request];
            let known = self.memory.known(&asked.blocks) * BLOCK;
            let tokens = asked.prompt_tokens as usize;
            first.left = f64::from(u32::try_from(tokens.saturating_sub(known)).unwrap_or(u32::MAX)).max(1.0);
        }
    }

    fn write_rate(&self) -> f64 {
        let streams = f64::from(u32::try_from(self.writing.len()).unwrap_or(u32::MAX));
        if self.reading.is_empty() {
            self.machine.token_s(streams.max(1.0)).recip()
        } else {
            self.machine.prefill_tok_s / CHUNK
        }
    }

    /// When something happens next.
    pub(crate) fn next(&self) -> Option<f64> {
        let read = self.reading.front().map(|first| first.left / self.machine.prefill_tok_s);
        let rate = self.write_rate();
        let written = self.writing.iter().map(|w| w.left / rate).min_by(f64::total_cmp);
        let wait = read.into_iter().chain(written).min_by(f64::total_cmp)?;
        Some(self.now + wait)
    }

    /// Works until `to`, which is not later than [`Engine::next`].
    pub(crate) fn work(&mut self, to: f64, trace: &Trace) -> Vec<Happened> {
        let seconds = (to - self.now).max(0.0);
        let rate = self.write_rate();
        self.now = to;
        for writing in &mut self.writing {
            let tokens = (seconds * rate).min(writing.left);
            writing.left -= tokens;
            self.written += tokens;
        }
        if let Some(first) = self.reading.front_mut() {
            first.left -= seconds * self.machine.prefill_tok_s;
        }
        let mut happened = Vec::new();
        self.writing.retain(|writing| {
            let done = writing.left < 1e-6;
            if done {
                happened.push(Happened::Finished(writing.request));
                self.memory.keep(&trace.requests[writing.request].blocks_after);
            }
            !done
        });
        if let Some(first) = self.reading.pop_front_if(|first| first.left < 1e-6) {
            let asked = &trace.requests[first.request];
            self.memory.keep(&asked.blocks);
            happened.push(Happened::First(first.request));
            self.writing.push(Writing {
                request: first.request,
                left: f64::from(asked.output_tokens.saturating_sub(1)).max(1e-3),
            });
        }
        self.admit(trace);
        happened
    }
}

/// The blocks that were used last.
#[derive(Debug)]
struct Memory {
    bound: usize,
    used: HashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
    clock: u64,
}

impl Memory {
    fn new(bound: usize) -> Self {
        Self { bound, used: HashMap::new(), order: BTreeMap::new(), clock: 0 }
    }

    fn known(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    fn keep(&mut self, blocks: &[u64]) {
        // The end of a text is forgotten before its beginning, without which it is of no use.
        for block in blocks.iter().rev() {
            self.clock += 1;
            if let Some(before) = self.used.insert(*block, self.clock) {
                self.order.remove(&before);
            }
            self.order.insert(self.clock, *block);
        }
        while self.used.len() > self.bound
            && let Some((_, block)) = self.order.pop_first()
        {
            self.used.remove(&block);
        }
    }
}

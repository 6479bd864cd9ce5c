//! What other routers do: each sends a request on as soon as it comes, and the engine keeps the line.

use std::collections::HashMap;

use scheduler::{PrefixIndex, Speed};

use crate::{Asked, Machine, Policy, Sent, machine::MODEL_BYTES, random::Random};

/// What they know of a machine.
#[derive(Debug, Clone)]
struct Known {
    region: &'static str,
    /// Requests under way.
    load: u32,
    /// Tokens of these, prompts and what answers mostly have.
    tokens: f64,
    /// Tokens per second that it was seen to handle.
    tok_s: f64,
}

/// The rules.
#[derive(Debug)]
enum Rule {
    /// One after the other.
    RoundRobin(usize),
    /// Where the fewest are under way.
    LeastConnections,
    /// The better of two that are drawn.
    PowerOfTwo(Random),
    /// Least tokens under way over tokens per second (SMG's "least load").
    DrainTime,
    /// Where the prompt's beginning was seen, unless too many are under way there; else the fewest (LocalAI's parameters: a
    /// match of 0.3, at most 2 more and 1.5 times as many as on the least loaded).
    PrefixSticky(PrefixIndex),
}

#[derive(Debug)]
struct Other {
    name: &'static str,
    rule: Rule,
    machines: Vec<Known>,
    /// Where each request is, since when, and with how many tokens.
    under_way: HashMap<usize, (usize, f64, f64)>,
    mean_output: f64,
}

/// All of them.
#[must_use]
pub(crate) fn others(machines: &[Machine]) -> Vec<Box<dyn Policy>> {
    let rules = [
        ("round robin", Rule::RoundRobin(0)),
        ("least connections", Rule::LeastConnections),
        ("power of two", Rule::PowerOfTwo(Random::new(2))),
        ("drain time", Rule::DrainTime),
        ("prefix sticky", Rule::PrefixSticky(PrefixIndex::new(16 * 1024))),
    ];
    let known: Vec<_> = machines
        .iter()
        .map(|machine| Known {
            region: machine.region,
            load: 0,
            tokens: 0.0,
            tok_s: Speed::guess(machine.kind, machine.device, MODEL_BYTES).decode_tok_s
                * f64::from(machine.slots),
        })
        .collect();
    let other = |(name, rule)| Other {
        name,
        rule,
        machines: known.clone(),
        under_way: HashMap::new(),
        mean_output: 200.0,
    };
    rules.map(other).into_iter().map(|other| Box::new(other) as Box<dyn Policy>).collect()
}

impl Other {
    fn choose(&mut self, asked: &Asked) -> usize {
        let Self { rule, machines, .. } = self;
        let may: Vec<usize> = (0..machines.len())
            .filter(|at| asked.region.is_none_or(|region| machines[*at].region == region))
            .collect();
        let least = |by: &dyn Fn(&Known) -> f64| {
            may.iter().copied().min_by(|a, b| by(&machines[*a]).total_cmp(&by(&machines[*b]))).unwrap_or(0)
        };
        match rule {
            Rule::RoundRobin(turn) => {
                *turn += 1;
                may[*turn % may.len()]
            }
            Rule::LeastConnections => least(&|known| f64::from(known.load)),
            Rule::PowerOfTwo(random) => {
                let count = u32::try_from(may.len()).unwrap_or(1);
                let mut drawn = || may[random.below(count) as usize];
                let (one, other) = (drawn(), drawn());
                if machines[one].load <= machines[other].load { one } else { other }
            }
            Rule::DrainTime => least(&|known| known.tokens / known.tok_s),
            Rule::PrefixSticky(seen) => {
                let fewest = least(&|known| f64::from(known.load));
                let bound = machines[fewest].load;
                let mut best = (0, None);
                seen.look(&asked.prompt, |machine, bytes, _| {
                    let at = machine as usize;
                    let load = machines[at].load;
                    let balanced = load <= bound + 2 || f64::from(load) <= 1.5 * f64::from(bound);
                    if may.contains(&at) && balanced && bytes > best.0 {
                        best = (bytes, Some(at));
                    }
                });
                let enough = f64::from(best.0) >= 0.3 * f64::from(asked.prompt.bytes());
                let chosen = best.1.filter(|_| enough).unwrap_or(fewest);
                seen.note(&asked.prompt, u32::try_from(chosen).unwrap_or(0), 0);
                chosen
            }
        }
    }
}

impl Policy for Other {
    fn name(&self) -> &'static str {
        self.name
    }

    fn arrives(&mut self, request: usize, asked: &Asked, now: f64) -> Sent {
        let chosen = self.choose(asked);
        let tokens = f64::from(asked.prompt_tokens) + self.mean_output.min(f64::from(asked.max_tokens));
        self.machines[chosen].load += 1;
        self.machines[chosen].tokens += tokens;
        self.under_way.insert(request, (chosen, now, tokens));
        Sent::one(request, chosen)
    }

    fn first(&mut self, _: usize, _: f64) -> Sent {
        Sent::default()
    }

    fn ends(&mut self, request: usize, asked: &Asked, now: f64) -> Sent {
        if let Some((machine, since, tokens)) = self.under_way.remove(&request) {
            let output = f64::from(asked.output_tokens);
            self.mean_output = self.mean_output.mul_add(0.98, 0.02 * output);
            let known = &mut self.machines[machine];
            // While it was there, so many others were too: what the machine did is this many times as much.
            let done = (f64::from(asked.prompt_tokens) + output) * f64::from(known.load);
            known.tok_s = known.tok_s.mul_add(0.9, 0.1 * done / (now - since).max(1e-3));
            known.load -= 1;
            known.tokens -= tokens;
        }
        Sent::default()
    }

    fn wakes(&mut self, _: f64) -> Sent {
        Sent::default()
    }
}

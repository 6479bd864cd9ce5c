//! Loads, made by seeded code.

use std::sync::Arc;

use scheduler::PrefixChain;

use crate::random::Random;

/// Bytes of text for each token.
const TOKEN_BYTES: usize = 4;

/// Tokens of which an engine remembers all or none.
pub(crate) const BLOCK: usize = 64;

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When it comes, in seconds; behind another request, how long after that one's end.
    pub at: f64,
    /// The request whose answer it waits for.
    pub after: Option<usize>,
    /// What a router sees of its prompt.
    pub prompt: PrefixChain,
    /// The prompt by what an engine remembers, as hashes of its beginnings.
    pub(crate) blocks: Arc<[u64]>,
    /// The same of prompt and answer.
    pub(crate) blocks_after: Arc<[u64]>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer, which nobody knows beforehand.
    pub output_tokens: u32,
    /// Most tokens that it wants.
    pub max_tokens: u32,
    /// The only region that it may go to.
    pub region: Option<&'static str>,
}

/// Requests in the order of their making.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Its name.
    pub name: &'static str,
    /// All requests; one comes behind those that it waits for.
    pub requests: Vec<Asked>,
}

/// A text that grows, as a conversation does.
struct Text {
    bytes: Vec<u8>,
}

impl Text {
    /// A beginning that is the same for all of the same seed.
    fn new(seed: u64, tokens: u32) -> Self {
        let mut text = Self { bytes: Vec::new() };
        text.add(&mut Random::new(seed), tokens);
        text
    }

    fn add(&mut self, random: &mut Random, tokens: u32) {
        for _ in 0..tokens {
            let word = random.bits().to_le_bytes();
            self.bytes.extend_from_slice(&word[..TOKEN_BYTES]);
        }
    }

    fn tokens(&self) -> u32 {
        u32::try_from(self.bytes.len() / TOKEN_BYTES).unwrap_or(u32::MAX)
    }

    fn blocks(&self) -> Arc<[u64]> {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let blocks = self.bytes.chunks_exact(BLOCK * TOKEN_BYTES).map(|block| {
            for byte in block {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
            hash
        });
        blocks.collect()
    }

    /// Asks with the text so far; the answer becomes part of it.
    fn ask(&mut self, random: &mut Random, at: f64, after: Option<usize>, length: (u32, u32)) -> Asked {
        let (output_tokens, max_tokens) = length;
        let prompt = PrefixChain::of(&self.bytes, b"");
        let (blocks, prompt_tokens) = (self.blocks(), self.tokens());
        self.add(random, output_tokens);
        Asked {
            at,
            after,
            prompt,
            blocks,
            blocks_after: self.blocks(),
            prompt_tokens,
            output_tokens,
            max_tokens,
            region: None,
        }
    }
}

/// People in conversations with pauses for reading: `sessions` of them, one about every `every` seconds.
#[must_use]
pub fn chat(name: &'static str, sessions: u32, every: f64, seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let mut requests = Vec::new();
    let mut at = 0.0;
    for _ in 0..sessions {
        at += random.wait(every);
        let mut text = Text::new(seed + 1, 400);
        let mut after = None;
        for turn in 0..random.between(2, 9) {
            let said = random.length(120.0, 1500);
            text.add(&mut random, said);
            let begins = if turn == 0 { at } else { 2.0 + random.wait(8.0) };
            let length = (random.length(180.0, 1024), 1024);
            requests.push(text.ask(&mut random, begins, after, length));
            after = Some(requests.len() - 1);
        }
    }
    Trace { name, requests }
}

/// Programs that call tools: long prompts that grow from call to call, short answers, no pauses.
#[must_use]
pub fn agent(agents: u32, steps: u32, seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let mut requests = Vec::new();
    for agent in 0..agents {
        let mut text = Text::new(seed + 1, 6000);
        let task = random.between(100, 1500);
        text.add(&mut random, task);
        let mut after = None;
        for step in 0..steps {
            let begins = if step == 0 { f64::from(agent) * 4.0 } else { 0.3 + random.wait(1.5) };
            let length = (random.length(110.0, 600), 2048);
            requests.push(text.ask(&mut random, begins, after, length));
            after = Some(requests.len() - 1);
            let seen = random.length(400.0, 2500);
            text.add(&mut random, seen);
        }
    }
    Trace { name: "agent", requests }
}

/// Everything at once, nothing shared.
#[must_use]
pub fn batch(name: &'static str, count: u32, seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let requests = (0..count).map(|_| one_of_a_batch(&mut random, 0.0)).collect();
    Trace { name, requests }
}

fn one_of_a_batch(random: &mut Random, at: f64) -> Asked {
    let mut text = Text::new(random.bits(), 0);
    let document = random.length(700.0, 6000);
    text.add(random, document);
    let length = (random.length(160.0, 800), 800);
    text.ask(random, at, None, length)
}

/// More than the fleet does in the time that is looked at.
#[must_use]
pub fn saturation(seed: u64) -> Trace {
    batch("saturation", 1500, seed)
}

/// Little, and every minute a lot at once.
#[must_use]
pub fn bursts(count: u32, size: u32, seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let mut requests = Vec::new();
    for burst in 0..count {
        let begins = f64::from(burst) * 60.0;
        for _ in 0..size {
            let at = begins + random.unit() * 0.2;
            requests.push(one_of_a_batch(&mut random, at));
        }
        for _ in 0..4 {
            let at = begins + 60.0 * random.unit();
            requests.push(one_of_a_batch(&mut random, at));
        }
    }
    Trace { name: "bursts", requests }
}

/// Somebody now and then, nobody for hours, and a morning on which all come within minutes.
#[must_use]
pub fn night(seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let mut requests = chat("night", 20, 180.0, seed).requests;
    let mut morning = chat("night", 60, 4.0, seed + 7).requests;
    let shift = requests.len();
    let begins = 8.0 * 3600.0 + random.unit();
    for asked in &mut morning {
        match &mut asked.after {
            Some(after) => *after += shift,
            None => asked.at += begins,
        }
    }
    requests.append(&mut morning);
    Trace { name: "night", requests }
}

impl Trace {
    /// Every fifth request must stay in this region.
    #[must_use]
    pub fn bound_to(mut self, region: &'static str) -> Self {
        for asked in self.requests.iter_mut().step_by(5) {
            asked.region = Some(region);
        }
        self
    }
}

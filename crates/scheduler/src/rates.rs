//! How fast workers are: guessed on the first day, measured from then on.

use fleet::DeviceKind;

/// How much of what was measured before a new sample leaves standing.
const KEEP: f64 = 0.85;

/// Streams at once are told apart by powers of two.
const LEVELS: usize = 8;

/// Tokens per second of one stream on an otherwise idle worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Prompt tokens.
    pub prefill_tok_s: f64,
    /// Generated tokens.
    pub decode_tok_s: f64,
}

impl Speed {
    /// What a device will about do, before it was measured: each token reads the whole model once, of which about a fifth
    /// more than its size moves; and reading a prompt is faster by what the kind of device can compute beside.
    #[must_use]
    pub fn guess(kind: DeviceKind, name: &str, model_bytes: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a guess needs no more precision than a float has")]
        let size = model_bytes.max(1 << 20) as f64;
        let decode_tok_s = bandwidth(kind, name) / (1.2 * size);
        let reading = match kind {
            DeviceKind::Cuda => 30.0,
            DeviceKind::Rocm => 20.0,
            DeviceKind::Vulkan => 15.0,
            DeviceKind::Metal | DeviceKind::Cpu => 10.0,
        };
        Self { prefill_tok_s: decode_tok_s * reading, decode_tok_s }
    }
}

/// Memory bandwidth in bytes per second: the vendors' data sheets for common names, and a modest figure for the rest of a
/// kind. A name stands behind those that contain it.
fn bandwidth(kind: DeviceKind, name: &str) -> f64 {
    const NAMED: [(&str, f64); 28] = [
        ("H200", 4800.0),
        ("H100", 3350.0),
        ("A100", 1555.0),
        ("L40", 864.0),
        ("RTX PRO 6000", 1792.0),
        ("5090", 1792.0),
        ("5080", 960.0),
        ("5070 Ti", 896.0),
        ("5070", 672.0),
        ("5060", 448.0),
        ("4090", 1008.0),
        ("4080", 717.0),
        ("4070", 504.0),
        ("4060", 272.0),
        ("3090", 936.0),
        ("3080", 760.0),
        ("3070", 448.0),
        ("3060", 360.0),
        ("7900 XTX", 960.0),
        ("M3 Ultra", 819.0),
        ("M2 Ultra", 800.0),
        ("M1 Ultra", 800.0),
        ("M4 Max", 546.0),
        ("M3 Max", 400.0),
        ("M2 Max", 400.0),
        ("M1 Max", 400.0),
        ("M4 Pro", 273.0),
        ("M2 Pro", 200.0),
    ];
    let named = NAMED.iter().find(|(part, _)| name.contains(part) && kind != DeviceKind::Cpu);
    let giga = named.map_or_else(
        || match kind {
            DeviceKind::Cuda | DeviceKind::Rocm => 400.0,
            DeviceKind::Vulkan => 200.0,
            DeviceKind::Metal => 100.0,
            DeviceKind::Cpu => 50.0,
        },
        |(_, giga)| *giga,
    );
    giga * 1e9
}

/// A rate as what was done over the time that it took, older samples counting less.
#[derive(Debug, Clone, Copy, Default)]
struct Decayed {
    tokens: f64,
    seconds: f64,
}

impl Decayed {
    fn add(&mut self, tokens: f64, seconds: f64) {
        self.tokens = self.tokens * KEEP + tokens;
        self.seconds = self.seconds * KEEP + seconds;
    }

    fn rate(self) -> Option<f64> {
        (self.tokens > 0.0 && self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }
}

/// What one worker was measured to do.
#[derive(Debug, Clone)]
pub struct Rates {
    guess: Speed,
    changes: u64,
    has_read: bool,
    has_written: bool,
    prefill: Decayed,
    /// Of one stream, by how many there were at once.
    decode: [Decayed; LEVELS],
}

impl Rates {
    /// Nothing was measured yet.
    #[must_use]
    pub fn new(guess: Speed) -> Self {
        Self {
            guess,
            changes: 0,
            has_read: false,
            has_written: false,
            prefill: Decayed::default(),
            decode: [Decayed::default(); LEVELS],
        }
    }

    /// Reading `tokens` of a prompt took this long.
    pub fn read(&mut self, tokens: f64, seconds: f64) {
        if tokens > 0.0 && seconds > 0.0 {
            self.changes += 1;
            self.has_read = true;
            self.prefill.add(tokens, seconds);
        }
    }

    /// One stream of `tokens` took this long beside others, `streams` on average with itself.
    pub fn wrote(&mut self, tokens: f64, seconds: f64, streams: f64) {
        if tokens > 0.0 && seconds > 0.0 {
            self.changes += 1;
            self.has_written = true;
            self.decode[level(streams)].add(tokens, seconds);
        }
    }

    /// Prompt tokens per second; as with its twins if it was not measured itself.
    #[must_use]
    pub fn prefill_tok_s(&self, twins: &Self) -> f64 {
        self.prefill.rate().or(twins.prefill.rate()).unwrap_or(self.guess.prefill_tok_s)
    }

    /// Seconds from one token of a stream to the next while there are so many streams. Where that many were never seen, it
    /// is as with the nearest number that was, fewer before more: what is not known is worth a try. One that was not
    /// measured at all does what its twins do.
    #[must_use]
    pub fn token_s(&self, streams: f64, twins: &Self) -> f64 {
        let level = level(streams);
        let of = |rates: &Self| {
            let nearest = rates.decode[..=level].iter().rev().chain(&rates.decode[level..]);
            nearest.copied().find_map(Decayed::rate)
        };
        of(self).or_else(|| of(twins)).unwrap_or(self.guess.decode_tok_s).recip()
    }

    /// Whether both rates were measured.
    pub(crate) const fn are_measured(&self) -> bool {
        self.has_read && self.has_written
    }

    /// How often something was measured.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// What was guessed. Workers of the same guess run the same model on the same kind of device: they are twins.
    #[must_use]
    pub const fn guess(&self) -> Speed {
        self.guess
    }
}

fn level(streams: f64) -> usize {
    (0..LEVELS - 1).find(|&level| streams < f64::from(3 << level) / 2.0).unwrap_or(LEVELS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_guess_ranks_devices_as_their_owners_would() {
        let of = |kind, name| Speed::guess(kind, name, 4_000_000_000).decode_tok_s;
        let ranked = [
            of(DeviceKind::Cuda, "NVIDIA GeForce RTX 5090"),
            of(DeviceKind::Cuda, "NVIDIA GeForce RTX 3090"),
            of(DeviceKind::Metal, "Apple M4 Max"),
            of(DeviceKind::Cuda, "NVIDIA GeForce RTX 3060"),
            of(DeviceKind::Cpu, "AMD Ryzen 9 5090X"),
        ];
        assert!(ranked.is_sorted_by(|a, b| a > b), "{ranked:?}");
    }

    #[test]
    fn what_is_measured_replaces_the_guess_and_that_of_twins() {
        let guess = Speed { prefill_tok_s: 10_000.0, decode_tok_s: 1000.0 };
        let (mut rates, twin) = (Rates::new(guess), Rates::new(guess));
        assert!((rates.token_s(3.0, &twin) - 0.001).abs() < 1e-9);
        rates.read(1000.0, 1.0);
        rates.wrote(100.0, 2.0, 1.0);
        for (one, other) in [(&rates, &twin), (&twin, &rates)] {
            assert!((one.prefill_tok_s(other) - 1000.0).abs() < 1e-6);
            assert!((one.token_s(3.0, other) - 0.02).abs() < 1e-9, "the nearest that was seen");
        }
    }

    proptest! {
        #[test]
        fn a_rate_stays_between_the_slowest_and_the_fastest_sample(
            samples in prop::collection::vec((1.0f64..1e4, 0.001f64..100.0, 1.0f64..300.0), 1..40),
            streams in 1.0f64..300.0,
        ) {
            let guess = Speed { prefill_tok_s: 100.0, decode_tok_s: 100.0 };
            let mut rates = Rates::new(guess);
            for &(tokens, seconds, streams) in &samples {
                rates.wrote(tokens, seconds, streams);
            }
            let all = samples.iter().map(|(tokens, seconds, _)| seconds / tokens);
            let (least, most) = all.fold((f64::MAX, 0.0f64), |(l, m), s| (l.min(s), m.max(s)));
            let token_s = rates.token_s(streams, &Rates::new(guess));
            prop_assert!(token_s >= least * 0.999 && token_s <= most * 1.001);
        }
    }
}

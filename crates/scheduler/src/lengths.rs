//! How long answers are: unknown before they end, so what earlier ones were tells.

use std::f64::consts::SQRT_2;

/// Lengths are told apart by half octaves.
const CLASSES: usize = 40;

/// How much of what was seen before a new sample leaves standing; the last 100 answers or so count.
const KEEP: f64 = 0.99;

/// What is believed before an answer was seen: lengths of this mean, each class as likely as an exponential law has it.
const PRIOR_MEAN: f64 = 200.0;
const PRIOR_WEIGHT: f64 = 2.0;

/// The lengths of a model's answers.
#[derive(Debug, Clone)]
pub struct Lengths {
    /// By class: how many answers, older ones counting less, and their tokens together.
    seen: [Sum; CLASSES],
    /// The same of each class and all longer ones, so that asking costs two looks.
    from: [Sum; CLASSES + 1],
    /// How many answers there were.
    answers: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: f64,
    tokens: f64,
}

impl Default for Lengths {
    fn default() -> Self {
        let mut seen = [Sum::default(); CLASSES];
        for (at, class) in seen.iter_mut().enumerate() {
            let (from, to) = (start(at), start(at + 1));
            let count = PRIOR_WEIGHT * ((-from / PRIOR_MEAN).exp() - (-to / PRIOR_MEAN).exp());
            *class = Sum { count, tokens: count * f64::midpoint(from, to) };
        }
        let mut lengths = Self { seen, from: [Sum::default(); CLASSES + 1], answers: 0 };
        lengths.add_up();
        lengths
    }
}

/// The first length of each class, in tokens.
static STARTS: [f64; CLASSES + 1] = starts();

const fn starts() -> [f64; CLASSES + 1] {
    let mut starts = [0.0; CLASSES + 1];
    let mut class = 1;
    while class <= CLASSES {
        let octave = (1_u64 << ((class - 1) / 2)) as f64;
        starts[class] = if class % 2 == 1 { octave } else { octave * SQRT_2 };
        class += 1;
    }
    starts
}

const fn start(class: usize) -> f64 {
    STARTS[class]
}

/// Without a logarithm: each plan asks this for every request under way.
const fn class(tokens: f64) -> usize {
    const MANTISSA: u64 = (1 << 52) - 1;
    if tokens < 1.0 {
        return 0;
    }
    let bits = tokens.to_bits();
    let octave = (bits >> 52) as usize - 1023;
    let upper = (bits & MANTISSA >= SQRT_2.to_bits() & MANTISSA) as usize;
    let class = 2 * octave + upper + 1;
    if class < CLASSES { class } else { CLASSES - 1 }
}

impl Lengths {
    /// An answer had so many tokens.
    pub fn saw(&mut self, tokens: f64) {
        self.answers = self.answers.saturating_add(1);
        for sum in &mut self.seen {
            sum.count *= KEEP;
            sum.tokens *= KEEP;
        }
        let sum = &mut self.seen[class(tokens)];
        sum.count += 1.0;
        sum.tokens += tokens;
        self.add_up();
    }

    /// How many answers were seen.
    #[must_use]
    pub const fn seen(&self) -> u32 {
        self.answers
    }

    fn add_up(&mut self) {
        let mut sum = Sum::default();
        for at in (0..CLASSES).rev() {
            sum.count += self.seen[at].count;
            sum.tokens += self.seen[at].tokens;
            self.from[at] = sum;
        }
    }

    /// How many tokens are to be expected behind the first `produced` of an answer that ends at `most` at the latest.
    #[must_use]
    pub fn remaining(&self, produced: f64, most: Option<u32>) -> f64 {
        let most = most.map_or(f64::MAX, f64::from);
        let left = most - produced;
        if left <= 0.0 {
            return 0.0;
        }
        let first = class(produced);
        let last = class(most).max(first + 1);
        // The answers of the first class that are still under way, as if their lengths were spread evenly over it.
        let (from, to) = (start(first), start(first + 1));
        let rest = self.seen[first].count * ((to - produced) / (to - from)).clamp(0.0, 1.0);
        // Those that end before the limit, and those that the limit ends.
        let ending = Sum {
            count: self.from[first + 1].count - self.from[last].count,
            tokens: self.from[first + 1].tokens - self.from[last].tokens,
        };
        let cut = self.from[last].count;
        let count = rest + ending.count + cut;
        // Longer than all that were seen: about half as much again.
        if count < 1e-6 {
            return (produced * 0.5).clamp(1.0_f64.min(left), left);
        }
        let beyond = |limit: f64| if most < f64::MAX { cut * limit } else { self.from[last].tokens };
        let tokens = rest * f64::midpoint(produced, to).min(most) + ending.tokens + beyond(most);
        (tokens / count - produced).clamp(0.0, left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_class_begins_where_it_starts() {
        for at in 1..CLASSES {
            let first = start(at);
            assert_eq!((class(first), class(first.next_down())), (at, at - 1), "{first}");
        }
        assert_eq!([0.0, 0.9, f64::MAX].map(class), [0, 0, CLASSES - 1]);
    }

    #[test]
    fn the_mean_of_what_was_seen_is_expected_and_the_limit_bounds_it() {
        let mut lengths = Lengths::default();
        for _ in 0..400 {
            lengths.saw(100.0);
            lengths.saw(500.0);
        }
        let expected = lengths.remaining(0.0, None);
        assert!((290.0..310.0).contains(&expected), "{expected}");
        assert!(lengths.remaining(0.0, Some(16)) <= 16.0);
        let behind_the_short_ones = lengths.remaining(200.0, None);
        assert!((250.0..350.0).contains(&behind_the_short_ones), "{behind_the_short_ones}");
    }

    proptest! {
        #[test]
        fn what_is_expected_is_never_negative_nor_beyond_the_limit(
            seen in prop::collection::vec(0.0f64..1e6, 0..30),
            produced in 0.0f64..1e6,
            most in prop::option::of(1u32..100_000),
        ) {
            let mut lengths = Lengths::default();
            seen.into_iter().for_each(|tokens| lengths.saw(tokens));
            let expected = lengths.remaining(produced, most);
            prop_assert!(expected >= 0.0 && expected.is_finite());
            if let Some(most) = most {
                prop_assert!(expected <= (f64::from(most) - produced).max(0.0));
            }
        }
    }
}

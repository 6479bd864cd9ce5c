//! Choosing a token.
//!
//! The library could choose too, but from one generator for all requests, so that no request could be repeated. Here
//! each generation has its own, made from its seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use worker_http::Sampling;

/// With only a share of the probability wanted, sorting this many tokens is nearly always enough.
const FIRST_GUESS: usize = 256;

/// Chooses the tokens of one generation.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: StdRng,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        let random = match sampling.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_os_rng(),
        };
        Self { sampling, random }
    }

    /// The index of the token to take.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> usize {
        let best = argmax(logits);
        if self.sampling.temperature <= 0.0 || self.sampling.top_k == Some(1) || self.sampling.top_p <= 0.0 {
            return best;
        }
        let candidates = self.candidates(logits, best);
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.random::<f32>() * total;
        for &(token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        // Rounding can leave a rest that no candidate covers; the likeliest token is never wrong.
        best
    }

    /// The tokens to choose among with their weights, relative to the likeliest one's.
    fn candidates(&self, logits: &[f32], best: usize) -> Vec<(usize, f32)> {
        let top = logits.get(best).copied().unwrap_or(0.0);
        let weight = |logit: f32| ((logit - top) / self.sampling.temperature).exp();
        let weighted = logits.iter().map(|&logit| if logit.is_nan() { 0.0 } else { weight(logit) });
        let mut candidates: Vec<(usize, f32)> =
            weighted.enumerate().filter(|&(_, weight)| weight > 0.0).collect();
        if let Some(k) = self.sampling.top_k {
            keep_heaviest(&mut candidates, k as usize);
        }
        if self.sampling.top_p < 1.0 {
            keep_share(&mut candidates, self.sampling.top_p);
        }
        candidates
    }
}

fn argmax(logits: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}

/// Heaviest first, and the lower id first among equals, so that the order is the same in every run.
fn by_weight(a: &(usize, f32), b: &(usize, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn keep_heaviest(candidates: &mut Vec<(usize, f32)>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_weight);
        candidates.truncate(count);
    }
}

/// Keeps the fewest tokens that have `share` of the weight together.
fn keep_share(candidates: &mut Vec<(usize, f32)>, share: f32) {
    let wanted = share * candidates.iter().map(|(_, weight)| weight).sum::<f32>();
    let mut sorted = FIRST_GUESS.min(candidates.len());
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, by_weight);
        }
        candidates[..sorted].sort_unstable_by(by_weight);
        let mut sum = 0.0;
        let reached = candidates[..sorted].iter().position(|(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        match reached {
            Some(last) => return candidates.truncate(last + 1),
            None if sorted == candidates.len() => return,
            None => sorted = sorted.saturating_mul(8).min(candidates.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_p: 1.0,
        top_k: None,
        seed: Some(1),
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
    };

    fn histogram(sampling: Sampling, logits: &[f32]) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..10_000 {
            counts[sampler.choose(logits)] += 1;
        }
        counts
    }

    #[test]
    fn without_temperature_the_likeliest_token_is_taken_always() {
        assert_eq!(histogram(GREEDY, &[0.0, 3.0, f32::NAN, 2.9]), [0, 10_000, 0, 0]);
        assert_eq!(
            histogram(Sampling { temperature: 1.0, top_k: Some(1), ..GREEDY }, &[0.0, 0.1]),
            [0, 10_000]
        );
    }

    #[test]
    fn tokens_come_as_often_as_the_softmax_says() {
        let counts =
            histogram(Sampling { temperature: 1.0, ..GREEDY }, &[0.0, 2.0_f32.ln(), f32::NEG_INFINITY]);
        assert!((6400..6930).contains(&counts[1]), "{counts:?}");
        assert_eq!(counts[2], 0);
        let hotter = histogram(Sampling { temperature: 100.0, ..GREEDY }, &[0.0, 2.0]);
        assert!((4800..5300).contains(&hotter[0]), "{hotter:?}");
    }

    #[test]
    fn only_the_k_likeliest_or_the_likeliest_share_are_taken() {
        let logits: Vec<f32> = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln).to_vec();
        let counts = histogram(Sampling { temperature: 1.0, top_k: Some(2), ..GREEDY }, &logits);
        assert!(counts[0] > 5900 && counts[1] > 3400 && counts[2..] == [0, 0], "{counts:?}");
        let counts = histogram(Sampling { temperature: 1.0, top_p: 0.79, ..GREEDY }, &logits);
        assert!(counts[1] > 0 && counts[2..] == [0, 0], "{counts:?}");
        let counts = histogram(Sampling { temperature: 1.0, top_p: 0.81, ..GREEDY }, &logits);
        assert!(counts[2] > 0 && counts[3] == 0, "{counts:?}");
    }

    #[test]
    fn a_share_that_needs_more_than_the_first_guess_is_found() {
        let mut candidates: Vec<(usize, f32)> = (0..10_000).map(|token| (token, 1.0)).collect();
        keep_share(&mut candidates, 0.5);
        assert_eq!(candidates.len(), 5000);
        assert!(candidates.iter().all(|&(token, _)| token < 5000));
    }

    #[test]
    fn the_same_seed_chooses_the_same_tokens_and_another_one_others() {
        let logits = vec![0.0; 1000];
        let run = |seed| {
            let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..GREEDY });
            (0..20).map(|_| sampler.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(Some(7)), run(Some(7)));
        assert_ne!(run(Some(7)), run(Some(8)));
        assert_ne!(run(None), run(None));
    }
}

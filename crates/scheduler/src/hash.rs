//! A quick hash for keys that nobody chooses to do harm.

use std::hash::{BuildHasherDefault, Hasher};

const FACTOR: u64 = 0x9fb2_1c65_1e98_df25;

/// Length from which on bytes are hashed in four lanes.
const LONG: usize = 64;

/// Multiply and fold, eight bytes at a time; of many bytes four times eight, so that one product need not wait for another.
/// It need not withstand an attacker: whoever makes two prompts collide only has the second one sent to a worker that must
/// read all of it.
pub(crate) fn fold(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(FACTOR);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        folded.wrapping_add(0xd1b5_4a32_d192_ed03)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let (rows, words) = if bytes.len() < LONG { (&[][..], words) } else { words.as_chunks::<4>() };
    if !rows.is_empty() {
        let mut lanes = [hash, hash ^ 1, hash ^ 2, hash ^ 3];
        for row in rows {
            for (lane, word) in lanes.iter_mut().zip(row) {
                *lane = mix(*lane, u64::from_le_bytes(*word));
            }
        }
        hash = lanes.into_iter().fold(hash, mix);
    }
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}

/// For maps whose keys are hashes already, are counted up, or come from our own hives.
pub type Folding = BuildHasherDefault<FoldingHasher>;

/// The state of [`Folding`].
#[derive(Debug, Default)]
pub struct FoldingHasher(u64);

impl Hasher for FoldingHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0, bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = (self.0 ^ hash).wrapping_mul(FACTOR);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_bit_more_or_less_makes_another_hash(
            text in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0..8_u32,
        ) {
            let mut other = text.clone();
            other[at.index(text.len())] ^= 1_u8 << bit;
            prop_assert_ne!(fold(7, &text), fold(7, &other));
            prop_assert_ne!(fold(7, &text), fold(8, &text));
            prop_assert_ne!(fold(7, &text), fold(7, &text[1..]));
        }
    }
}

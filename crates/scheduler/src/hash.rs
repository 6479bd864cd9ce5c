//! A quick hash for keys that nobody chooses to do harm.

use std::hash::{BuildHasherDefault, Hasher};

const FACTOR: u64 = 0x9fb2_1c65_1e98_df25;

/// Multiply and fold, eight bytes at a time. It need not withstand an attacker: whoever makes two prompts collide only has
/// the second one sent to a worker that must read all of it.
pub(crate) fn fold(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let mut words = bytes.chunks_exact(8);
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(FACTOR);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        folded.wrapping_add(0xd1b5_4a32_d192_ed03)
    };
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        hash = mix(hash, u64::from_le_bytes(eight));
    }
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(hash, u64::from_le_bytes(rest))
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

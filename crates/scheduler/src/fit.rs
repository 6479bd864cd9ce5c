//! How much memory a worker needs, told from the model's header before a byte of it is downloaded.

use std::fmt;

use crate::bytes::Gib;

/// Bytes of one value in the attention's memory: engines keep it in half precision unless told otherwise.
const HALF: u64 = 2;

/// Tokens that engines compute at once: each needs a row of scores over the whole vocabulary, in single precision.
const BATCH: u64 = 512;

/// What a model's header says of its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Size of its files.
    pub bytes: u64,
    /// Key and value heads, block by block; 0 for a block without attention.
    pub kv_heads: Vec<u32>,
    /// Width of one head.
    pub head_dim: u32,
    /// How its attention remembers.
    pub memory: AttentionMemory,
    /// Size of the vocabulary.
    pub vocab: u32,
    /// Longest context that it was trained for, in tokens.
    pub context_max: u32,
}

/// What a block remembers of each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionMemory {
    /// Keys and values of all heads (multi-head or grouped).
    Full,
    /// The same, but some blocks for the last tokens only. Headers do not say which; as families with such blocks have at
    /// least every second one, half of them are taken to be.
    Window(u32),
    /// A compressed latent beside the rotary part (MLA).
    Latent {
        /// Its rank.
        rank: u32,
        /// Width of the rotary part.
        rope: u32,
    },
}

/// Memory that one worker needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The model itself.
    pub weights: u64,
    /// What it remembers of its contexts.
    pub contexts: u64,
    /// What it computes in.
    pub working: u64,
    /// The context of each slot, in tokens.
    pub context: u32,
    /// Slots.
    pub slots: u32,
}

impl Need {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.weights.saturating_add(self.contexts).saturating_add(self.working)
    }

    /// The same where a worker of this shape was seen to hold more at its peak.
    #[must_use]
    pub fn corrected(mut self, peak: u64) -> Self {
        self.working = self.working.max(peak.saturating_sub(self.weights.saturating_add(self.contexts)));
        self
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, contexts, working, context, slots } = self;
        write!(
            f,
            "{} ({} of weights, {} for {slots} × {context} tokens, {} to compute in)",
            Gib(self.total()),
            Gib(*weights),
            Gib(*contexts),
            Gib(*working)
        )
    }
}

impl ModelShape {
    /// What a worker with such slots needs.
    #[must_use]
    pub fn need(&self, context: u32, slots: u32) -> Need {
        let blocks = self.kv_heads.iter().filter(|heads| **heads > 0);
        let whole = |heads: u32| 2 * u64::from(heads) * u64::from(self.head_dim) * HALF * u64::from(context);
        let per_slot: u64 = match self.memory {
            AttentionMemory::Full => blocks.map(|heads| whole(*heads)).sum(),
            AttentionMemory::Window(window) => {
                let all: u64 = blocks.map(|heads| whole(*heads)).sum();
                let kept = u64::from(window).saturating_add(BATCH).min(u64::from(context));
                all / 2 + all / 2 * kept / u64::from(context.max(1))
            }
            AttentionMemory::Latent { rank, rope } => {
                blocks.map(|_| (u64::from(rank) + u64::from(rope)) * HALF * u64::from(context)).sum()
            }
        };
        Need {
            weights: self.bytes,
            contexts: per_slot.saturating_mul(u64::from(slots)),
            working: self.bytes / 32 + BATCH * 4 * u64::from(self.vocab),
            context,
            slots,
        }
    }

    /// The least that makes a useful worker: one slot of 8,192 tokens, or of all that the model knows.
    #[must_use]
    pub fn least(&self) -> Need {
        self.need(self.context_max.clamp(1, 8192), 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn llama_8b() -> ModelShape {
        ModelShape {
            bytes: 4_920_000_000,
            kv_heads: vec![8; 32],
            head_dim: 128,
            memory: AttentionMemory::Full,
            vocab: 128_256,
            context_max: 131_072,
        }
    }

    #[test]
    fn each_family_needs_what_its_papers_say() {
        // Llama 3.1 8B: 128 KiB for each token.
        assert_eq!(llama_8b().need(8192, 1).contexts, 131_072 * 8192);
        assert_eq!(llama_8b().need(8192, 4).contexts, 4 * 131_072 * 8192);
        // DeepSeek V3: 61 blocks of 512 + 64 values.
        let memory = AttentionMemory::Latent { rank: 512, rope: 64 };
        let deepseek = ModelShape { kv_heads: vec![128; 61], memory, ..llama_8b() };
        assert_eq!(deepseek.need(1000, 1).contexts, 61 * 576 * 2 * 1000);
        let windowed = ModelShape { memory: AttentionMemory::Window(1024), ..llama_8b() };
        let (part, whole) = (windowed.need(131_072, 1).contexts, llama_8b().need(131_072, 1).contexts);
        assert!(part > whole / 2 && part < whole * 52 / 100, "{part} of {whole}");
        assert_eq!(windowed.need(1024, 1).contexts, llama_8b().need(1024, 1).contexts);
        let hybrid = ModelShape { kv_heads: [vec![0; 24], vec![8; 8]].concat(), ..llama_8b() };
        assert_eq!(hybrid.need(8192, 1).contexts * 4, llama_8b().need(8192, 1).contexts);
    }

    #[test]
    fn a_peak_that_was_seen_corrects_the_estimate_upward_only() {
        let need = llama_8b().least();
        assert_eq!(need.corrected(need.total() + 7).total(), need.total() + 7);
        assert_eq!(need.corrected(1).total(), need.total());
    }

    proptest! {
        #[test]
        fn more_context_or_slots_never_need_less(
            context in 1u32..200_000, slots in 1u32..64, window in prop::option::of(1u32..10_000),
        ) {
            let memory = window.map_or(AttentionMemory::Full, AttentionMemory::Window);
            let shape = ModelShape { memory, ..llama_8b() };
            let need = shape.need(context, slots);
            prop_assert!(shape.need(context + 1, slots).total() >= need.total());
            prop_assert!(shape.need(context, slots + 1).total() >= need.total());
            prop_assert!(need.total() >= shape.bytes);
        }
    }
}

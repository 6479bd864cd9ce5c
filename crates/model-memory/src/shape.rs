//! How much memory a worker needs, told from the model's header before a byte of it is downloaded.

use std::fmt;

use crate::Gib;

/// Bytes of one value in the attention's memory: engines keep it in half precision unless told otherwise.
const HALF: u64 = 2;

/// Tokens that engines compute at once: each needs a row of scores over the whole vocabulary, in single precision.
const BATCH: u64 = 512;

/// The contexts that are tried where nobody says how long one should be, in tokens: from what a long conversation needs down to
/// what is just useful.
const CONTEXTS: [u32; 5] = [131_072, 65_536, 32_768, 16_384, LEAST];
const LEAST: u32 = 8192;

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

    /// The largest context, in tokens, that each of so many slots can have in so much memory: of those from 8k to 128k, or all
    /// that the model knows. Where not even the smallest fits, that one: the engine may do with less than is told here.
    #[must_use]
    pub fn largest_context(&self, slots: u32, memory: u64) -> u32 {
        let known = self.context_max.max(1);
        let tried = CONTEXTS.into_iter().map(|context| context.min(known));
        let mut fitting = tried.filter(|context| self.need(*context, slots).total() <= memory);
        fitting.next().unwrap_or(LEAST.min(known))
    }

    /// The least that makes a useful worker: one slot of 8,192 tokens, or of all that the model knows.
    #[must_use]
    pub fn least(&self) -> Need {
        self.need(self.context_max.clamp(1, LEAST), 1)
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

    #[test]
    fn the_context_is_the_largest_that_fits() {
        const GIB: u64 = 1 << 30;
        let shape = llama_8b();
        // 4.6 GiB of weights with what is computed in, and 1 GiB for each 8k.
        for (memory, slots, context) in [
            (24, 1, 131_072),
            (16, 1, 65_536),
            (12, 1, 32_768),
            (8, 1, 16_384),
            (6, 1, 8192),
            (24, 4, 32_768),
            (2, 1, 8192),
        ] {
            assert_eq!(shape.largest_context(slots, memory * GIB), context, "{slots} in {memory} GiB");
        }
        let short = ModelShape { context_max: 40_960, ..llama_8b() };
        assert_eq!(short.largest_context(1, 80 * GIB), 40_960, "all that it knows");
        assert_eq!(short.largest_context(1, 8 * GIB), 16_384);
        let tiny = ModelShape { context_max: 512, ..llama_8b() };
        assert_eq!((tiny.largest_context(1, 80 * GIB), tiny.largest_context(1, 0)), (512, 512));
    }

    proptest! {
        #[test]
        fn the_largest_context_fits_and_grows_with_the_memory(
            memory in 0u64..200, slots in 1u32..9, known in 1u32..300_000,
        ) {
            let shape = ModelShape { context_max: known, ..llama_8b() };
            let context = shape.largest_context(slots, memory << 30);
            prop_assert!(context <= known.min(131_072));
            prop_assert!(context == known.min(8192) || shape.need(context, slots).total() <= memory << 30);
            prop_assert!(shape.largest_context(slots, (memory + 1) << 30) >= context);
            prop_assert!(shape.largest_context(slots + 1, memory << 30) <= context);
        }

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

//! A real language model of one megabyte that recites a fixed text.
//!
//! Greedy decoding with it writes [`TEXT`] word by word, from the beginning or from wherever the prompt leaves off, and
//! begins again at its end. No word of the text occurs twice, so every word has one right successor: [`check_continuation`]
//! can say of any answer, and of any two answers put together, which word was lost, doubled or foreign, without a
//! reference run. No weights are downloaded and none are trained: [`bytes`] computes them, the same ones every time.
//!
//! It is not a test double. Engines load it as they load any llama, with tokeniser, chat template, attention and all;
//! what is special is only what the weights are (see `weights.rs`), and how the vocabulary is made so that the engines'
//! tokenisers turn the text back into exactly its words (see `vocabulary.rs`).
//!
//! **Invariant:** no two words of the text are equal, and every token but a word continues with the first word.

mod recital;
mod vocabulary;
mod weights;

pub use recital::{Mismatch, Slip, TEXT, check_continuation, recital_from, words};
pub use weights::{CONTEXT, bytes, write};

//! The weights: a next-word table written as a transformer.
//!
//! Attention and feed-forward are zero, so the hidden state after the only layer is the embedding of the last token. The
//! embedding of word *i* is the unit vector *i*; the last word and every token that is no word share one further unit
//! vector. The output row of word *i + 1* points along vector *i*, that of the first word along the shared one, and all
//! others are zero. So exactly one token stands out, by so much that sampling at any usual temperature recites too.
//! Units and powers of two are exact in every floating-point format, so rounding cannot change that.

use std::io;
use std::path::Path;

use gguf::{Array, Writer};

use crate::vocabulary::{BEGIN_ID, END_ID, Token, UNKNOWN_ID, tokens};

/// The longest context, in tokens: long enough for streams that last.
pub const CONTEXT: u32 = 32_768;

/// Room for one direction per word and the shared one, and a whole number of heads.
const WIDTH: usize = 192;
const HEADS: u32 = 3;
const HEADS_KV: u32 = 1;
const HEAD_LENGTH: usize = WIDTH / HEADS as usize;
const FEED_FORWARD: usize = 32;
/// How far the right token stands out, before the norm multiplies it by the square root of the width.
const EMPHASIS: f32 = 4.0;
/// Role, colon, text: enough of a template to serve chat, and it ends in a token that is no word.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n\
    {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

/// The model as the bytes of a GGUF file, the same ones at every call.
#[must_use]
pub fn bytes() -> Vec<u8> {
    let tokens = tokens();
    let file = weights(&tokens, vocabulary(&tokens, shape()));
    file.to_bytes().expect("shapes and weights are made from the same constants")
}

/// Writes the model to a file.
///
/// # Errors
/// Whatever the system says about `path`.
pub fn write(path: &Path) -> io::Result<()> {
    std::fs::write(path, bytes())
}

fn shape() -> Writer {
    Writer::new()
        .with("general.architecture", "llama")
        .with("general.name", "the bees' recital")
        .with("general.file_type", 1_u32)
        .with("general.alignment", 32_u32)
        .with("llama.block_count", 1_u32)
        .with("llama.context_length", CONTEXT)
        .with("llama.embedding_length", WIDTH as u32)
        .with("llama.feed_forward_length", FEED_FORWARD as u32)
        .with("llama.attention.head_count", HEADS)
        .with("llama.attention.head_count_kv", HEADS_KV)
        .with("llama.attention.layer_norm_rms_epsilon", 1e-5_f32)
        .with("llama.rope.dimension_count", HEAD_LENGTH as u32)
        .with("llama.rope.freq_base", 10_000.0_f32)
}

fn vocabulary(tokens: &[Token], file: Writer) -> Writer {
    file.with("llama.vocab_size", tokens.len() as u32)
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.tokens", Array::strings(tokens.iter().map(|token| token.text.clone())))
        .with("tokenizer.ggml.scores", Array::f32s(tokens.iter().map(|token| token.score)))
        .with("tokenizer.ggml.token_type", Array::i32s(tokens.iter().map(|token| token.kind)))
        .with("tokenizer.ggml.unknown_token_id", UNKNOWN_ID)
        .with("tokenizer.ggml.bos_token_id", BEGIN_ID)
        .with("tokenizer.ggml.eos_token_id", END_ID)
        .with("tokenizer.ggml.add_bos_token", true)
        .with("tokenizer.ggml.add_eos_token", false)
        .with("tokenizer.ggml.add_space_prefix", true)
        .with("tokenizer.chat_template", CHAT_TEMPLATE)
}

fn weights(tokens: &[Token], file: Writer) -> Writer {
    let key_width = HEAD_LENGTH * HEADS_KV as usize;
    let count = tokens.len();
    let zeros = |file: Writer, name: &str, inner: usize, outer: usize| {
        file.with_f16(name, &[inner as u64, outer as u64], vec![0.0; inner * outer])
    };
    let ones = |file: Writer, name: &str| file.with_f32(name, &[WIDTH as u64], vec![1.0; WIDTH]);

    let file = file.with_f16("token_embd.weight", &[WIDTH as u64, count as u64], embedding(tokens));
    let file = ones(file, "blk.0.attn_norm.weight");
    let file = zeros(file, "blk.0.attn_q.weight", WIDTH, WIDTH);
    let file = zeros(file, "blk.0.attn_k.weight", WIDTH, key_width);
    let file = zeros(file, "blk.0.attn_v.weight", WIDTH, key_width);
    let file = zeros(file, "blk.0.attn_output.weight", WIDTH, WIDTH);
    let file = ones(file, "blk.0.ffn_norm.weight");
    let file = zeros(file, "blk.0.ffn_gate.weight", WIDTH, FEED_FORWARD);
    let file = zeros(file, "blk.0.ffn_up.weight", WIDTH, FEED_FORWARD);
    let file = zeros(file, "blk.0.ffn_down.weight", FEED_FORWARD, WIDTH);
    let file = ones(file, "output_norm.weight");
    file.with_f16("output.weight", &[WIDTH as u64, count as u64], output(tokens))
}

/// The direction that every token shares after which the text begins.
fn shared(tokens: &[Token]) -> usize {
    tokens.iter().filter(|token| token.word.is_some()).count() - 1
}

fn embedding(tokens: &[Token]) -> Vec<f32> {
    let shared = shared(tokens);
    // The last word has the number of the shared direction, which is what makes the text a cycle.
    let rows = tokens.iter().map(|token| (token.word.unwrap_or(shared), 1.0));
    rows.flat_map(row).collect()
}

fn output(tokens: &[Token]) -> Vec<f32> {
    let shared = shared(tokens);
    let rows = tokens.iter().map(|token| match token.word {
        Some(0) => (shared, EMPHASIS),
        Some(word) => (word - 1, EMPHASIS),
        None => (0, 0.0),
    });
    rows.flat_map(row).collect()
}

fn row((direction, length): (usize, f32)) -> [f32; WIDTH] {
    let mut row = [0.0; WIDTH];
    row[direction] = length;
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recital::words;

    #[test]
    fn the_bytes_are_the_same_every_time_and_a_valid_file() {
        let first = bytes();
        assert_eq!(first, bytes());
        let header = gguf::Header::parse(&first).unwrap();
        assert_eq!(header.check_len(first.len() as u64).map_err(|e| e.to_string()), Ok(()));
        let model = header.model().unwrap();
        assert_eq!((model.architecture.as_str(), model.block_count), ("llama", Some(1)));
        assert_eq!((model.key_length, model.context_length), (Some(64), Some(u64::from(CONTEXT))));
        assert!(model.has_chat_template);
        assert!(first.len() < 2 << 20, "{}", first.len());
    }

    /// The forward pass with attention and feed-forward left out, which are zero: norm, then the output matrix.
    #[test]
    fn every_token_continues_with_the_right_word() {
        let tokens = tokens();
        let (embedding, output) = (embedding(&tokens), output(&tokens));
        let all: Vec<_> = words().collect();
        for (id, token) in tokens.iter().enumerate() {
            let state = &embedding[id * WIDTH..][..WIDTH];
            let norm = (state.iter().map(|x| x * x).sum::<f32>() / WIDTH as f32 + 1e-5).sqrt();
            let logits: Vec<f32> = output
                .chunks(WIDTH)
                .map(|row| row.iter().zip(state).map(|(a, b)| a * b / norm).sum())
                .collect();
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            let expected = token.word.map_or(0, |word| (word + 1) % all.len());
            assert_eq!(tokens[best].word, Some(expected), "after {:?}", token.text);
            assert!(logits.iter().enumerate().all(|(i, &logit)| i == best || logit < logits[best] - 40.0));
        }
    }
}

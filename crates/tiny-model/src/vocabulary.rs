//! The vocabulary, made for two tokenisers at once.
//!
//! A GGUF file of the tokeniser type `llama` (SentencePiece) is tokenised in two ways by today's engines, and the text
//! must come out as its words in both:
//!
//! - as a *unigram* model (mistral.rs, through Hugging Face's `tokenizers`): the segmentation with the highest sum of
//!   scores wins. A whole word wins as soon as its pieces would need an unknown character, which scores far below;
//! - by *pair merging* (llama.cpp): neighbours are joined as long as the joined text is a token. A word can only come about
//!   if all its beginnings are tokens too. So every beginning of every word is in the vocabulary, and nothing else that
//!   could be joined: each word is put together from its first letter on, and a foreign word stays bytes.
//!
//! In both, a space is written `▁` and belongs to the word behind it, and a prompt gets one in front. The beginnings are
//! never written by the model; as the end of a prompt they count as foreign.

use std::collections::BTreeSet;

use crate::recital::words;

/// What the format calls the kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// The token that stands for text the vocabulary cannot express.
pub(crate) const UNKNOWN_ID: u32 = 0;
/// The token that begins a text.
pub(crate) const BEGIN_ID: u32 = 1;
/// The token that ends one; the model never writes it.
pub(crate) const END_ID: u32 = 2;

/// One token.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: i32,
    /// The number of the word in the text, if this token is one.
    pub(crate) word: Option<usize>,
}

/// All tokens in the order of their ids: control, bytes, words, beginnings of words.
pub(crate) fn tokens() -> Vec<Token> {
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let special =
        special.into_iter().map(|(text, kind)| Token { text: text.to_owned(), score: 0.0, kind, word: None });
    let bytes =
        (0..=u8::MAX).map(|b| Token { text: format!("<0x{b:02X}>"), score: 0.0, kind: BYTE, word: None });
    let whole: Vec<String> = words().map(|word| format!("▁{word}")).collect();
    let beginnings: BTreeSet<String> = whole
        .iter()
        .flat_map(|word| word.char_indices().skip(2).map(|(end, _)| word[..end].to_owned()))
        .filter(|beginning| !whole.contains(beginning))
        .collect();
    // A whole word must beat its beginning followed by anything; that it does by far is all the scores have to say.
    let words = whole.into_iter().enumerate().map(|(i, text)| Token {
        text,
        score: -1.0,
        kind: NORMAL,
        word: Some(i),
    });
    let beginnings =
        beginnings.into_iter().map(|text| Token { text, score: -10.0, kind: NORMAL, word: None });
    special.chain(bytes).chain(words).chain(beginnings).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_can_be_merged_from_its_first_letter_on() {
        let known: BTreeSet<String> = tokens().into_iter().map(|token| token.text).collect();
        for word in words() {
            let spaced: Vec<char> = format!("▁{word}").chars().collect();
            for length in 2..=spaced.len() {
                let beginning: String = spaced[..length].iter().collect();
                assert!(known.contains(&beginning), "{beginning}");
            }
        }
    }

    #[test]
    fn tokens_are_unique_and_nothing_else_can_be_merged() {
        let tokens = tokens();
        let texts: BTreeSet<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(texts.len(), tokens.len());
        let normal = tokens.iter().filter(|token| token.kind == NORMAL);
        assert!(
            normal.clone().all(|token| token.text.starts_with('▁') && token.text.matches('▁').count() == 1)
        );
        assert_eq!(normal.filter(|token| token.word.is_some()).count(), words().count());
        assert_eq!(tokens[END_ID as usize].text, "</s>");
    }
}

//! What each token is in bytes, read from the model file itself.
//!
//! The library's own text of an answer is not used, because it is not exact: it drops white space in front of the first
//! token (a lost byte where an answer is continued elsewhere) and every token that its file does not call normal, which in
//! SentencePiece models includes the bytes that line breaks are made of. The rules here are those of llama.cpp's
//! `llama_token_to_piece`, so answers of both engines join without a seam.

use gguf::{Array, Header, Limits, Value};

/// Vocabularies up to this size are read; the largest published ones have 256 thousand tokens.
const MOST_TOKENS: u64 = 1 << 21;

/// The kinds of tokens, by the format's numbers. All others are text.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const BYTE: u64 = 6;

/// Limits under which a header keeps its vocabulary.
pub(crate) fn limits() -> Limits {
    Limits { kept_array: MOST_TOKENS, ..Limits::default() }
}

/// The bytes of all tokens, and which token begins a text.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pieces: Vec<Box<[u8]>>,
    /// The token that every prompt begins with, where the model wants one.
    begin: Option<u32>,
}

/// How ordinary tokens are written in the file.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// SentencePiece: a space is `▁`.
    Spaces,
    /// Byte-level pair encoding: every byte is a printable character.
    Bytes,
}

impl Vocabulary {
    /// Reads the vocabulary of a header that was read with [`limits`].
    pub(crate) fn from_header(header: &Header) -> Result<Self, gguf::Error> {
        let missing = |key: &str| gguf::Error::MissingKey(key.to_owned());
        let spelling =
            match header.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))? {
                "gpt2" => Spelling::Bytes,
                _ => Spelling::Spaces,
            };
        let tokens =
            items(header.array("tokenizer.ggml.tokens")?).ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let kinds = items(header.array("tokenizer.ggml.token_type")?).unwrap_or_default();
        let kinds = kinds.iter().map(|kind| kind.as_u64().unwrap_or(0)).chain(std::iter::repeat(0));
        let alphabet = Alphabet::new();
        let pieces = tokens.iter().map(|token| token.as_str().unwrap_or_default()).zip(kinds);
        let pieces =
            pieces.map(|(text, kind)| piece(text, kind, spelling, &alphabet).into_boxed_slice()).collect();
        // Without a word on it, SentencePiece models want the token and the others do not, as in llama.cpp.
        let wants_begin =
            header.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(spelling == Spelling::Spaces);
        let begin = header.integer("tokenizer.ggml.bos_token_id")?.filter(|_| wants_begin);
        Ok(Self { pieces, begin: begin.and_then(|id| id.try_into().ok()) })
    }

    /// The bytes of a token; none for one that is not shown.
    pub(crate) fn piece(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], |piece| piece)
    }

    /// Puts the first token in front where the model wants it and a template has not put it there already.
    pub(crate) fn with_begin(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        if let Some(begin) = self.begin
            && tokens.first() != Some(&begin)
        {
            tokens.insert(0, begin);
        }
        tokens
    }
}

fn items(array: Option<&Array>) -> Option<&[Value]> {
    array?.items.as_deref()
}

fn piece(text: &str, kind: u64, spelling: Spelling, alphabet: &Alphabet) -> Vec<u8> {
    match (kind, spelling) {
        (CONTROL | UNKNOWN, _) => Vec::new(),
        (BYTE, _) => byte(text).map_or_else(|| text.as_bytes().to_vec(), |byte| vec![byte]),
        (USER_DEFINED, _) => text.as_bytes().to_vec(),
        (_, Spelling::Spaces) => text.replace('▁', " ").into_bytes(),
        (_, Spelling::Bytes) => alphabet.decode(text),
    }
}

/// The byte that `<0x0A>` stands for.
fn byte(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// The characters that GPT-2's vocabulary writes bytes with: printable bytes as themselves, the others as the characters
/// from U+0100 on, in order.
struct Alphabet(Vec<char>);

impl Alphabet {
    fn new() -> Self {
        let mut others = (0x100..).filter_map(char::from_u32);
        let write = |byte: u8| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => Some(char::from(byte)),
            _ => others.next(),
        };
        Self((0..=u8::MAX).filter_map(write).collect())
    }

    fn decode(&self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(text.len());
        for c in text.chars() {
            match self.0.iter().position(|&written| written == c).and_then(|byte| u8::try_from(byte).ok()) {
                Some(byte) => bytes.push(byte),
                // Not in the alphabet, so it was put into the vocabulary as it is.
                None => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use gguf::Writer;

    use super::*;

    fn vocabulary(model: &str, tokens: &[(&str, i32)], more: impl Fn(Writer) -> Writer) -> Vocabulary {
        let file = Writer::new()
            .with("tokenizer.ggml.model", model)
            .with("tokenizer.ggml.tokens", Array::strings(tokens.iter().map(|(text, _)| (*text).to_owned())))
            .with("tokenizer.ggml.token_type", Array::i32s(tokens.iter().map(|(_, kind)| *kind)));
        Vocabulary::from_header(&Header::parse(&more(file).to_bytes().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn sentencepiece_tokens_keep_their_space_and_bytes_are_bytes() {
        let tokens = [("<s>", 3), ("▁Once", 1), ("<0x0A>", 6), ("▁▁", 1), ("<think>", 4), ("<0xF0>", 6)];
        let vocabulary = vocabulary("llama", &tokens, |file| file.with("tokenizer.ggml.bos_token_id", 0_u32));
        let pieces: Vec<&[u8]> = (0..7).map(|id| vocabulary.piece(id)).collect();
        let expected: [&[u8]; 7] = [b"", b" Once", b"\n", b"  ", b"<think>", b"\xf0", b""];
        assert_eq!(pieces, expected);
        assert_eq!(vocabulary.with_begin(vec![1]), [0, 1]);
        assert_eq!(vocabulary.with_begin(vec![0, 1]), [0, 1]);
    }

    #[test]
    fn byte_level_tokens_are_the_bytes_they_were_made_of() {
        // "é" is C3 A9 in UTF-8, and GPT-2 writes those bytes as "Ã" and "©"; "Ġ" and "Ċ" are space and line break.
        let tokens = [("ĠÃ©", 1), ("Ċ", 1), ("ðŁĲ", 1), ("<|im_end|>", 3), ("<tool>", 4)];
        let vocabulary = vocabulary("gpt2", &tokens, |file| file.with("tokenizer.ggml.bos_token_id", 3_u32));
        let pieces: Vec<&[u8]> = (0..5).map(|id| vocabulary.piece(id)).collect();
        let expected: [&[u8]; 5] = [" é".as_bytes(), b"\n", b"\xf0\x9f\x90", b"", b"<tool>"];
        assert_eq!(pieces, expected);
        assert_eq!(vocabulary.with_begin(vec![1]), [1], "only where the file asks for it");
    }

    #[test]
    fn the_alphabet_has_a_character_for_every_byte() {
        let alphabet = Alphabet::new();
        assert_eq!(alphabet.0.len(), 256);
        let all: String = alphabet.0.iter().collect();
        assert_eq!(alphabet.decode(&all), (0..=u8::MAX).collect::<Vec<_>>());
    }

    #[test]
    fn the_tiny_models_words_are_its_tokens() {
        let header = Header::read(&tiny_model::bytes()[..], &limits()).unwrap();
        let vocabulary = Vocabulary::from_header(&header).unwrap();
        let first_word = 3 + 256;
        assert_eq!(vocabulary.piece(first_word), b" Once,");
    }
}

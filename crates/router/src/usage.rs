//! What an answer in one piece says of its tokens, read from its end while it goes by.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

/// How much of the end is looked at, in bytes. Engines put the counts behind the answer.
const TAIL: usize = 2048;

/// What the counts stand behind, and their names.
static NAMES: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| ["\"usage\"", "\"prompt_tokens\"", "\"completion_tokens\""].map(Finder::new));

/// Token counts of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Of the prompt.
    pub(crate) prompt_tokens: Option<u64>,
    /// Of the answer.
    pub(crate) completion_tokens: Option<u64>,
}

/// The end of an answer.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// The only piece so far; most answers come in one.
    only: Option<Bytes>,
    /// The end of all pieces, once there were two.
    text: Vec<u8>,
}

impl Tail {
    /// Takes the next piece.
    pub(crate) fn take(&mut self, piece: &Bytes) {
        if self.text.is_empty() && self.only.is_none() {
            self.only = Some(piece.clone());
            return;
        }
        if let Some(first) = self.only.take() {
            self.put(&first);
        }
        self.put(piece);
    }

    fn put(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(TAIL)..];
        let over = (self.text.len() + piece.len()).saturating_sub(TAIL);
        self.text.drain(..over);
        self.text.extend_from_slice(piece);
    }

    /// The counts, if the end has them. Within a text the name would stand between escaped quotes.
    pub(crate) fn usage(&self) -> Usage {
        let text = self.only.as_deref().unwrap_or(&self.text);
        let text = &text[text.len().saturating_sub(TAIL)..];
        let [usage, prompt_tokens, completion_tokens] = &*NAMES;
        let Some(at) = usage.find_iter(text).last() else { return Usage::default() };
        let count = |name: &Finder<'_>| {
            let mut places = name.find_iter(&text[at..]);
            places.find_map(|place| number(&text[at + place + name.needle().len()..]))
        };
        Usage { prompt_tokens: count(prompt_tokens), completion_tokens: count(completion_tokens) }
    }
}

/// The number in `: 7,`.
fn number(text: &[u8]) -> Option<u64> {
    let value = text.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(pieces: &[&str]) -> (Option<u64>, Option<u64>) {
        let mut tail = Tail::default();
        pieces.iter().for_each(|piece| tail.take(&Bytes::copy_from_slice(piece.as_bytes())));
        let Usage { prompt_tokens, completion_tokens } = tail.usage();
        (prompt_tokens, completion_tokens)
    }

    #[test]
    fn the_counts_are_found_behind_the_answer_however_it_is_cut() {
        let text = "x".repeat(5000);
        let answer = format!(
            r#"{{"choices":[{{"text":"{text}"}}],"usage" : {{"prompt_tokens":7,"completion_tokens":9}},"timings":{{}}}}"#
        );
        assert_eq!(usage(&[&answer]), (Some(7), Some(9)));
        for cut in [1, 4000, 5010, 5030, 5050] {
            let (one, other) = answer.split_at(cut);
            assert_eq!(usage(&[one, other]), (Some(7), Some(9)), "{cut}");
        }
    }

    #[test]
    fn a_text_that_speaks_of_usage_is_not_taken_for_it() {
        let lie = r#"{"choices":[{"text":"\"usage\":{\"completion_tokens\":5}"}]}"#;
        assert_eq!(usage(&[lie]), (None, None));
        assert_eq!(usage(&[r#"{"usage":null}"#]), (None, None));
        assert_eq!(usage(&[r#"{"usage":{"prompt_tok"#]), (None, None));
        let other = r#"{"usage":{"prompt_tokens_details":{"cached_tokens":3},"prompt_tokens":null,"completion_tokens" : 4}}"#;
        assert_eq!(usage(&[other]), (None, Some(4)));
        assert_eq!(usage(&[""]), (None, None));
    }
}

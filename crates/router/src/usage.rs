//! What an answer in one piece says of its tokens, read from its end while it goes by.

use serde::Deserialize;

/// How much of the end is looked at, in bytes. Engines put the counts behind the answer.
const TAIL: usize = 2048;

/// Token counts of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct Usage {
    /// Of the prompt.
    #[serde(default)]
    pub(crate) prompt_tokens: Option<u64>,
    /// Of the answer.
    #[serde(default)]
    pub(crate) completion_tokens: Option<u64>,
}

/// The end of an answer.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Takes the next piece.
    pub(crate) fn take(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(TAIL)..];
        let over = (self.0.len() + piece.len()).saturating_sub(TAIL);
        self.0.drain(..over);
        self.0.extend_from_slice(piece);
    }

    /// The counts, if the end has them. Within a text the name would stand between escaped quotes.
    pub(crate) fn usage(&self) -> Usage {
        const NAME: &[u8] = b"\"usage\"";
        let found = memchr::memmem::rfind(&self.0, NAME);
        let usage = found.and_then(|at| {
            let rest = self.0[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?;
            serde_json::Deserializer::from_slice(rest).into_iter().next()?.ok()
        });
        usage.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(pieces: &[&str]) -> (Option<u64>, Option<u64>) {
        let mut tail = Tail::default();
        pieces.iter().for_each(|piece| tail.take(piece.as_bytes()));
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
        assert_eq!(usage(&[""]), (None, None));
    }
}

//! Bytes of tokens put together to text that may be shown: whole characters, and nothing from a stop string on.

/// What may be shown after a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) text: String,
    /// A stop string was found; what stands before it has been shown and nothing more will be.
    pub(crate) stopped: bool,
}

/// The text of one answer in the making.
///
/// What is shown depends on the bytes only, not on how they were cut into tokens.
#[derive(Debug)]
pub(crate) struct Text {
    stops: Vec<String>,
    /// The first bytes of a character whose last ones have not arrived.
    partial: Vec<u8>,
    /// Text that may turn out to begin a stop string.
    held: String,
}

impl Text {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, partial: Vec::new(), held: String::new() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Shown {
        self.partial.extend_from_slice(bytes);
        self.take_whole_characters();
        if let Some(start) = self.first_stop() {
            self.held.truncate(start);
            return Shown { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.possible_stop();
        let rest = self.held.split_off(self.held.len() - keep);
        Shown { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back, when nothing more comes. A character that was never completed is left out: a continuation from
    /// the text shown so far then writes it whole.
    pub(crate) fn finish(self) -> String {
        self.held
    }

    /// Moves all whole characters from `partial` to `held`; bytes that cannot become one show as U+FFFD.
    fn take_whole_characters(&mut self) {
        let bytes = std::mem::take(&mut self.partial);
        let mut rest = bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return self.held.push_str(text),
                Err(error) => {
                    let (whole, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(whole));
                    match error.error_len() {
                        Some(length) => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[length..];
                        }
                        None => return self.partial.extend_from_slice(after),
                    }
                }
            }
        }
    }

    /// Where the stop string begins that was complete first.
    fn first_stop(&self) -> Option<usize> {
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop).map(|start| (start + stop.len(), start)));
        found.min().map(|(_, start)| start)
    }

    /// How many bytes at the end may be the beginning of a stop string.
    fn possible_stop(&self) -> usize {
        let beginnings = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        beginnings
            .filter(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(stops: &[&str]) -> Text {
        Text::new(stops.iter().map(|&stop| stop.to_owned()).collect())
    }

    fn shown(text: &mut Text, bytes: &[u8]) -> String {
        let shown = text.push(bytes);
        assert!(!shown.stopped);
        shown.text
    }

    #[test]
    fn a_character_is_shown_when_it_is_whole() {
        let mut text = text(&[]);
        let bee = "🐝".as_bytes();
        assert_eq!(shown(&mut text, b" a"), " a");
        assert_eq!(shown(&mut text, &bee[..1]), "");
        assert_eq!(shown(&mut text, &bee[1..3]), "");
        assert_eq!(shown(&mut text, &[&bee[3..], b"!"].concat()), "🐝!");
        assert_eq!(shown(&mut text, &bee[..2]), "");
        assert_eq!(text.finish(), "");
    }

    #[test]
    fn bytes_that_are_no_text_show_as_such_and_hold_up_nothing() {
        let mut text = text(&[]);
        assert_eq!(shown(&mut text, b"a\xffb"), "a\u{fffd}b");
        assert_eq!(shown(&mut text, b"\xf0\x9f"), "");
        assert_eq!(shown(&mut text, b"x"), "\u{fffd}x");
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_never_shown() {
        let mut text = text(&["END"]);
        assert_eq!(shown(&mut text, b"one E"), "one ");
        assert_eq!(shown(&mut text, b"N"), "");
        assert_eq!(shown(&mut text, b"ough E"), "ENough ");
        assert_eq!(text.push(b"ND and more"), Shown { text: String::new(), stopped: true });
    }

    #[test]
    fn what_was_held_back_is_shown_at_the_end() {
        let mut text = text(&["END"]);
        assert_eq!(shown(&mut text, b"the EN"), "the ");
        assert_eq!(text.finish(), "EN");
    }

    #[test]
    fn the_stop_string_that_is_complete_first_wins() {
        let mut text = text(&["abc", "b"]);
        assert_eq!(text.push(b"xabc"), Shown { text: "xa".to_owned(), stopped: true });
    }

    proptest! {
        #[test]
        fn what_is_shown_does_not_depend_on_how_the_bytes_were_cut(
            whole in "[abé🐝]{0,30}",
            stops in prop::collection::vec("[abé]{1,4}", 0..3),
            cuts in prop::collection::vec(1_usize..5, 0..100),
        ) {
            let show = |sizes: &mut dyn Iterator<Item = usize>| {
                let mut text = Text::new(stops.clone());
                let mut out = String::new();
                let mut rest = whole.as_bytes();
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(sizes.next().unwrap_or(rest.len()).min(rest.len()));
                    rest = after;
                    let shown = text.push(piece);
                    out.push_str(&shown.text);
                    if shown.stopped {
                        return (out, true);
                    }
                }
                (out + &text.finish(), false)
            };
            let pieces = show(&mut cuts.iter().copied());
            let bytewise = show(&mut std::iter::repeat(1));
            prop_assert_eq!(&pieces, &bytewise);
            prop_assert!(stops.iter().all(|stop| !pieces.0.contains(stop.as_str())));
            prop_assert!(pieces.1 || pieces.0 == whole);
        }
    }
}

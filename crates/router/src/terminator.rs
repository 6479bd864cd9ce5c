//! Watching an event stream go by: did it say that it is complete, or that it failed.

/// How much of a line decides what it is.
const PREFIX: usize = 32;

/// A line was longer than is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlong;

/// Reads the beginnings of lines, and keeps nothing else of a stream.
#[derive(Debug)]
pub(crate) struct Terminator {
    line_max: usize,
    line: Vec<u8>,
    length: usize,
    done: bool,
    failed: bool,
    /// Events other than the terminator.
    events: u64,
}

impl Terminator {
    /// Of a stream whose lines have at most `line_max` bytes.
    pub(crate) const fn new(line_max: usize) -> Self {
        Self { line_max, line: Vec::new(), length: 0, done: false, failed: false, events: 0 }
    }

    pub(crate) const fn line_max(&self) -> usize {
        self.line_max
    }

    /// Takes the next piece of the stream.
    pub(crate) fn take(&mut self, mut piece: &[u8]) -> Result<(), Overlong> {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', piece) {
            if self.length == 0 && end <= self.line_max {
                // Most lines come whole.
                self.end_line(meaning(&piece[..end.min(PREFIX)]));
            } else {
                self.append(&piece[..end])?;
                self.end_line(meaning(&self.line));
                self.line.clear();
                self.length = 0;
            }
            piece = &piece[end + 1..];
        }
        self.append(piece)
    }

    fn append(&mut self, part: &[u8]) -> Result<(), Overlong> {
        self.length += part.len();
        if self.length > self.line_max {
            return Err(Overlong);
        }
        let keep = part.len().min(PREFIX - self.line.len());
        self.line.extend_from_slice(&part[..keep]);
        Ok(())
    }

    const fn end_line(&mut self, line: Meaning) {
        match line {
            Meaning::Nothing => {}
            Meaning::Data => {
                self.done = false;
                self.events += 1;
            }
            Meaning::Done => self.done = true,
            Meaning::Failure => self.failed = true,
        }
    }

    /// Whether the last event was the terminator. Its line may still be open: some engines end without a line feed.
    pub(crate) fn is_done(&self) -> bool {
        match meaning(&self.line) {
            Meaning::Nothing => self.done,
            Meaning::Done => true,
            Meaning::Data | Meaning::Failure => false,
        }
    }

    /// Events that went by, without terminators and failures.
    pub(crate) const fn events(&self) -> u64 {
        self.events
    }

    /// Whether the stream itself told of a failure.
    pub(crate) const fn has_failed(&self) -> bool {
        self.failed
    }
}

enum Meaning {
    Nothing,
    Data,
    Done,
    Failure,
}

fn meaning(line: &[u8]) -> Meaning {
    // Old llama.cpp servers put a failure into a field of its own.
    if line.starts_with(b"error:") {
        return Meaning::Failure;
    }
    let Some(value) = line.strip_prefix(b"data:") else { return Meaning::Nothing };
    if behind(value, b"[DONE]").is_some_and(|rest| rest.trim_ascii_start().is_empty()) {
        return Meaning::Done;
    }
    match behind(value, b"{\"error\":") {
        Some(error) if behind(error, b"null").is_none() => Meaning::Failure,
        _ => Meaning::Data,
    }
}

/// What stands behind a beginning, wherever there is space within it.
fn behind<'a>(mut text: &'a [u8], beginning: &[u8]) -> Option<&'a [u8]> {
    for byte in beginning {
        text = text.trim_ascii_start();
        text = text.strip_prefix(std::slice::from_ref(byte))?;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (bool, bool) {
        let mut terminator = Terminator::new(1 << 20);
        terminator.take(text.as_bytes()).expect("short lines");
        (terminator.is_done(), terminator.has_failed())
    }

    #[test]
    fn only_an_event_of_its_own_terminates() {
        for text in
            ["data: [DONE]\n\n", "data:[DONE]\r\n\r\n", "data: {}\n\ndata: [DONE]", ": hi\n\ndata: [DONE]\n"]
        {
            assert_eq!(read(text), (true, false), "{text:?}");
        }
        for text in [
            "",
            "data: {}\n\n",
            "data: {\"text\":\"so data: [DONE]",
            "data: [DONE]\n\ndata: {}\n\n",
            "[DONE]\n",
        ] {
            assert_eq!(read(text), (false, false), "{text:?}");
        }
    }

    #[test]
    fn a_failure_is_told_from_a_text_about_failures() {
        for text in
            ["data: {\"error\": {\"message\":\"x\"}}\n\n", "data: { \"error\":\"x\"}\n\n", "error: {}\n\n"]
        {
            assert_eq!(read(text), (false, true), "{text:?}");
        }
        for text in
            ["data: {\"text\":\"{\\\"error\\\":1}\"}\n\n", "data: {\"error\":null,\"choices\":[]}\n\n"]
        {
            assert_eq!(read(text), (false, false), "{text:?}");
        }
        assert_eq!(read("data: {\"error\":{}}\n\ndata: [DONE]\n\n"), (true, true));
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_kept() {
        let mut terminator = Terminator::new(1 << 20);
        let piece = vec![b'a'; 64 * 1024];
        assert!((0..=16).any(|_| terminator.take(&piece).is_err()));
        assert!(terminator.line.capacity() <= 2 * PREFIX);
    }

    proptest! {
        #[test]
        fn how_the_bytes_were_cut_changes_nothing(
            text in "(data: ?(\\[DONE\\]|\\{\"error\":1\\}|x)|\n|\r\n|: c|[a-z]){0,12}",
            cut in 0usize..60,
        ) {
            let cut = cut.min(text.len());
            let mut pieces = Terminator::new(1 << 20);
            pieces.take(&text.as_bytes()[..cut]).expect("short");
            pieces.take(&text.as_bytes()[cut..]).expect("short");
            prop_assert_eq!((pieces.is_done(), pieces.has_failed()), read(&text));
        }
    }
}

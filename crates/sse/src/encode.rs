//! Events to bytes. The given text must hold no line break: every caller sends one line of JSON.

use bytes::Bytes;

fn line_free(text: &str) -> bool {
    !text.contains(['\n', '\r'])
}

/// `data: …` and the blank line.
#[must_use]
pub fn data(line: &str) -> Bytes {
    debug_assert!(line_free(line), "an event's data is one line");
    Bytes::from(format!("data: {line}\n\n"))
}

/// `event: …`, `data: …` and the blank line.
#[must_use]
pub fn event(name: &str, line: &str) -> Bytes {
    debug_assert!(line_free(name) && line_free(line), "an event's name and data are one line each");
    Bytes::from(format!("event: {name}\ndata: {line}\n\n"))
}

/// A comment, which readers skip: it keeps a silent connection from looking dead.
#[must_use]
pub fn comment(line: &str) -> Bytes {
    debug_assert!(line_free(line), "a comment is one line");
    Bytes::from(format!(": {line}\n\n"))
}

//! Bytes to events.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};

/// The name of an event that was given none.
const MESSAGE: &str = "message";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event` field; `message` if there was none.
    pub name: String,
    /// The `data` lines, joined by line feeds. Not UTF-8 where the sender did not send any.
    pub data: Bytes,
}

impl Event {
    /// The event as a sender would write it.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut text = Vec::with_capacity(self.data.len() + 16);
        if self.name != MESSAGE {
            text.extend_from_slice(b"event: ");
            text.extend_from_slice(self.name.as_bytes());
            text.push(b'\n');
        }
        for line in self.data.split(|byte| *byte == b'\n') {
            text.extend_from_slice(b"data: ");
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.push(b'\n');
        text.into()
    }
}

/// One event was longer than the reader allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {limit} bytes")]
pub struct Overlong {
    /// The bound, in bytes.
    pub limit: usize,
}

/// An incremental reader.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    line: BytesMut,
    /// A carriage return ended the last line, so a line feed that follows belongs to it.
    after_return: bool,
    first_line: bool,
    name: String,
    data: BytesMut,
    has_data: bool,
}

impl Decoder {
    /// A reader that refuses lines and events of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: BytesMut::new(),
            after_return: false,
            first_line: true,
            name: String::new(),
            data: BytesMut::new(),
            has_data: false,
        }
    }

    /// Takes the next piece of the stream and appends the events that it completed to `out`.
    ///
    /// # Errors
    /// [`Overlong`] when a line or an event passes the bound. The reader is of no use afterwards.
    pub fn push(&mut self, mut piece: &[u8], out: &mut VecDeque<Event>) -> Result<(), Overlong> {
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_return) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let Some(end) = piece.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                return self.append(piece);
            };
            self.append(&piece[..end])?;
            self.after_return = piece[end] == b'\r';
            piece = &piece[end + 1..];
            self.end_line(out)?;
        }
        Ok(())
    }

    fn append(&mut self, part: &[u8]) -> Result<(), Overlong> {
        if self.line.len() + part.len() > self.limit {
            return Err(Overlong { limit: self.limit });
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_line(&mut self, out: &mut VecDeque<Event>) -> Result<(), Overlong> {
        let line = self.line.split();
        let mut line = &line[..];
        if std::mem::take(&mut self.first_line) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            if std::mem::take(&mut self.has_data) {
                let name = if name.is_empty() { MESSAGE.to_owned() } else { name };
                out.push_back(Event { name, data: self.data.split().freeze() });
            }
            return Ok(());
        }
        let colon = line.iter().position(|&b| b == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if self.data.len() + value.len() >= self.limit {
                    return Err(Overlong { limit: self.limit });
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.extend_from_slice(b"\n");
                }
                self.data.extend_from_slice(value);
            }
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            // Comments, `id`, `retry` and unknown fields mean nothing to a reader that never reconnects.
            _ => {}
        }
        Ok(())
    }
}

/// Why a stream of events ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError<E> {
    /// The transport failed.
    #[error("the stream broke")]
    Transport(#[source] E),
    /// The sender passed the bound.
    #[error(transparent)]
    Overlong(#[from] Overlong),
}

/// Turns a stream of pieces into a stream of events, with at most `limit` bytes an event. Ends after the first error.
pub fn events<S, B, E>(pieces: S, limit: usize) -> impl Stream<Item = Result<Event, StreamError<E>>> + Send
where
    S: Stream<Item = Result<B, E>> + Send + Unpin,
    B: AsRef<[u8]> + Send,
    E: Send,
{
    struct State<S, E> {
        pieces: S,
        decoder: Decoder,
        ready: VecDeque<Event>,
        failed: Option<StreamError<E>>,
        over: bool,
    }
    let state =
        State { pieces, decoder: Decoder::new(limit), ready: VecDeque::new(), failed: None, over: false };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(event) = state.ready.pop_front() {
                return Some((Ok(event), state));
            }
            if let Some(failed) = state.failed.take() {
                return Some((Err(failed), state));
            }
            if state.over {
                return None;
            }
            let failed = match state.pieces.next().await {
                None => return None,
                Some(Err(error)) => StreamError::Transport(error),
                Some(Ok(piece)) => match state.decoder.push(piece.as_ref(), &mut state.ready) {
                    Ok(()) => continue,
                    Err(overlong) => StreamError::Overlong(overlong),
                },
            };
            // What was complete before the failure is still true, so it goes out before the error does.
            state.over = true;
            state.failed = Some(failed);
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut decoder = Decoder::new(1 << 16);
        let mut out = VecDeque::new();
        for piece in pieces {
            decoder.push(piece, &mut out).expect("short events");
        }
        out.into_iter().map(|e| (e.name, String::from_utf8_lossy(&e.data).into_owned())).collect()
    }

    fn message(data: &str) -> (String, String) {
        ("message".to_owned(), data.to_owned())
    }

    #[test]
    fn the_three_line_ends_mean_the_same() {
        for text in ["data: a\n\ndata: b\n\n", "data: a\r\rdata: b\r\r", "data: a\r\n\r\ndata: b\r\n\r\n"] {
            assert_eq!(decode(&[text.as_bytes()]), [message("a"), message("b")], "{text:?}");
        }
    }

    #[test]
    fn an_event_without_its_blank_line_is_not_reported() {
        assert_eq!(decode(&[b"data: a\n\ndata: b\n"]), [message("a")]);
    }

    #[test]
    fn fields_follow_the_specification() {
        let text = b"\xef\xbb\xbf: a comment\nevent: beat\nid: 7\ndata:x\ndata:  y\ndata\nretry: 1\n\nevent: lone\n\n";
        assert_eq!(decode(&[text]), [("beat".to_owned(), "x\n y\n".to_owned())]);
    }

    #[test]
    fn a_line_or_an_event_beyond_the_bound_is_refused() {
        let mut out = VecDeque::new();
        assert_eq!(Decoder::new(8).push(b"data: 12345678", &mut out), Err(Overlong { limit: 8 }));
        let mut decoder = Decoder::new(8);
        assert!((0..9).any(|_| decoder.push(b"data:xx\n", &mut out).is_err()));
    }

    proptest! {
        #[test]
        fn how_the_bytes_were_cut_changes_nothing(
            text in "(data: ?[a-z:]{0,4}(\r\n|\n|\r)|event:[a-z]{1,3}\n|\n|\r\n|\r|:c\n){0,12}",
            cuts in prop::collection::vec(0usize..80, 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(decode(&pieces), decode(&[bytes]));
        }
    }
}

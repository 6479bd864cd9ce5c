//! Requests as they are sent.

use std::{
    fmt,
    io::{IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::Broken;
use crate::Outgoing;

/// What comes of a body, and how its end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// That many bytes are missing.
    Known(u64),
    /// In chunks.
    Chunked,
}

/// A request on its way: what is to be written next, and where more comes from.
pub(crate) struct Upload<B> {
    body: B,
    length: Length,
    /// Whether the body has nothing more to give.
    is_over: bool,
    /// What goes before the data: the head, or a chunk's length.
    before: Vec<u8>,
    at: usize,
    data: Bytes,
    /// What goes behind the data.
    behind: &'static [u8],
}

/// What requests of one kind to one place begin with, written once for all of them.
#[derive(Clone)]
pub struct Preface {
    method: Method,
    text: Vec<u8>,
}

impl Preface {
    /// The path and the headers are sent as they are; what tells the length of a body is left to the body.
    #[must_use]
    pub fn new(method: Method, path: &Uri, headers: &HeaderMap) -> Self {
        let path = path.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let root = if path.starts_with('?') { "/" } else { "" };
        let text = [method.as_str(), " ", root, path, " HTTP/1.1\r\n"].concat().into_bytes();
        let mut preface = Self { method, text };
        for (name, value) in headers {
            if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
                put(&mut preface.text, name, value);
            }
        }
        preface
    }

    pub(crate) const fn method(&self) -> &Method {
        &self.method
    }
}

impl fmt::Debug for Preface {
    /// A header may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preface").field("method", &self.method).finish_non_exhaustive()
    }
}

fn put(text: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        text.extend_from_slice(part);
    }
}

impl<B: Outgoing> Upload<B> {
    /// A request of this kind, with a header of its own. `room` is what the head is written to.
    pub(crate) fn new(
        mut room: Vec<u8>,
        preface: &Preface,
        own: Option<(&HeaderName, &HeaderValue)>,
        body: B,
    ) -> Self {
        let (head, method) = (&mut room, &preface.method);
        head.clear();
        head.extend_from_slice(&preface.text);
        if let Some((name, value)) = own {
            put(head, name, value);
        }
        let length = body.size_hint().exact().map_or(Length::Chunked, Length::Known);
        // A request that has no body by its nature says nothing of it (RFC 9110, 8.6).
        let says_nothing = length == Length::Known(0)
            && matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
        match length {
            _ if says_nothing => {}
            Length::Known(length) => put(head, &header::CONTENT_LENGTH, &length.into()),
            Length::Chunked => put(head, &header::TRANSFER_ENCODING, &HeaderValue::from_static("chunked")),
        }
        head.extend_from_slice(b"\r\n");
        Self { body, length, is_over: false, before: room, at: 0, data: Bytes::new(), behind: b"" }
    }

    /// Makes sure that there is something to write, unless all was written. Ready with whether there is.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        let is_head = self.at == 0 && !self.before.is_empty();
        while !self.is_over && self.data.is_empty() && (is_head || !self.has_remaining()) {
            if self.body.is_end_stream() {
                self.end()?;
                break;
            }
            let piece = match Pin::new(&mut self.body).poll_frame(cx) {
                // The head does not wait for the body.
                Poll::Pending if is_head => break,
                polled => ready!(polled),
            };
            match piece {
                None => self.end()?,
                Some(Err(error)) => return Poll::Ready(Err(Broken::Body(error.into()))),
                // What is no data are trailers, which no hive and no engine asks for.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => self.put(data, is_head)?,
                    _ => {}
                },
            }
        }
        Poll::Ready(Ok(self.has_remaining()))
    }

    fn put(&mut self, data: Bytes, behind_head: bool) -> Result<(), Broken> {
        if !behind_head {
            self.before.clear();
            self.at = 0;
        }
        match &mut self.length {
            Length::Known(left) => {
                let rest = left.checked_sub(data.len() as u64);
                *left = rest.ok_or_else(|| Broken::Body("it is longer than it said".into()))?;
            }
            Length::Chunked => {
                let written = write!(self.before, "{:x}\r\n", data.len());
                debug_assert!(written.is_ok(), "memory can be written to");
                self.behind = b"\r\n";
            }
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.is_over = true;
        match self.length {
            Length::Known(0) => Ok(()),
            Length::Known(_) => Err(Broken::Body("it ended early".into())),
            Length::Chunked => {
                self.behind = b"0\r\n\r\n";
                Ok(())
            }
        }
    }

    /// What it was made with, for the next head.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.before
    }
}

impl<B> Buf for Upload<B> {
    fn remaining(&self) -> usize {
        self.before.len() - self.at + self.data.len() + self.behind.len()
    }

    fn chunk(&self) -> &[u8] {
        let parts = [&self.before[self.at..], &self.data, self.behind];
        parts.into_iter().find(|part| !part.is_empty()).unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let parts = [&self.before[self.at..], &self.data, self.behind];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        into.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut by: usize) {
        let head = by.min(self.before.len() - self.at);
        self.at += head;
        by -= head;
        let data = by.min(self.data.len());
        self.data.advance(data);
        by -= data;
        self.behind = &self.behind[by..];
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, task::Waker};

    use http_body::{Body, Frame, SizeHint};
    use http_body_util::{Empty, Full};

    use super::*;

    /// A body of these pieces, the empty ones of which are still to come.
    struct Pieces(Vec<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0.is_empty() {
                return Poll::Ready(None);
            }
            match self.0.remove(0) {
                "" => Poll::Pending,
                piece => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))),
            }
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::default()
        }
    }

    /// A body that says a wrong length.
    struct Wrong(Full<Bytes>, u64);

    impl Body for Wrong {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }

    /// All of a request, `step` bytes at a time, and how often the body let wait.
    fn sent<B: Outgoing>(method: Method, body: B, step: usize) -> Result<(String, usize), Broken> {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("b"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("77"));
        let preface = Preface::new(method, &"/p?q".parse().unwrap(), &headers);
        let own = (&HeaderName::from_static("x-c"), &HeaderValue::from_static("d"));
        let mut upload = Upload::new(b"what was sent before".to_vec(), &preface, Some(own), body);
        let (mut text, mut waits) = (Vec::new(), 0);
        loop {
            match upload.poll_more(&mut Context::from_waker(Waker::noop()))? {
                Poll::Pending => waits += 1,
                Poll::Ready(false) => return Ok((String::from_utf8(text).unwrap(), waits)),
                Poll::Ready(true) => {
                    let mut slices = [IoSlice::new(&[]); 4];
                    let used = upload.chunks_vectored(&mut slices);
                    assert_eq!(slices[..used].iter().map(|s| s.len()).sum::<usize>(), upload.remaining());
                    let written = step.min(upload.chunk().len());
                    text.extend_from_slice(&upload.chunk()[..written]);
                    upload.advance(written);
                }
            }
        }
    }

    #[test]
    fn a_request_says_how_long_its_body_is_or_comes_in_chunks() {
        for step in [1, 3, 1000] {
            let known = sent(Method::POST, Full::new(Bytes::from("body")), step).unwrap();
            assert_eq!(known.0, "POST /p?q HTTP/1.1\r\nx-a: b\r\nx-c: d\r\ncontent-length: 4\r\n\r\nbody");
            let none = sent(Method::GET, Empty::new(), step).unwrap();
            assert_eq!(none.0, "GET /p?q HTTP/1.1\r\nx-a: b\r\nx-c: d\r\n\r\n");
            let empty = sent(Method::POST, Empty::new(), step).unwrap();
            assert_eq!(empty.0, "POST /p?q HTTP/1.1\r\nx-a: b\r\nx-c: d\r\ncontent-length: 0\r\n\r\n");
            let pieces = Pieces(vec!["one", "", "a longer one, two", ""]);
            let (text, waits) = sent(Method::POST, pieces, step).unwrap();
            let body = "3\r\none\r\n11\r\na longer one, two\r\n0\r\n\r\n";
            assert_eq!(
                text,
                format!("POST /p?q HTTP/1.1\r\nx-a: b\r\nx-c: d\r\ntransfer-encoding: chunked\r\n\r\n{body}")
            );
            assert_eq!(waits, 2);
            let late = sent(Method::POST, Pieces(vec!["", "one"]), step).unwrap();
            assert!(late.0.ends_with("chunked\r\n\r\n3\r\none\r\n0\r\n\r\n"), "{}", late.0);
            assert_eq!(late.1, 0, "the head goes ahead");
        }
    }

    #[test]
    fn a_path_begins_with_a_slash_even_if_the_uri_has_none() {
        for (uri, path) in [("http://h?q", "/?q"), ("http://h", "/"), ("/p?q", "/p?q"), ("*", "*")] {
            let preface = Preface::new(Method::OPTIONS, &uri.parse().unwrap(), &HeaderMap::new());
            assert_eq!(preface.text, format!("OPTIONS {path} HTTP/1.1\r\n").as_bytes(), "{uri}");
        }
    }

    #[test]
    fn a_body_of_another_length_than_it_says_is_an_error() {
        for length in [3, 5] {
            let body = Wrong(Full::new(Bytes::from("body")), length);
            assert!(matches!(sent(Method::POST, body, 1000), Err(Broken::Body(_))), "{length}");
        }
    }
}

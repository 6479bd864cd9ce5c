//! As much of HTTP/1.1 as two programs need that know each other.

use std::{io, ops::Range};

use anyhow::{Context as _, bail};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// What came on a connection and was not used yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    used: usize,
}

/// Where head and body of a message lie, and how its length is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The length of the head, with the empty line behind it.
    pub(crate) length: usize,
    /// The length of the body; none if it is chunked.
    pub(crate) body: Option<usize>,
}

impl Inbox {
    /// What is there.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    /// Uses so much of it.
    pub(crate) fn take(&mut self, length: usize) {
        self.used += length;
        if self.used >= self.bytes.len() {
            self.bytes.clear();
            self.used = 0;
        }
    }

    /// Waits for more; false at the end.
    pub(crate) async fn more(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.reserve(16 * 1024);
        Ok(stream.read_buf(&mut self.bytes).await? > 0)
    }

    /// Waits for a whole head; none if the connection ends before it begins.
    pub(crate) async fn head(&mut self, stream: &mut TcpStream) -> anyhow::Result<Option<Head>> {
        loop {
            if let Some(length) = end_of_head(self.rest()) {
                let text = self.rest().get(..length).unwrap_or_default();
                return head(text, length).map(Some);
            }
            if !self.more(stream).await? {
                return if self.rest().is_empty() { Ok(None) } else { bail!("the head breaks off") };
            }
        }
    }

    /// Waits until so much is there.
    pub(crate) async fn until(&mut self, length: usize, stream: &mut TcpStream) -> anyhow::Result<()> {
        while self.rest().len() < length {
            if !self.more(stream).await? {
                bail!("the body breaks off");
            }
        }
        Ok(())
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    find(bytes, b"\r\n\r\n").map(|at| at.end)
}

/// The first place where something stands.
pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<Range<usize>> {
    let at = bytes.windows(what.len()).position(|window| window == what)?;
    Some(at..at + what.len())
}

fn head(text: &[u8], length: usize) -> anyhow::Result<Head> {
    let mut body = Some(0);
    for line in text.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = str::from_utf8(value)?;
            body = Some(value.parse().with_context(|| format!("a length of {value}"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            body = None;
        }
    }
    Ok(Head { length, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_found_however_they_are_written() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-LENGTH:  12\r\n\r\nrest";
        let end = end_of_head(bytes).unwrap();
        assert_eq!(&bytes[end..], b"rest");
        assert_eq!(head(&bytes[..end], end).unwrap(), Head { length: end, body: Some(12) });
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(chunked, chunked.len()).unwrap().body, None);
        assert_eq!(end_of_head(b"HTTP/1.1 200 OK\r\n"), None);
    }
}

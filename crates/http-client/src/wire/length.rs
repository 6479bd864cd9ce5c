//! Where an answer's body ends.

use bytes::{Buf, Bytes, BytesMut};

use super::Broken;

/// Longest line of a chunk's length with its extensions, or of a trailer, in bytes.
const LINE: usize = 4096;

/// Most bytes of all trailers, which mean nothing here.
const TRAILERS: usize = 16 * 1024;

/// What is still to come of a body.
#[derive(Debug)]
pub(crate) enum Rest {
    /// That many bytes.
    Length(u64),
    /// Chunks (RFC 9112, 7.1).
    Chunked(Chunked),
    /// Whatever comes until the connection is closed.
    UntilClosed,
}

/// Where in the chunks a reader stands.
#[derive(Debug)]
pub(crate) enum Chunked {
    /// Before the line with a chunk's length.
    Length,
    /// In a chunk, of which that many bytes are missing.
    Data(u64),
    /// Before the line's end behind a chunk.
    End,
    /// Behind the last chunk, after that many bytes of trailers.
    Trailers(usize),
}

impl Rest {
    pub(crate) const NONE: Self = Self::Length(0);

    pub(crate) const fn chunked() -> Self {
        Self::Chunked(Chunked::Length)
    }

    /// Whether nothing is missing.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// How many bytes are missing, if that is known.
    pub(crate) const fn exact(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            _ => None,
        }
    }

    /// Takes a piece of the body out of what came; none if nothing of it is there, or nothing is missing.
    pub(crate) fn piece(&mut self, came: &mut BytesMut) -> Result<Option<Bytes>, Broken> {
        self.skip(came)?;
        let most = match self {
            Self::Length(left) | Self::Chunked(Chunked::Data(left)) => *left,
            Self::Chunked(_) => 0,
            Self::UntilClosed => u64::MAX,
        };
        let taken = usize::try_from(most).unwrap_or(usize::MAX).min(came.len());
        if taken == 0 {
            return Ok(None);
        }
        let piece = came.split_to(taken).freeze();
        if let Self::Length(left) | Self::Chunked(Chunked::Data(left)) = self {
            *left -= taken as u64;
        }
        // An end that is here already is seen at once.
        self.skip(came)?;
        Ok(Some(piece))
    }

    /// Goes behind everything that came and is not the body's own.
    fn skip(&mut self, came: &mut BytesMut) -> Result<(), Broken> {
        while let Self::Chunked(at) = self {
            if let Chunked::Data(1..) = at {
                return Ok(());
            }
            if let Chunked::Data(_) = at {
                *at = Chunked::End;
            }
            let Some(end) = memchr::memchr(b'\n', came) else {
                return if came.len() > LINE { Err(Broken::Garbled("a line has no end")) } else { Ok(()) };
            };
            // Unlike a head's, these lines end in one way only.
            let line = came[..end].strip_suffix(b"\r").ok_or(Broken::Garbled("a line has no return"))?;
            let next = at.behind(line)?;
            came.advance(end + 1);
            *self = next.map_or(Self::NONE, Self::Chunked);
        }
        Ok(())
    }
}

impl Chunked {
    /// Where this line leads; none if nothing more follows.
    fn behind(&self, line: &[u8]) -> Result<Option<Self>, Broken> {
        match self {
            Self::Length => {
                let length = chunk_length(line).ok_or(Broken::Garbled("a chunk has no length"))?;
                Ok(Some(if length == 0 { Self::Trailers(0) } else { Self::Data(length) }))
            }
            Self::Data(_) | Self::End if line.is_empty() => Ok(Some(Self::Length)),
            Self::Data(_) | Self::End => Err(Broken::Garbled("a chunk is longer than it said")),
            Self::Trailers(_) if line.is_empty() => Ok(None),
            Self::Trailers(seen) if seen + line.len() <= TRAILERS => {
                Ok(Some(Self::Trailers(seen + line.len() + 1)))
            }
            Self::Trailers(_) => Err(Broken::Garbled("its trailers have no end")),
        }
    }
}

/// The number that a chunk's line begins with; extensions may follow.
fn chunk_length(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next()?;
    let legal = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let rest = line[digits.len()..].trim_ascii_start();
    if !legal || !(rest.is_empty() || rest.starts_with(b";")) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a text that comes in two pieces: the body, and whether it is over.
    fn read(text: &[u8], cut: usize, mut rest: Rest) -> Result<(Vec<u8>, bool, BytesMut), Broken> {
        let (mut came, mut body) = (BytesMut::new(), Vec::new());
        for part in [&text[..cut], &text[cut..]] {
            came.extend_from_slice(part);
            while let Some(piece) = rest.piece(&mut came)? {
                body.extend_from_slice(&piece);
            }
        }
        Ok((body, rest.is_over(), came))
    }

    #[test]
    fn chunks_are_put_together_wherever_they_are_cut() {
        let text =
            b"5\r\nhello\r\n1;a=\"b\"\r\n,\r\n00a \t;x\r\n 0\r\n\r\nabcd\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1";
        for cut in 0..=text.len() {
            let (body, is_over, left) = read(text, cut, Rest::chunked()).unwrap();
            assert_eq!((body.as_slice(), is_over), (&b"hello, 0\r\n\r\nabcd"[..], true), "{cut}");
            assert_eq!(left, "HTTP/1.1", "{cut}");
        }
        for cut in 0..text.len() - "\nHTTP/1.1".len() {
            assert!(!read(&text[..cut], 0, Rest::chunked()).unwrap().1, "{cut} bytes are not all");
        }
    }

    #[test]
    fn the_end_is_seen_with_the_last_piece() {
        let mut rest = Rest::chunked();
        let mut came = BytesMut::from("2\r\nok\r\n0\r\n\r\n");
        assert_eq!(rest.piece(&mut came).unwrap().unwrap(), "ok");
        assert!(rest.is_over());
    }

    #[test]
    fn what_two_readers_could_cut_differently_is_refused() {
        for text in [
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "\r\n",
            "0x1\r\n",
            "1 2\r\n",
            "1\r\nab\r\n",
            "fffffffffffffffff\r\n",
            " 1\r\n",
            "1\rx\n",
            "1\na\r\n",
            "1;x\na\r\n",
            "1\r\na\n",
            "0\r\n\n",
        ] {
            assert!(matches!(read(text.as_bytes(), 0, Rest::chunked()), Err(Broken::Garbled(_))), "{text:?}");
        }
        let line = format!("1;{}", "x".repeat(LINE));
        assert!(read(line.as_bytes(), 0, Rest::chunked()).is_err());
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(TRAILERS / 4));
        assert!(read(trailers.as_bytes(), 0, Rest::chunked()).is_err());
    }

    #[test]
    fn a_length_is_kept_to_and_without_one_everything_counts() {
        let (body, is_over, left) = read(b"hello, world", 3, Rest::Length(5)).unwrap();
        assert_eq!((body.as_slice(), is_over), (&b"hello"[..], true));
        assert_eq!(left, ", world");
        let (body, is_over, _) = read(b"hello", 3, Rest::UntilClosed).unwrap();
        assert_eq!((body.as_slice(), is_over), (&b"hello"[..], false));
    }
}

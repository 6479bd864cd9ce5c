//! Heads of answers.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header, response::Parts,
};

use super::{Broken, Rest};

/// Longest head, in bytes.
const LONGEST: usize = 64 * 1024;

/// Most headers of a head.
const MOST: usize = 100;

/// What every answer begins with.
const BEGINNING: &[u8] = b"HTTP/1.";

/// An answer's head, and what it says of what follows.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) parts: Parts,
    pub(crate) rest: Rest,
    /// Whether another request may be sent behind the rest.
    pub(crate) is_kept: bool,
}

/// Takes the head of the answer to a request of this method out of what came; none if it is not all there. Interim answers are
/// skipped.
pub(crate) fn head(came: &mut BytesMut, method: &Method) -> Result<Option<Head>, Broken> {
    loop {
        // Some peers end an answer with a line too many.
        let empty = came.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        came.advance(empty);
        let Some(end) = end(came) else {
            let seen = came.len().min(BEGINNING.len());
            if came[..seen] != BEGINNING[..seen] {
                return Err(Broken::Garbled("it does not begin as an answer does"));
            }
            return if came.len() > LONGEST { Err(Broken::Garbled("its head has no end")) } else { Ok(None) };
        };
        let head = read(&came.split_to(end).freeze(), method)?;
        match head.parts.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(Broken::Garbled("it changes the protocol")),
            status if status.is_informational() => {}
            _ => return Ok(Some(head)),
        }
    }
}

/// Where the head ends: behind the first empty line. A line may end without a return (RFC 9112, 2.2).
fn end(came: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', came).find_map(|line| match came[line + 1..] {
        [b'\n', ..] => Some(line + 2),
        [b'\r', b'\n', ..] => Some(line + 3),
        _ => None,
    })
}

fn read(text: &Bytes, method: &Method) -> Result<Head, Broken> {
    let mut room = [const { MaybeUninit::uninit() }; MOST];
    let mut answer = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, text, &mut room);
    match parsed {
        Ok(httparse::Status::Complete(all)) if all == text.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::Garbled("its head has too many lines")),
        _ => return Err(Broken::Garbled("its head cannot be read")),
    }
    let mut headers = HeaderMap::with_capacity(answer.headers.len());
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(text.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Broken::Garbled("a line of its head cannot be read"));
        };
        headers.append(name, value);
    }
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Broken::Garbled("its status is none"))?;
    let version = if answer.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let rest = rest(method, status, &headers)?;
    let closes = tokens(&headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("close"));
    let is_kept = version == Version::HTTP_11 && !closes && !matches!(rest, Rest::UntilClosed);
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.version, parts.headers) = (status, version, headers);
    Ok(Head { parts, rest, is_kept })
}

/// What follows the head (RFC 9112, 6.3).
fn rest(method: &Method, status: StatusCode, headers: &HeaderMap) -> Result<Rest, Broken> {
    if *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Rest::NONE);
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Broken::Garbled("it has two lengths"));
        }
        let is_chunked = |token: &str| token.eq_ignore_ascii_case("chunked");
        return match tokens(headers, &header::TRANSFER_ENCODING).last() {
            Some(last) if is_chunked(last) => Ok(Rest::chunked()),
            _ => Ok(Rest::UntilClosed),
        };
    }
    let mut length = None;
    for token in tokens(headers, &header::CONTENT_LENGTH) {
        let told = Some(token).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok());
        let told: u64 = told.ok_or(Broken::Garbled("its length is no number"))?;
        if length.is_some_and(|length| length != told) {
            return Err(Broken::Garbled("it has two lengths"));
        }
        length = Some(told);
    }
    Ok(length.map_or(Rest::UntilClosed, Rest::Length))
}

/// The parts of a list that may stand in several lines. What is no text is a part that means nothing.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"));
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<Head>, Broken> {
        head(&mut BytesMut::from(text), &Method::POST)
    }

    fn whole(text: &str) -> Head {
        of(text).unwrap().unwrap()
    }

    #[test]
    fn a_head_says_how_much_follows_and_whether_the_connection_stays() {
        for (lines, rest, is_kept) in [
            ("1.1 200 OK\r\nContent-Length: 5", "Length(5)", true),
            ("1.1 200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5", "Length(5)", true),
            ("1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close", "Length(5)", false),
            ("1.1 200\r\nTransfer-Encoding: gzip, Chunked", "Chunked", true),
            ("1.1 200 OK\r\nTransfer-Encoding: gzip", "UntilClosed", false),
            ("1.1 200 OK\r\nx: y", "UntilClosed", false),
            ("1.0 200 OK\r\nContent-Length: 5", "Length(5)", false),
            ("1.1 204 No Content\r\nContent-Length: 5", "Length(0)", true),
            ("1.1 304 Not Modified", "Length(0)", true),
        ] {
            let head = whole(&format!("HTTP/{lines}\r\n\r\n"));
            assert!(format!("{:?}", head.rest).starts_with(rest), "{lines}: {:?}", head.rest);
            assert_eq!(head.is_kept, is_kept, "{lines}");
        }
        let mut text = BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
        assert!(matches!(head(&mut text, &Method::HEAD).unwrap().unwrap().rest, Rest::Length(0)));
    }

    #[test]
    fn a_head_that_two_readers_could_read_differently_is_refused() {
        for lines in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
            "HTTP/1.1 200 OK\r\ncontent-length: +5",
            "HTTP/1.1 200 OK\r\ncontent-length: 5x",
            "HTTP/1.1 200 OK\r\ncontent-length:",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999",
            "HTTP/1.1 200 OK\r\nno colon",
            "HTTP/1.1 200 OK\r\na b: c",
            "HTTP/1.1 200 OK\r\na: b\0",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 099 Odd",
            "HTTP/1.1 101 Switching Protocols",
            "HTTP/2 200 OK",
            "220 smtp.example ESMTP",
        ] {
            assert!(matches!(of(&format!("{lines}\r\n\r\n")), Err(Broken::Garbled(_))), "{lines}");
        }
        let many = "a: b\r\n".repeat(MOST + 1);
        assert!(of(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
        assert!(of(&format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(LONGEST))).is_err());
        assert!(of("SSH-2.0").is_err(), "nobody waits for the end of what is no answer");
    }

    #[test]
    fn a_head_may_come_in_any_pieces_and_leaves_what_follows() {
        let usual =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\na: c\r\ncontent-length: 4\r\n\r\nbody";
        let mixed = "HTTP/1.1 200 OK\r\nA: b\na: c\r\ncontent-length: 4\r\n\nbody";
        let late = format!("\r\n\n{usual}");
        for all in [usual, &usual.replace('\r', ""), mixed, &late] {
            for cut in 0..=all.len() {
                let mut came = BytesMut::from(&all[..cut]);
                let first = head(&mut came, &Method::GET).unwrap();
                assert_eq!(first.is_some(), cut >= all.len() - 4, "{cut} of {all:?}");
                came.extend_from_slice(&all.as_bytes()[cut..]);
                let head = first.or_else(|| head(&mut came, &Method::GET).unwrap()).unwrap();
                assert_eq!(head.parts.headers.get_all("a").iter().collect::<Vec<_>>(), ["b", "c"]);
                assert_eq!(came, "body");
            }
        }
    }
}

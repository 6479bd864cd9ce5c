//! JSON's grammar, without building anything.

use std::ops::Range;

use super::{MAX_DEPTH, ScanError, text};

/// Reads a text that is one object, and hands its fields to `each`: the name, where the whole field stands, and where its
/// value does.
///
/// # Errors
/// The first thing that is wrong with the text, or what `each` refuses.
pub(crate) fn object(
    text: &[u8],
    each: impl FnMut(&str, Range<usize>, Range<usize>) -> Result<(), ScanError>,
) -> Result<(), ScanError> {
    let mut scanner = Scanner { body: text, at: 0 };
    scanner.space();
    if scanner.peek() != Some(b'{') {
        scanner.value(0)?;
        return Err(ScanError::NotAnObject);
    }
    scanner.fields(each)?;
    scanner.space();
    if scanner.at < text.len() {
        return Err(scanner.wrong("more text behind the object"));
    }
    Ok(())
}

/// How many bytes at the beginning mean nothing but themselves in a string: no quote, no backslash, no control character.
fn plain(text: &[u8]) -> usize {
    let end = memchr::memchr2(b'"', b'\\', text).unwrap_or(text.len());
    let text = &text[..end];
    // Nearly always there is none, which is seen many bytes at a time if it is asked of all of them.
    let is_control = |byte: &u8| *byte < 0x20;
    let mut pieces = text.chunks(256);
    let found = pieces.position(|piece| piece.iter().fold(false, |found, byte| found | is_control(byte)));
    let Some(at) = found.map(|piece| piece * 256) else { return end };
    at + text[at..].iter().position(is_control).unwrap_or(0)
}

/// A reader that stands somewhere in a text.
struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    const fn wrong(&self, what: &'static str) -> ScanError {
        ScanError::Syntax { what, at: self.at }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ScanError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.wrong(what))
    }

    /// The object that stands here, whose fields are handed to `each`: the whole of one, and its value.
    fn fields(
        &mut self,
        mut each: impl FnMut(&str, Range<usize>, Range<usize>) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key_from = self.at;
            self.string()?;
            let key = key_from..self.at;
            self.space();
            self.expect(b':', "no colon behind a field's name")?;
            self.space();
            let value_from = self.at;
            self.value(1)?;
            if let Some(name) = text(&self.body[key]) {
                each(&name, key_from..self.at, value_from..self.at)?;
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("neither a comma nor the object's end")),
            }
            self.space();
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), ScanError> {
        if depth > MAX_DEPTH {
            return Err(ScanError::TooDeep);
        }
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.container(depth, b'}', true),
            Some(b'[') => self.container(depth, b']', false),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.wrong("no value")),
        }
    }

    fn container(&mut self, depth: usize, end: u8, named: bool) -> Result<(), ScanError> {
        self.at += 1;
        self.space();
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(());
        }
        loop {
            if named {
                self.string()?;
                self.space();
                self.expect(b':', "no colon behind a field's name")?;
                self.space();
            }
            self.value(depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("neither a comma nor an end")),
            }
            self.space();
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), ScanError> {
        if !self.body[self.at..].starts_with(word) {
            return Err(self.wrong("no value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn string(&mut self) -> Result<(), ScanError> {
        self.expect(b'"', "no string")?;
        loop {
            self.at += plain(&self.body[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.wrong("a control character in a string")),
                None => return Err(self.wrong("a string without its end")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u')
                if self.body[self.at + 1..].iter().take(4).filter(|b| b.is_ascii_hexdigit()).count() == 4 =>
            {
                self.at += 5;
            }
            _ => return Err(self.wrong("an unknown escape")),
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { Err(self.wrong("no digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), ScanError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_plain_is_found_byte_by_byte_too(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let means = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            prop_assert_eq!(plain(&text), text.iter().position(means).unwrap_or(text.len()));
        }
    }
}

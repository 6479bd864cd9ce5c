//! One linear pass over a request's body: is it JSON, and which model does it name.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use fleet::ModelRef;
use scheduler::PrefixChain;

/// Deepest nesting that is let through; deeper ones overflow the stacks of common parsers.
const MAX_DEPTH: usize = 128;

/// What a body says of itself, as far as the queen must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The value of the top-level `model`.
    pub model: String,
    /// Where that value stands in the body, quotes included.
    pub model_at: Range<usize>,
    /// Whether the top-level `stream` is `true`.
    pub stream: bool,
    /// The prompt or the conversation, by the hashes of its beginnings; tools are part of what must be equal.
    pub prompt: PrefixChain,
    /// Most tokens that it asks for, if it says so.
    pub max_tokens: Option<u32>,
}

/// Why a body is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not JSON.
    #[error("the body is not JSON: {what} at byte {at}")]
    Syntax {
        /// What was found or missed.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// JSON, but not an object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// Nested too deeply.
    #[error("the body is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// No `model`.
    #[error("the field `model` is missing")]
    NoModel,
    /// More than one `model`, of which different readers would take different ones.
    #[error("the field `model` stands there twice")]
    TwoModels,
    /// A `model` that is not a string.
    #[error("the field `model` must be a string")]
    ModelNotText,
}

/// Scans a body.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn scan(body: &[u8]) -> Result<Scan, ScanError> {
    if std::str::from_utf8(body).is_err() {
        return Err(ScanError::Syntax { what: "a byte that is not UTF-8", at: 0 });
    }
    let mut scanner = Scanner { body, at: 0 };
    scanner.space();
    if scanner.peek() != Some(b'{') {
        scanner.value(0)?;
        return Err(ScanError::NotAnObject);
    }
    let found = scanner.top()?;
    scanner.space();
    if scanner.at < body.len() {
        return Err(scanner.wrong("more text behind the object"));
    }
    let model_at = found.model.ok_or(ScanError::NoModel)?;
    let model = serde_json::from_slice(&body[model_at.clone()]).map_err(|_| ScanError::ModelNotText)?;
    let tools = found.tools.map_or(&b""[..], |at| &body[at]);
    let prompt = found.prompt.map_or_else(PrefixChain::default, |at| PrefixChain::of(&body[at], tools));
    Ok(Scan { model, model_at, stream: found.stream, prompt, max_tokens: found.max_tokens })
}

/// The body with the model's canonical name; the very same bytes where the name is already that one.
#[must_use]
pub fn with_model(body: Bytes, scan: &Scan, model: &ModelRef) -> Bytes {
    if model.is_written(&scan.model) {
        return body;
    }
    // None of the characters of a reference has another meaning between quotes.
    let quoted = format!("\"{model}\"");
    let mut edited = BytesMut::with_capacity(body.len() + quoted.len());
    edited.extend_from_slice(&body[..scan.model_at.start]);
    edited.extend_from_slice(quoted.as_bytes());
    edited.extend_from_slice(&body[scan.model_at.end..]);
    edited.freeze()
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

#[derive(Default)]
struct Found {
    model: Option<Range<usize>>,
    stream: bool,
    prompt: Option<Range<usize>>,
    tools: Option<Range<usize>>,
    max_tokens: Option<u32>,
}

struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
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

    /// The outermost object, whose fields are looked at by name.
    fn top(&mut self) -> Result<Found, ScanError> {
        let mut found = Found::default();
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(found);
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
            let value = value_from..self.at;
            match self.name(key).as_deref() {
                Some("model") if found.model.is_some() => return Err(ScanError::TwoModels),
                Some("model") => found.model = Some(value),
                Some("stream") => found.stream = &self.body[value] == b"true",
                // Without its end: the same conversation goes on where a bracket or a quote closed it before.
                Some("messages" | "prompt" | "input") => found.prompt = Some(value.start..value.end - 1),
                Some("tools") => found.tools = Some(value),
                Some("max_tokens" | "max_completion_tokens") => {
                    found.max_tokens = serde_json::from_slice(&self.body[value]).ok();
                }
                _ => {}
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(found);
                }
                _ => return Err(self.wrong("neither a comma nor the object's end")),
            }
            self.space();
        }
    }

    /// A field's name; one of another length than those that matter is not unescaped.
    fn name(&self, key: Range<usize>) -> Option<std::borrow::Cow<'_, str>> {
        let raw = &self.body[key];
        if raw.contains(&b'\\') {
            return serde_json::from_slice::<String>(raw).ok().map(Into::into);
        }
        std::str::from_utf8(&raw[1..raw.len() - 1]).ok().map(Into::into)
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

    #[test]
    fn the_model_is_found_wherever_it_stands_and_only_at_the_top() {
        let found =
            scan(br#" { "messages":[{"model":"no"}], "stream": true , "\u006dodel" : "a\/b" } "#).unwrap();
        assert_eq!((found.model.as_str(), found.stream), ("a/b", true));
        assert!(!scan(br#"{"model":"x","stream":"true"}"#).unwrap().stream);
    }

    #[test]
    fn a_conversation_that_goes_on_has_the_beginning_of_the_one_before() {
        let turn = "x".repeat(2000);
        let first = format!(r#"{{"model":"m","max_tokens":7,"messages":[{{"content":"{turn}"}}]}}"#);
        let second = format!(
            r#"{{"messages":[{{"content":"{turn}"}},{{"content":"and then"}}],"model":"m","max_completion_tokens":null}}"#
        );
        let [first, second] = [first, second].map(|body| scan(body.as_bytes()).unwrap());
        assert_eq!((first.max_tokens, second.max_tokens), (Some(7), None));
        let mut known = scheduler::PrefixIndex::new(100);
        known.note(&first.prompt, 1, 0);
        let mut longest = 0;
        known.look(&second.prompt, |_, bytes, _| longest = bytes);
        assert!(longest >= 1536, "{longest}");
        let other =
            r#"{"tools":[1],"#.to_owned() + &format!(r#""messages":[{{"content":"{turn}"}}],"model":"m"}}"#);
        let mut found = false;
        known.look(&scan(other.as_bytes()).unwrap().prompt, |_, _, _| found = true);
        assert!(!found, "other tools make another prompt");
    }

    #[test]
    fn bodies_that_readers_would_understand_differently_are_refused() {
        assert_eq!(scan(br#"{"model":"a","model":"b"}"#), Err(ScanError::TwoModels));
        assert_eq!(scan(br#"{"model":"a","\u006dodel":"b"}"#), Err(ScanError::TwoModels));
        assert_eq!(scan(b"{}"), Err(ScanError::NoModel));
        assert_eq!(scan(br#"{"model":7}"#), Err(ScanError::ModelNotText));
        assert_eq!(scan(br#"["model"]"#), Err(ScanError::NotAnObject));
        assert_eq!(scan(br#"{"model":"\ud800"}"#), Err(ScanError::ModelNotText));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth| format!(r#"{{"model":"a","x":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(scan(nested(127).as_bytes()).is_ok());
        assert_eq!(scan(nested(100_000).as_bytes()), Err(ScanError::TooDeep));
    }

    #[test]
    fn another_name_changes_nothing_but_the_name() {
        let model: ModelRef = "hf:a/b@c:d".parse().unwrap();
        let body = Bytes::from_static(br#"{"a":1, "model" : "x", "b":[ 2 ]}"#);
        let named = with_model(body.clone(), &scan(&body).unwrap(), &model);
        assert_eq!(named, &br#"{"a":1, "model" : "hf:a/b@c:d", "b":[ 2 ]}"#[..]);
        let again = with_model(named.clone(), &scan(&named).unwrap(), &model);
        assert_eq!(again.as_ptr(), named.as_ptr(), "not even copied");
    }

    proptest! {
        #[test]
        fn what_is_plain_is_found_byte_by_byte_too(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let means = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            prop_assert_eq!(plain(&text), text.iter().position(means).unwrap_or(text.len()));
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map(".{0,6}", inner, 0..5)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_a_json_writer_wrote_is_read(value in json(), model in ".{0,20}") {
            let body = serde_json::json!({ "x": value, "model": model, "y": value }).to_string();
            prop_assert_eq!(scan(body.as_bytes()).unwrap().model, model);
        }

        #[test]
        fn what_is_accepted_is_json(body in r#"[\[\]{},:" a-f\\u0-9.eE+\-truefalsn]{0,24}"#) {
            let body = format!(r#"{{"model":"m","x":{body}}}"#);
            if scan(body.as_bytes()).is_ok() {
                // Numbers too large for a float are JSON all the same; the reference reader refuses them.
                let reference = serde_json::from_str::<&serde_json::value::RawValue>(&body);
                prop_assert!(reference.is_ok(), "{}", body);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = scan(&body);
        }
    }
}

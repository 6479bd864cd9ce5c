//! One linear pass over a request's body: is it JSON, and which model does it name.

use std::{borrow::Cow, ops::Range};

use bytes::{Bytes, BytesMut};
use fleet::ModelRef;
use scheduler::PrefixChain;

mod grammar;

pub(crate) use grammar::object;

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
    /// Whether the likeliest token is asked for every time: `temperature` is zero.
    pub greedy: bool,
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
    let mut found = Found::default();
    object(body, |name, _, value| found.note(body, name, value))?;
    let model_at = found.model.ok_or(ScanError::NoModel)?;
    let model = text(&body[model_at.clone()]).ok_or(ScanError::ModelNotText)?.into_owned();
    let tools = found.tools.map_or(&b""[..], |at| &body[at]);
    let prompt = found.prompt.map_or_else(PrefixChain::default, |at| PrefixChain::of(&body[at], tools));
    let Found { stream, max_tokens, greedy, .. } = found;
    Ok(Scan { model, model_at, stream, prompt, max_tokens, greedy })
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

#[derive(Default)]
struct Found {
    model: Option<Range<usize>>,
    stream: bool,
    prompt: Option<Range<usize>>,
    tools: Option<Range<usize>>,
    max_tokens: Option<u32>,
    greedy: bool,
}

impl Found {
    fn note(&mut self, body: &[u8], name: &str, value: Range<usize>) -> Result<(), ScanError> {
        match name {
            "model" if self.model.is_some() => return Err(ScanError::TwoModels),
            "model" => self.model = Some(value),
            "stream" => self.stream = &body[value] == b"true",
            // Without its end: the same conversation goes on where a bracket or a quote closed it before.
            "messages" | "prompt" | "input" => self.prompt = Some(value.start..value.end - 1),
            "tools" => self.tools = Some(value),
            "max_tokens" | "max_completion_tokens" => {
                self.max_tokens = serde_json::from_slice(&body[value]).ok();
            }
            "temperature" => self.greedy = is_zero(&body[value]),
            _ => {}
        }
        Ok(())
    }
}

/// What stands between quotes that enclose all of a value; none if it is no text.
fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        return serde_json::from_slice::<String>(value).ok().map(Into::into);
    }
    std::str::from_utf8(inner).ok().map(Into::into)
}

/// Whether a number is zero, however it is written.
fn is_zero(number: &[u8]) -> bool {
    let mantissa = number.split(|byte| matches!(byte, b'e' | b'E')).next().unwrap_or_default();
    mantissa.contains(&b'0') && mantissa.iter().all(|byte| matches!(byte, b'0' | b'.' | b'-'))
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
    fn a_temperature_of_zero_is_greedy_however_it_is_written() {
        let greedy = |value: &str| {
            scan(format!(r#"{{"model":"m","temperature":{value}}}"#).as_bytes()).unwrap().greedy
        };
        assert!(["0", "0.0", "0e5", "-0.00"].into_iter().all(greedy));
        assert!(!["0.01", "1", "null", "\"0\"", "\"\"", "[]"].into_iter().any(greedy));
        assert!(!scan(br#"{"model":"m"}"#).unwrap().greedy);
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

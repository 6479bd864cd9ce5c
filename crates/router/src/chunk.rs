//! One event of a completion's stream, of the raw kind or of a chat.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What an event says, as far as it matters for going on behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Chunk {
    /// The text that it brings.
    pub(crate) text: String,
    /// Why the text ends here.
    pub(crate) finish: Option<String>,
    /// Tokens of the answer so far, by the engine's count.
    pub(crate) counted: Option<u64>,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: Option<u64>,
    /// Whether it has no choices: nothing but counts.
    pub(crate) is_bare: bool,
    /// Whether it brings what is no text of the answer: tool calls, thoughts, a second choice.
    pub(crate) is_foreign: bool,
    /// What went wrong, in the worker's words.
    pub(crate) error: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    timings: Option<Timings>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    delta: Option<Map<String, Value>>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    predicted_n: Option<u64>,
}

impl Chunk {
    /// None for what is no such event.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let Wire { choices, usage, timings, error } = serde_json::from_slice(data).ok()?;
        let mut chunk = Self { is_bare: choices.is_empty(), ..Self::default() };
        if let Some(Usage { prompt_tokens, completion_tokens }) = usage {
            (chunk.prompt_tokens, chunk.counted) = (prompt_tokens, completion_tokens);
        }
        chunk.counted = chunk.counted.or(timings.and_then(|timings| timings.predicted_n));
        chunk.error = error.filter(|error| !error.is_null()).map(|error| {
            let message = error.get("message").unwrap_or(&error);
            message.as_str().unwrap_or("it did not say why").to_owned()
        });
        for choice in choices {
            chunk.take(choice);
        }
        Some(chunk)
    }

    fn take(&mut self, choice: Choice) {
        self.is_foreign |= choice.index != 0;
        self.text.push_str(&choice.text.unwrap_or_default());
        for (name, value) in choice.delta.unwrap_or_default() {
            match (name.as_str(), value) {
                ("content", Value::String(text)) => self.text.push_str(&text),
                ("role", _) | (_, Value::Null) => {}
                (_, Value::Array(list)) if list.is_empty() => {}
                (_, Value::String(text)) if text.is_empty() => {}
                _ => self.is_foreign = true,
            }
        }
        self.finish = choice.finish_reason.or(self.finish.take());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(data: &Value) -> Chunk {
        Chunk::read(data.to_string().as_bytes()).expect("a chunk")
    }

    #[test]
    fn texts_and_counts_are_found_in_the_words_of_each_engine() {
        let raw = read(&json!({ "choices": [{ "text": "a", "finish_reason": null }],
            "usage": { "prompt_tokens": 3, "completion_tokens": 4 } }));
        let read_raw =
            Chunk { text: "a".into(), counted: Some(4), prompt_tokens: Some(3), ..Chunk::default() };
        assert_eq!(raw, read_raw);
        let chat =
            read(&json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "b" } }],
            "timings": { "predicted_n": 5 }, "usage": null }));
        assert_eq!(chat, Chunk { text: "b".into(), counted: Some(5), ..Chunk::default() });
        let last = read(&json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] }));
        assert_eq!(last.finish.as_deref(), Some("stop"));
        assert!(read(&json!({ "choices": [], "usage": { "completion_tokens": 9 } })).is_bare);
        let failed = read(&json!({ "error": { "message": "no memory" } }));
        assert_eq!(failed.error.as_deref(), Some("no memory"));
        assert_eq!(read(&json!({ "error": null, "choices": [] })).error, None);
    }

    #[test]
    fn what_is_no_text_of_the_answer_is_told_from_what_is_empty() {
        let foreign = |choice: Value| read(&json!({ "choices": [choice] })).is_foreign;
        for choice in [
            json!({ "index": 1, "text": "b" }),
            json!({ "delta": { "tool_calls": [{}] } }),
            json!({ "delta": { "reasoning_content": "hm" } }),
            json!({ "delta": { "content": [{ "text": "a" }] } }),
        ] {
            assert!(foreign(choice.clone()), "{choice}");
        }
        let empty = json!({ "delta": {
            "role": "assistant", "content": null, "tool_calls": [], "reasoning_content": "", "refusal": null
        } });
        assert!(!foreign(empty));
        assert_eq!(Chunk::read(b"[1]"), None);
        assert_eq!(Chunk::read(b"{\"choices\":7}"), None);
    }
}

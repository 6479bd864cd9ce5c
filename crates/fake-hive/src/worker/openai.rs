//! OpenAI's request and answer bodies, as far as tests look at them.

use serde::Deserialize;
use serde_json::{Value, json};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) chat: bool,
    pub(super) model: Option<String>,
    pub(super) prompt: String,
    pub(super) max_tokens: Option<u32>,
    pub(super) stop: Vec<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) running_usage: bool,
}

/// Token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: u32,
    pub(super) output: u32,
}

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    prompt: Option<Value>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stop: Option<Stop>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
    #[serde(default)]
    continue_final_message: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    role: String,
    content: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
    continuous_usage_stats: bool,
}

/// The text of a message or a prompt: a string, or OpenAI's list of parts.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|p| p.as_str().or_else(|| p.get("text")?.as_str()));
            texts.collect::<Vec<_>>().join("")
        }
        _ => String::new(),
    }
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it, for the caller.
    pub(super) fn parse(chat: bool, body: &[u8]) -> Result<Self, String> {
        let body: Body = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let prompt = if chat {
            let messages = body.messages.ok_or("messages is required")?;
            // An answer of the assistant that shall be gone on with is the prompt like any other text. Otherwise it is
            // answered, and another recital begins.
            let last = messages.last().filter(|m| m.role != "assistant" || body.continue_final_message);
            last.and_then(|m| m.content.as_ref()).map(text_of).unwrap_or_default()
        } else {
            text_of(&body.prompt.ok_or("prompt is required")?)
        };
        Ok(Self {
            chat,
            model: body.model,
            prompt,
            max_tokens: body.max_tokens.or(body.max_completion_tokens),
            stop: match body.stop {
                None => Vec::new(),
                Some(Stop::One(one)) => vec![one],
                Some(Stop::Many(many)) => many,
            },
            stream: body.stream,
            include_usage: body.stream_options.include_usage,
            running_usage: body.stream_options.continuous_usage_stats,
        })
    }

    const fn object(&self) -> &'static str {
        match (self.chat, self.stream) {
            (true, true) => "chat.completion.chunk",
            (true, false) => "chat.completion",
            (false, _) => "text_completion",
        }
    }

    fn envelope(&self, id: &str, choices: &Value, usage: Option<Usage>) -> Value {
        let mut body = json!({
            "id": id,
            "object": self.object(),
            "created": 1_700_000_000,
            "model": self.model.as_deref().unwrap_or("fake"),
            "choices": choices,
        });
        if let Some(usage) = usage {
            body["usage"] = json!({
                "prompt_tokens": usage.prompt,
                "completion_tokens": usage.output,
                "total_tokens": usage.prompt + usage.output,
            });
        }
        body
    }

    /// One frame of a stream.
    pub(super) fn frame(&self, id: &str, text: &str, finish: Option<&str>, usage: Option<Usage>) -> String {
        let choice = if self.chat {
            let delta = if text.is_empty() { json!({}) } else { json!({ "content": text }) };
            json!([{ "index": 0, "delta": delta, "finish_reason": finish }])
        } else {
            json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }])
        };
        self.envelope(id, &choice, usage).to_string()
    }

    /// The first frame of a chat: the role.
    pub(super) fn role_frame(&self, id: &str) -> String {
        let choice = json!([{
            "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null
        }]);
        self.envelope(id, &choice, None).to_string()
    }

    /// The frame of counts behind the last token.
    pub(super) fn usage_frame(&self, id: &str, usage: Usage) -> String {
        self.envelope(id, &json!([]), Some(usage)).to_string()
    }

    /// A whole answer.
    pub(super) fn whole(&self, id: &str, text: &str, finish: &str, usage: Option<Usage>) -> String {
        let choice = if self.chat {
            json!([{
                "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": finish
            }])
        } else {
            json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }])
        };
        self.envelope(id, &choice, usage).to_string()
    }
}

/// An error as engines give it.
pub(super) fn error(status: u16, message: &str) -> String {
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": status } }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_found_in_every_form_that_clients_send() {
        let prompt = |chat, body: Value| Asked::parse(chat, body.to_string().as_bytes()).unwrap().prompt;
        assert_eq!(prompt(false, json!({"prompt": "a b"})), "a b");
        assert_eq!(prompt(false, json!({"prompt": ["a b"]})), "a b");
        let user =
            json!({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "a"}]});
        assert_eq!(prompt(true, user), "a");
        let parts = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]});
        assert_eq!(prompt(true, parts), "a");
        let given =
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        assert_eq!(prompt(true, given.clone()), "");
        let mut on = given;
        on["continue_final_message"] = json!(true);
        assert_eq!(prompt(true, on), "b");
        assert!(Asked::parse(true, b"{}").is_err());
        assert!(Asked::parse(false, b"{").is_err());
    }
}

//! A client's own request for a stream that another worker may go on with.
//!
//! The body is the client's. What the engine that it goes to has to be asked besides is written into it: to count tokens
//! while it answers, and, for a worker that goes on, the text that was delivered and the tokens that are left.

use std::{borrow::Cow, ops::Range};

use bytes::{Bytes, BytesMut};
use queen_api::Stop;
use serde::Deserialize;

use crate::{
    engine::{ChatPrefill, RunningCount, Skills},
    relay::Resumable,
    scan::object,
};

/// The request, and how much of its answer was delivered.
#[derive(Debug, Clone)]
pub struct Continuable {
    /// The client's body, with the model's canonical name.
    body: Bytes,
    places: Places,
    pub(crate) wishes: Wishes,
    given: String,
    left: Option<u32>,
    stops: Vec<String>,
}

/// Where in the body stands what may have to be changed.
#[derive(Debug, Clone, Default)]
struct Places {
    text: Option<Text>,
    limits: Vec<Range<usize>>,
    stream_options: Option<Range<usize>>,
    timings_per_token: Option<Range<usize>>,
}

/// Where the text that was given has to be put.
#[derive(Debug, Clone)]
enum Text {
    /// Behind the last letter of the prompt.
    Prompt(usize),
    /// Behind the last message.
    Messages(usize),
}

/// What the client itself asked to be told besides the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wishes {
    /// Whether it is a chat.
    pub(crate) chat: bool,
    /// Counts behind the answer.
    pub(crate) usage: bool,
    /// Counts in each event, in vLLM's way.
    pub(crate) running_usage: bool,
    /// Counts in each event, in llama.cpp's way.
    pub(crate) timings: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
    #[serde(default)]
    continuous_usage_stats: Option<bool>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Format<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

fn read<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

fn is_nothing(value: &[u8]) -> bool {
    matches!(value, b"null" | b"false")
        || read::<Vec<serde::de::IgnoredAny>>(value).is_some_and(|list| list.is_empty())
}

impl Continuable {
    /// The request for a stream that a body makes at a worker's path. None where another worker could not go on as if
    /// nothing had happened: with tools, a grammar, several answers, log probabilities, a prompt that is not one text, an
    /// answer of the assistant as the last message, and whatever else is not known to be harmless.
    #[must_use]
    pub fn of(path: &str, body: Bytes) -> Option<Self> {
        let chat = path.ends_with("/chat/completions");
        let mut request = Self {
            body: Bytes::new(),
            places: Places::default(),
            wishes: Wishes { chat, ..Wishes::default() },
            given: String::new(),
            left: None,
            stops: Vec::new(),
        };
        let mut fits = true;
        object(&body, |name, _, value| {
            fits = fits && request.note(name, &body[value.clone()], value).is_some();
            Ok(())
        })
        .ok()?;
        // Without a bound, engines have bounds of their own for raw completions.
        let has_text = request.places.text.is_some() && (chat || request.left.is_some());
        request.body = body;
        (fits && has_text).then_some(request)
    }

    /// Takes down a field. None if nobody can go on with a request that has it.
    fn note(&mut self, name: &str, value: &[u8], at: Range<usize>) -> Option<()> {
        let places = &mut self.places;
        match name {
            "model" | "stream" | "temperature" | "top_p" | "top_k" | "min_p" | "seed" | "user"
            | "frequency_penalty" | "presence_penalty" | "repetition_penalty" | "repeat_penalty"
            | "cache_prompt" | "metadata" | "safety_identifier" | "prompt_cache_key" => {}
            "messages" if self.wishes.chat => {
                let messages: Vec<Message<'_>> = read(value)?;
                messages.last().filter(|last| last.role != "assistant")?;
                places.text = Some(Text::Messages(at.end - 1));
            }
            "prompt" if !self.wishes.chat => {
                value.starts_with(b"\"").then_some(())?;
                places.text = Some(Text::Prompt(at.end - 1));
            }
            "max_tokens" | "max_completion_tokens" => {
                if let Some(limit) = read::<Option<u32>>(value)? {
                    self.left = Some(self.left.map_or(limit, |left| left.min(limit)));
                    places.limits.push(at);
                }
            }
            "stop" => {
                self.stops = read::<Option<Stop>>(value)?.map_or_else(Vec::new, |stop| stop.texts().to_vec())
            }
            "stream_options" => {
                if let Some(options) = read::<Option<StreamOptions>>(value)? {
                    self.wishes.usage = options.include_usage.unwrap_or_default();
                    self.wishes.running_usage = options.continuous_usage_stats.unwrap_or_default();
                }
                places.stream_options = Some(at);
            }
            "timings_per_token" => {
                self.wishes.timings = read::<Option<bool>>(value)?.unwrap_or_default();
                places.timings_per_token = Some(at);
            }
            "n" | "best_of" => (value == b"1" || value == b"null").then_some(())?,
            "response_format" => {
                let format: Option<Format<'_>> = read(value)?;
                format.is_none_or(|format| format.kind == "text").then_some(())?;
            }
            // Harmless as long as they ask for nothing, like any field that is not known.
            _ => is_nothing(value).then_some(())?,
        }
        Some(())
    }

    /// The body for a worker of such an engine. None where it would have to go on with a chat, and cannot.
    pub(crate) fn body(&self, skills: Skills) -> Option<Bytes> {
        let mut edits = Edits::default();
        match skills.count {
            Some(RunningCount::ContinuousUsage) if !(self.wishes.usage && self.wishes.running_usage) => {
                let options = r#"{"include_usage":true,"continuous_usage_stats":true}"#;
                edits.set(&self.body, self.places.stream_options.as_ref(), "stream_options", options);
            }
            Some(RunningCount::TimingsPerToken) if !self.wishes.timings => {
                edits.set(&self.body, self.places.timings_per_token.as_ref(), "timings_per_token", "true");
            }
            _ => {}
        }
        if !self.given.is_empty() {
            self.go_on(skills, &mut edits)?;
        }
        if let Some(left) = self.left {
            let limits = self.places.limits.iter().filter(|at| read(&self.body[(*at).clone()]) != Some(left));
            edits.0.extend(limits.map(|at| (at.clone(), left.to_string())));
        }
        Some(edits.apply(&self.body))
    }

    fn go_on(&self, skills: Skills, edits: &mut Edits) -> Option<()> {
        let given = serde_json::to_string(&self.given).ok()?;
        match self.places.text.as_ref()? {
            Text::Prompt(at) => edits.0.push((*at..*at, given[1..given.len() - 1].to_owned())),
            Text::Messages(at) => {
                let message = format!(r#",{{"role":"assistant","content":{given}}}"#);
                edits.0.push((*at..*at, message));
                if skills.prefill? == ChatPrefill::ContinueFinalMessage {
                    edits.set(&self.body, None, "continue_final_message", "true");
                    edits.set(&self.body, None, "add_generation_prompt", "false");
                }
            }
        }
        Some(())
    }
}

impl Resumable for Continuable {
    fn behind(&self, text: &str, tokens: u64) -> Self {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let left = self.left.map(|left| left.saturating_sub(tokens));
        Self { given: format!("{}{text}", self.given), left, ..self.clone() }
    }

    fn given(&self) -> &str {
        &self.given
    }

    fn left(&self) -> Option<u32> {
        self.left
    }

    fn stops(&self) -> &[String] {
        &self.stops
    }
}

/// Texts that take the place of parts of a body.
#[derive(Default)]
struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    /// Gives a field a value: where it stands, or as the first one.
    fn set(&mut self, body: &[u8], at: Option<&Range<usize>>, name: &str, value: &str) {
        let edit = at.map(|at| (at.clone(), value.to_owned()));
        self.0.push(edit.unwrap_or_else(|| {
            let first = body.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
            (first..first, format!(r#""{name}":{value},"#))
        }));
    }

    fn apply(mut self, body: &Bytes) -> Bytes {
        if self.0.is_empty() {
            return body.clone();
        }
        self.0.sort_by_key(|(at, _)| at.start);
        let added: usize = self.0.iter().map(|(_, text)| text.len()).sum();
        let mut edited = BytesMut::with_capacity(body.len() + added);
        let mut from = 0;
        for (at, text) in self.0 {
            edited.extend_from_slice(&body[from..at.start]);
            edited.extend_from_slice(text.as_bytes());
            from = at.end;
        }
        edited.extend_from_slice(&body[from..]);
        edited.freeze()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CHAT: &str = "/v1/chat/completions";
    const RAW: &str = "/v1/completions";

    fn of(path: &str, body: &Value) -> Option<Continuable> {
        Continuable::of(path, body.to_string().into())
    }

    fn chat(more: Value) -> Value {
        let mut body =
            json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": true });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    fn sent(request: &Continuable, skills: Skills) -> Value {
        serde_json::from_slice(&request.body(skills).expect("a body")).expect("JSON")
    }

    const VLLM: Skills = Skills {
        count: Some(RunningCount::ContinuousUsage),
        prefill: Some(ChatPrefill::ContinueFinalMessage),
    };
    const LLAMA: Skills =
        Skills { count: Some(RunningCount::TimingsPerToken), prefill: Some(ChatPrefill::AssistantMessage) };

    #[test]
    fn an_engine_that_cannot_count_gets_the_very_bytes_of_the_client() {
        let body = Bytes::from_static(br#" { "model":"m", "messages":[ {"role":"user","content":"a"} ] }"#);
        let request = Continuable::of(CHAT, body.clone()).unwrap();
        assert_eq!(request.body(Skills::default()).unwrap().as_ptr(), body.as_ptr());
        let counted = request.body(LLAMA).unwrap();
        let expected =
            br#" {"timings_per_token":true, "model":"m", "messages":[ {"role":"user","content":"a"} ] }"#;
        assert_eq!(counted, expected.as_slice());
    }

    #[test]
    fn engines_are_asked_to_count_unless_the_client_did() {
        let asked = chat(json!({ "stream_options": { "include_usage": true }, "timings_per_token": false }));
        let request = of(CHAT, &asked).unwrap();
        assert!(request.wishes.usage && !request.wishes.running_usage && !request.wishes.timings);
        let options = json!({ "include_usage": true, "continuous_usage_stats": true });
        assert_eq!(sent(&request, VLLM)["stream_options"], options);
        assert_eq!(sent(&request, LLAMA)["timings_per_token"], true);
        let asked = chat(json!({ "timings_per_token": true, "stream_options": null }));
        let request = of(CHAT, &asked).unwrap();
        assert_eq!(sent(&request, LLAMA), asked);
        assert_eq!(sent(&request, VLLM)["stream_options"], options);
    }

    #[test]
    fn the_next_worker_gets_what_was_given_and_what_is_left() {
        let asked = chat(json!({ "max_tokens": 10, "max_completion_tokens": 9, "stop": "x" }));
        let request = of(CHAT, &asked).unwrap().behind(" \"a\"\n", 2).behind("b", 1);
        assert_eq!((request.left(), request.stops()), (Some(6), &["x".to_owned()][..]));
        let body = sent(&request, VLLM);
        let messages = json!([
            { "role": "user", "content": "hi" }, { "role": "assistant", "content": " \"a\"\nb" }
        ]);
        assert_eq!(body["messages"], messages);
        assert_eq!([&body["max_tokens"], &body["max_completion_tokens"]], [6, 6]);
        assert_eq!([&body["continue_final_message"], &body["add_generation_prompt"]], [true, false]);
        let body = sent(&request, LLAMA);
        assert_eq!((&body["messages"], body.get("continue_final_message")), (&messages, None));
        assert_eq!(request.body(Skills { prefill: None, ..LLAMA }), None);
        let raw = of(RAW, &json!({ "prompt": "say \u{1}", "max_tokens": 3, "model": "m" })).unwrap();
        let body = sent(&raw.behind("\" ü", 1), Skills { prefill: None, ..VLLM });
        assert_eq!((&body["prompt"], &body["max_tokens"]), (&json!("say \u{1}\" ü"), &json!(2)));
    }

    #[test]
    fn what_nobody_can_go_on_with_is_left_alone() {
        for more in [
            json!({ "tools": [{}] }),
            json!({ "response_format": { "type": "json_object" } }),
            json!({ "grammar": "root ::= x" }),
            json!({ "n": 2 }),
            json!({ "logprobs": true }),
            json!({ "max_tokens": -1 }),
            json!({ "n_predict": 5 }),
            json!({ "messages": [] }),
            json!({ "messages": [{ "role": "assistant", "content": "I" }] }),
            json!({ "stream_options": { "include_obfuscation": true } }),
        ] {
            assert!(of(CHAT, &chat(more.clone())).is_none(), "{more}");
        }
        for more in [
            json!({ "tools": [], "tool_choice": null, "logprobs": false, "n": 1 }),
            json!({ "response_format": { "type": "text" }, "max_tokens": null, "stop": null }),
        ] {
            assert!(of(CHAT, &chat(more.clone())).is_some(), "{more}");
        }
        for body in [
            json!({ "prompt": ["a"], "max_tokens": 1 }),
            json!({ "prompt": "a", "max_tokens": 1, "echo": true }),
            json!({ "prompt": "a" }),
            json!({ "max_tokens": 1 }),
        ] {
            assert!(of(RAW, &body).is_none(), "{body}");
        }
    }
}

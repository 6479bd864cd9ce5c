//! OpenAI's request bodies, parsed once into what a generation needs.
//!
//! A body is walked by hand instead of being deserialised into a struct of options: every fault is answered with the
//! name of its parameter, and a parameter is one of three things that a derived struct cannot tell apart. It is honoured,
//! it is refused because it would change the answer, or it is ignored because it cannot.

use serde_json::{Map, Value};

use crate::chat;
use crate::engine::{Prompt, Sampling};
use crate::error::ApiError;

/// OpenAI's default for completions, which answers of chat do not have.
const COMPLETION_TOKENS: u32 = 16;
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 1024;

/// The two dialects of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Completion,
    Chat,
}

/// What a client asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct Ask {
    pub(crate) dialect: Dialect,
    pub(crate) prompt: Prompt,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stops: Vec<String>,
    pub(crate) stream: Option<Streaming>,
}

/// How an answer is streamed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Streaming {
    /// A last frame without a choice says how many tokens it was.
    pub(crate) include_usage: bool,
    /// Every frame says how many tokens it was so far (the name is vLLM's).
    pub(crate) continuous_usage: bool,
}

/// Parameters that would change the answer and are not there, with the value that asks for nothing besides the empty
/// ones. Some are of other engines; a client that sends them must not believe that they were heard.
const REFUSED: &[(&str, Option<f64>)] = &[
    ("audio", None),
    ("best_of", Some(1.0)),
    ("echo", None),
    ("functions", None),
    ("function_call", None),
    ("grammar", None),
    ("guided_choice", None),
    ("guided_grammar", None),
    ("guided_json", None),
    ("guided_regex", None),
    ("ignore_eos", None),
    ("json_schema", None),
    ("logit_bias", None),
    ("logprobs", None),
    ("min_p", None),
    ("min_tokens", None),
    ("n_probs", None),
    ("prediction", None),
    ("prompt_logprobs", None),
    ("repeat_penalty", Some(1.0)),
    ("repetition_penalty", Some(1.0)),
    ("stop_token_ids", None),
    ("structured_outputs", None),
    ("suffix", None),
    ("tools", None),
    ("top_logprobs", None),
    ("typical_p", Some(1.0)),
    ("use_beam_search", None),
    ("web_search_options", None),
];

/// Parses a body for the model called `served`.
pub(crate) fn parse(dialect: Dialect, body: &[u8], served: &str) -> Result<Ask, ApiError> {
    let body: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| ApiError::BadBody(format!("the body is not a JSON object: {error}")))?;
    let fields = Fields(&body);
    match fields.text("model")? {
        Some(model) if model == served => {}
        Some(model) => return Err(ApiError::UnknownModel(model.to_owned())),
        None => return Err(ApiError::parameter("model", "is missing")),
    }
    fields.refuse_unsupported()?;
    Ok(Ask {
        dialect,
        prompt: match dialect {
            Dialect::Completion => Prompt::Text(fields.prompt()?),
            Dialect::Chat => chat::prompt(&fields)?,
        },
        max_tokens: fields.max_tokens(dialect)?,
        sampling: fields.sampling()?,
        stops: fields.stops()?,
        stream: fields.streaming()?,
    })
}

/// The fields of a body. `null` is the same as nothing, as it is for OpenAI.
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.typed(name, "must be a string", Value::as_str)
    }

    pub(crate) fn truth(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.typed(name, "must be true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn typed<T>(
        &self,
        name: &str,
        problem: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            Some(value) => read(value).map(Some).ok_or_else(|| ApiError::parameter(name, problem)),
            None => Ok(None),
        }
    }

    /// A number from `low` to `high`.
    fn number(&self, name: &str, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
        let problem = format!("must be a number from {low} to {high}");
        let within = |value: &Value| value.as_f64().filter(|number| (low..=high).contains(number));
        Ok(self.typed(name, &problem, within)?.map(|number| number as f32))
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        if self.get("n").is_some_and(|n| n.as_u64() != Some(1)) {
            return Err(ApiError::Unsupported { name: "n".to_owned(), hint: ": it makes one choice" });
        }
        for &(name, neutral) in REFUSED {
            if self.get(name).is_some_and(|value| !asks_for_nothing(value, neutral)) {
                return Err(ApiError::unsupported(name));
            }
        }
        if self.get("tool_choice").is_some_and(|choice| !matches!(choice.as_str(), Some("none" | "auto"))) {
            return Err(ApiError::unsupported("tool_choice"));
        }
        let format = self.get("response_format").map(|format| format.get("type").and_then(Value::as_str));
        if format.is_some_and(|kind| kind != Some("text")) {
            return Err(ApiError::unsupported("response_format"));
        }
        let modalities = self.get("modalities").and_then(Value::as_array);
        if modalities.is_some_and(|all| all.iter().any(|one| one.as_str() != Some("text"))) {
            return Err(ApiError::unsupported("modalities"));
        }
        Ok(())
    }

    fn prompt(&self) -> Result<String, ApiError> {
        let prompt = match self.get("prompt") {
            None => return Err(ApiError::parameter("prompt", "is missing")),
            Some(Value::String(text)) => text,
            Some(Value::Array(texts)) => match texts.as_slice() {
                [Value::String(text)] => text,
                [_, _, ..] => {
                    return Err(ApiError::Unsupported {
                        name: "prompt".to_owned(),
                        hint: " as a list of several",
                    });
                }
                _ => return Err(ApiError::parameter("prompt", "must be a string or a list of one string")),
            },
            Some(_) => return Err(ApiError::parameter("prompt", "must be a string or a list of one string")),
        };
        Ok(prompt.clone())
    }

    fn max_tokens(&self, dialect: Dialect) -> Result<Option<u32>, ApiError> {
        let count = |name: &str| {
            let read = |value: &Value| {
                value.as_u64().filter(|&count| count > 0).map(|count| count.try_into().unwrap_or(u32::MAX))
            };
            self.typed(name, "must be a whole number above zero", read)
        };
        let old = count("max_tokens")?;
        Ok(match dialect {
            Dialect::Completion => Some(old.unwrap_or(COMPLETION_TOKENS)),
            Dialect::Chat => count("max_completion_tokens")?.or(old),
        })
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        // Zero and minus one both mean "all of them" among the engines that have this parameter.
        let top_k = self.typed("top_k", "must be a whole number", Value::as_i64)?.filter(|&k| k > 0);
        // Any integer is a seed; a negative one is as good as the unsigned number of the same bits.
        let seed = self.typed("seed", "must be a whole number", |value| {
            value.as_u64().or(value.as_i64().map(i64::cast_unsigned))
        })?;
        Ok(Sampling {
            temperature: self.number("temperature", 0.0, 100.0)?.unwrap_or(1.0),
            top_p: self.number("top_p", 0.0, 1.0)?.unwrap_or(1.0),
            top_k: top_k.map(|k| k.try_into().unwrap_or(u32::MAX)),
            seed,
            frequency_penalty: self.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            presence_penalty: self.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        })
    }

    fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = match self.get("stop") {
            None => return Ok(Vec::new()),
            Some(Value::String(stop)) => vec![stop.clone()],
            Some(Value::Array(stops)) => stops
                .iter()
                .map(|stop| stop.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| ApiError::parameter("stop", "must be a string or a list of strings"))?,
            Some(_) => return Err(ApiError::parameter("stop", "must be a string or a list of strings")),
        };
        if stops.len() > MOST_STOPS || stops.iter().any(|stop| stop.is_empty() || stop.len() > LONGEST_STOP) {
            let problem = format!("must be at most {MOST_STOPS} strings of 1 to {LONGEST_STOP} bytes");
            return Err(ApiError::parameter("stop", problem));
        }
        Ok(stops)
    }

    fn streaming(&self) -> Result<Option<Streaming>, ApiError> {
        if !self.truth("stream")? {
            return Ok(None);
        }
        let Some(options) = self.typed("stream_options", "must be an object", Value::as_object)? else {
            return Ok(Some(Streaming::default()));
        };
        let options = Fields(options);
        Ok(Some(Streaming {
            include_usage: options.truth("include_usage")?,
            continuous_usage: options.truth("continuous_usage_stats")?,
        }))
    }
}

/// Whether a value asks for nothing: `false`, zero, an empty text, list or object, or the parameter's own neutral number.
fn asks_for_nothing(value: &Value, neutral: Option<f64>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => {
            number.as_f64().is_some_and(|number| number == 0.0 || Some(number) == neutral)
        }
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::Message;

    fn ask(dialect: Dialect, mut body: Value) -> Result<Ask, String> {
        if body.get("model").is_none() {
            body["model"] = json!("m");
        }
        parse(dialect, body.to_string().as_bytes(), "m").map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_openais() {
        let ask = ask(Dialect::Completion, json!({"prompt": "hello"})).unwrap();
        assert_eq!(ask.prompt, Prompt::Text("hello".to_owned()));
        assert_eq!((ask.max_tokens, ask.stream), (Some(16), None));
        assert_eq!((ask.sampling.temperature, ask.sampling.top_p, ask.sampling.top_k), (1.0, 1.0, None));
        assert!(ask.stops.is_empty());
    }

    #[test]
    fn what_is_asked_for_arrives() {
        let body = json!({
            "prompt": ["hi"], "max_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": 3, "seed": -1, "stop": ["a", "b"],
            "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true},
            "frequency_penalty": 0.5, "presence_penalty": -0.5, "user": "someone", "logprobs": null, "n": 1, "best_of": 1,
        });
        let ask = ask(Dialect::Completion, body).unwrap();
        assert_eq!((ask.prompt, ask.max_tokens), (Prompt::Text("hi".to_owned()), Some(7)));
        assert_eq!((ask.sampling.temperature, ask.sampling.top_p, ask.sampling.top_k), (0.0, 0.5, Some(3)));
        assert_eq!(ask.sampling.seed, Some(u64::MAX));
        assert_eq!(ask.stops, ["a", "b"]);
        assert_eq!(ask.stream, Some(Streaming { include_usage: true, continuous_usage: true }));
    }

    #[test]
    fn chat_takes_either_name_for_the_limit_and_text_in_parts() {
        let body = json!({
            "messages": [{"role": "developer", "content": "be brief"},
                         {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "max_tokens": 5, "max_completion_tokens": 6,
        });
        let ask = ask(Dialect::Chat, body).unwrap();
        let message =
            |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let messages = vec![message("system", "be brief"), message("user", "ab")];
        assert_eq!(ask.prompt, Prompt::Chat { messages, continue_last: false });
        assert_eq!(ask.max_tokens, Some(6));
    }

    #[test]
    fn every_wrong_value_is_refused_by_name() {
        let cases = [
            (json!({}), "prompt is missing"),
            (json!({"prompt": 3}), "prompt must be a string or a list of one string"),
            (json!({"prompt": ["a", "b"]}), "prompt is not supported by this worker as a list of several"),
            (json!({"prompt": [[1, 2]]}), "prompt must be a string or a list of one string"),
            (json!({"prompt": "a", "model": "other"}), "the model \"other\" is not served here"),
            (json!({"prompt": "a", "model": 1}), "model must be a string"),
            (json!({"prompt": "a", "max_tokens": 0}), "max_tokens must be a whole number above zero"),
            (json!({"prompt": "a", "max_tokens": 1.5}), "max_tokens must be a whole number above zero"),
            (json!({"prompt": "a", "temperature": -1}), "temperature must be a number from 0 to 100"),
            (json!({"prompt": "a", "temperature": "hot"}), "temperature must be a number from 0 to 100"),
            (json!({"prompt": "a", "top_p": 1.5}), "top_p must be a number from 0 to 1"),
            (json!({"prompt": "a", "top_k": 1.5}), "top_k must be a whole number"),
            (json!({"prompt": "a", "seed": "x"}), "seed must be a whole number"),
            (json!({"prompt": "a", "stop": 1}), "stop must be a string or a list of strings"),
            (json!({"prompt": "a", "stop": [""]}), "stop must be at most 16 strings of 1 to 1024 bytes"),
            (json!({"prompt": "a", "stream": "yes"}), "stream must be true or false"),
            (
                json!({"prompt": "a", "stream": true, "stream_options": []}),
                "stream_options must be an object",
            ),
            (json!({"prompt": "a", "n": 2}), "n is not supported by this worker: it makes one choice"),
            (json!({"prompt": "a", "echo": true}), "echo is not supported by this worker"),
            (json!({"prompt": "a", "logprobs": 5}), "logprobs is not supported by this worker"),
            (json!({"prompt": "a", "tools": [{}]}), "tools is not supported by this worker"),
            (
                json!({"prompt": "a", "tool_choice": "required"}),
                "tool_choice is not supported by this worker",
            ),
            (
                json!({"prompt": "a", "repetition_penalty": 1.1}),
                "repetition_penalty is not supported by this worker",
            ),
            (
                json!({"prompt": "a", "response_format": {"type": "json_object"}}),
                "response_format is not supported by this worker",
            ),
            (
                json!({"prompt": "a", "modalities": ["text", "audio"]}),
                "modalities is not supported by this worker",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(ask(Dialect::Completion, body.clone()).unwrap_err(), expected, "{body}");
        }
    }

    #[test]
    fn a_parameter_that_asks_for_nothing_is_not_refused() {
        let body = json!({
            "prompt": "a", "echo": false, "logprobs": false, "tools": [], "suffix": "", "logit_bias": {}, "min_p": 0,
            "repetition_penalty": 1.0, "response_format": {"type": "text"}, "tool_choice": "none", "modalities": ["text"],
        });
        assert!(ask(Dialect::Completion, body).is_ok());
    }

    #[test]
    fn a_body_that_is_no_object_says_where() {
        let error = parse(Dialect::Completion, b"[1]", "m").unwrap_err();
        assert!(error.to_string().starts_with("the body is not a JSON object: "), "{error}");
    }
}

//! The request that `/v1/infer` sends to a worker: a raw completion, which may be continued by another worker.

use bytes::Bytes;
use fleet::ModelRef;
use queen_api::{InferRequest, Stop};
use serde::Serialize;

use crate::{
    engine::{RunningCount, Skills},
    relay::Resumable,
};

/// What is asked, whichever worker is asked it.
#[derive(Debug)]
pub(crate) struct Completion {
    model: ModelRef,
    request: InferRequest,
    /// Text that other workers gave before, which the next one goes on from.
    given: String,
    /// Tokens that are left to be generated.
    left: u32,
}

#[derive(Serialize)]
struct Wire<'a> {
    model: &'a ModelRef,
    prompt: std::borrow::Cow<'a, str>,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<&'a Stop>,
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    timings_per_token: bool,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continuous_usage_stats: bool,
}

impl Completion {
    pub(crate) fn new(model: ModelRef, request: InferRequest) -> Self {
        let left = request.max_tokens;
        Self { model, request, given: String::new(), left }
    }

    /// The body for a worker of such an engine.
    pub(crate) fn body(&self, Skills { count, .. }: Skills) -> Bytes {
        let InferRequest { prompt, temperature, top_p, top_k, seed, stop, .. } = &self.request;
        let prompt = if self.given.is_empty() {
            prompt.as_str().into()
        } else {
            format!("{prompt}{}", self.given).into()
        };
        let wire = Wire {
            model: &self.model,
            prompt,
            max_tokens: self.left,
            temperature: *temperature,
            top_p: *top_p,
            top_k: *top_k,
            seed: *seed,
            stop: stop.as_ref(),
            // A worker notices that its client left only while it streams.
            stream: true,
            stream_options: StreamOptions {
                include_usage: true,
                continuous_usage_stats: count == Some(RunningCount::ContinuousUsage),
            },
            timings_per_token: count == Some(RunningCount::TimingsPerToken),
        };
        serde_json::to_vec(&wire).map_or_else(|_| unreachable!("strings and numbers only"), Bytes::from)
    }
}

impl Resumable for Completion {
    fn behind(&self, text: &str, tokens: u64) -> Self {
        let given = format!("{}{text}", self.given);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        Self {
            model: self.model.clone(),
            request: self.request.clone(),
            given,
            left: self.left.saturating_sub(tokens),
        }
    }

    fn given(&self) -> &str {
        &self.given
    }

    fn left(&self) -> Option<u32> {
        Some(self.left)
    }

    fn stops(&self) -> &[String] {
        self.request.stop.as_ref().map_or(&[], Stop::texts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn completion() -> Completion {
        let request =
            serde_json::from_value(json!({ "model": "a/b", "prompt": "Tell me.", "max_tokens": 10 }));
        Completion::new("hf:a/b".parse().unwrap(), request.unwrap())
    }

    fn body(completion: &Completion, count: Option<RunningCount>) -> Value {
        serde_json::from_slice(&completion.body(Skills { count, prefill: None })).unwrap()
    }

    #[test]
    fn an_engine_is_asked_to_count_in_its_own_words_or_not_at_all() {
        let plain = body(&completion(), None);
        assert_eq!(plain["stream_options"], json!({ "include_usage": true }));
        assert_eq!(plain.get("timings_per_token"), None);
        let timed = body(&completion(), Some(RunningCount::TimingsPerToken));
        assert_eq!(timed["timings_per_token"], true);
        let counted = body(&completion(), Some(RunningCount::ContinuousUsage));
        assert_eq!(counted["stream_options"]["continuous_usage_stats"], true);
    }

    #[test]
    fn the_next_worker_gets_what_was_given_and_what_is_left() {
        let second = completion().behind(" Once,", 2);
        let third = second.behind(" long", 1);
        assert_eq!(body(&third, None)["prompt"], "Tell me. Once, long");
        assert_eq!(body(&third, None)["max_tokens"], 7);
        assert_eq!(completion().behind("", 11).left(), Some(0));
    }
}

//! Answers in OpenAI's shapes: one object, or frames of a stream.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};

use crate::engine::Finish;
use crate::error::ApiError;
use crate::generation::{Generation, Piece, Usage};
use crate::request::{Dialect, Streaming};
use crate::worker::Worker;

/// What all frames of one answer have in common.
pub(crate) struct Head {
    dialect: Dialect,
    id: String,
    created: u64,
    model: String,
}

impl Head {
    pub(crate) fn new(dialect: Dialect, worker: &Arc<Worker>, created: u64) -> Self {
        let prefix = match dialect {
            Dialect::Completion => "cmpl",
            Dialect::Chat => "chatcmpl",
        };
        // An id only tells answers apart in a log; should the system have no randomness, the time does that too.
        let random = getrandom::u64().unwrap_or(created);
        Self {
            dialect,
            id: format!("{prefix}-{random:016x}"),
            created,
            model: worker.served_name().to_owned(),
        }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices})
    }

    /// A whole answer.
    fn whole(&self, text: &str, finish: Finish, usage: Usage) -> Value {
        let finish = finish_name(finish);
        let mut answer = match self.dialect {
            Dialect::Completion => self.object(
                "text_completion",
                json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}]),
            ),
            Dialect::Chat => self.object(
                "chat.completion",
                json!([{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                        "logprobs": null, "finish_reason": finish}]),
            ),
        };
        answer["usage"] = json!(usage);
        answer
    }

    /// A frame with a choice: text, or the end, or for chat the role at the beginning.
    fn frame(&self, text: Option<&str>, finish: Option<Finish>) -> Value {
        let finish = finish.map(finish_name);
        match self.dialect {
            Dialect::Completion => self.object(
                "text_completion",
                json!([{"index": 0, "text": text.unwrap_or_default(), "logprobs": null, "finish_reason": finish}]),
            ),
            Dialect::Chat => {
                let delta = text.map_or_else(|| json!({}), |text| json!({"content": text}));
                self.chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]))
            }
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let kind = match self.dialect {
            Dialect::Completion => "text_completion",
            Dialect::Chat => "chat.completion.chunk",
        };
        self.object(kind, choices)
    }

    fn role(&self) -> Value {
        let delta = json!({"role": "assistant", "content": ""});
        self.chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]))
    }
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// Collects a generation into one object.
pub(crate) async fn collect(head: &Head, mut generation: Generation) -> Result<Value, ApiError> {
    let mut text = String::new();
    loop {
        match generation.next().await? {
            Piece::Text(piece) => text.push_str(&piece),
            Piece::End(finish) => return Ok(head.whole(&text, finish, generation.usage())),
        }
    }
}

/// Where a stream of frames stands.
enum Stage {
    /// Chat begins with a frame that says who speaks.
    Role,
    Pieces,
    /// The frame without a choice that says how many tokens it was.
    Usage,
    Done,
    Over,
}

/// Turns a generation into server-sent events.
pub(crate) fn frames(
    head: Head,
    generation: Generation,
    options: Streaming,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let first = match head.dialect {
        Dialect::Completion => Stage::Pieces,
        Dialect::Chat => Stage::Role,
    };
    futures_util::stream::unfold(
        (Frames { head, generation, options }, first),
        |(mut frames, stage)| async move {
            let (data, next) = frames.step(stage).await?;
            Some((Ok(Bytes::from(format!("data: {data}\n\n"))), (frames, next)))
        },
    )
}

struct Frames {
    head: Head,
    generation: Generation,
    options: Streaming,
}

impl Frames {
    /// The next event and what comes after it.
    async fn step(&mut self, stage: Stage) -> Option<(String, Stage)> {
        match stage {
            Stage::Role => Some((self.counted(self.head.role()), Stage::Pieces)),
            Stage::Pieces => Some(match self.generation.next().await {
                Ok(Piece::Text(text)) => (self.counted(self.head.frame(Some(&text), None)), Stage::Pieces),
                Ok(Piece::End(finish)) => {
                    let next = if self.options.include_usage { Stage::Usage } else { Stage::Done };
                    (self.counted(self.head.frame(None, Some(finish))), next)
                }
                // No `[DONE]` after this: a stream is complete if and only if that was sent.
                Err(error) => (error.body().to_string(), Stage::Over),
            }),
            Stage::Usage => {
                let mut frame = self.head.chunk(json!([]));
                frame["usage"] = json!(self.generation.usage());
                Some((frame.to_string(), Stage::Done))
            }
            Stage::Done => Some(("[DONE]".to_owned(), Stage::Over)),
            Stage::Over => None,
        }
    }

    /// Adds the running count, or OpenAI's `null` where only the last frame has one.
    fn counted(&self, mut frame: Value) -> String {
        if self.options.continuous_usage {
            frame["usage"] = json!(self.generation.usage());
        } else if self.options.include_usage {
            frame["usage"] = Value::Null;
        }
        frame.to_string()
    }
}

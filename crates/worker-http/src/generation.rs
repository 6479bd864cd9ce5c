//! One generation: from the wait for a slot to the last piece of text.
//!
//! ```text
//! wait for a slot ─► engine starts ─► first event ─► pieces … ─► end
//!        │                 │              │             │
//!        └── ApiError ─────┴──────────────┘             └── ApiError in mid-stream
//! ```
//!
//! Everything up to the first event can still be answered with a status of its own, so [`begin`] waits for it. From then
//! on a failure can only be reported within the stream.

use std::sync::Arc;

use futures_util::StreamExt;
use serde::Serialize;

use crate::engine::{EngineError, Event, Events, Finish, Order};
use crate::error::ApiError;
use crate::request::Ask;
use crate::text::Text;
use crate::worker::Worker;

/// How many tokens it was, in OpenAI's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    pub(crate) total_tokens: u32,
}

/// What happens next in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// More text, never empty.
    Text(String),
    /// The end, after which nothing comes.
    End(Finish),
}

/// A generation that has produced its first event. Dropping it cancels it.
pub(crate) struct Generation {
    worker: Arc<Worker>,
    events: Events,
    first: Option<Event>,
    text: Option<Text>,
    end: Option<Finish>,
    prompt_tokens: u32,
    completion_tokens: u32,
}

/// Waits for a slot and for the engine's first event.
pub(crate) async fn begin(worker: &Arc<Worker>, ask: Ask) -> Result<Generation, ApiError> {
    let engine = Arc::clone(worker.engine()?);
    let slot = worker.slot().await?;
    let order = Order { prompt: ask.prompt, max_tokens: ask.max_tokens, sampling: ask.sampling, slot };
    let starting = async {
        let started = engine.start(order).await?;
        let mut generation = Generation {
            worker: Arc::clone(worker),
            events: started.events,
            first: None,
            text: Some(Text::new(ask.stops)),
            end: None,
            prompt_tokens: started.prompt_tokens,
            completion_tokens: 0,
        };
        let first = generation.event().await?;
        worker.count_prompt(started.prompt_tokens);
        generation.first = Some(first);
        Ok(generation)
    };
    tokio::select! {
        generation = starting => generation,
        () = worker.stopping().cancelled() => Err(ApiError::Stopping),
    }
}

impl Generation {
    /// The next piece of the answer. After [`Piece::End`] or an error there is none.
    pub(crate) async fn next(&mut self) -> Result<Piece, ApiError> {
        loop {
            if let Some(finish) = self.end {
                return Ok(Piece::End(finish));
            }
            let event = match self.first.take() {
                Some(first) => first,
                None => {
                    let stopping = self.worker.stopping().clone();
                    tokio::select! {
                        event = self.event() => event?,
                        () = stopping.cancelled() => return Err(ApiError::Stopping),
                    }
                }
            };
            let shown = self.take(event);
            if !shown.is_empty() {
                return Ok(Piece::Text(shown));
            }
        }
    }

    /// How many tokens it was so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: self.prompt_tokens.saturating_add(self.completion_tokens),
        }
    }

    /// The text that may be shown after this event; notes the end if this is it.
    fn take(&mut self, event: Event) -> String {
        match event {
            Event::Token(bytes) => {
                self.completion_tokens = self.completion_tokens.saturating_add(1);
                self.worker.count_output();
                let Some(text) = &mut self.text else { return String::new() };
                let shown = text.push(&bytes);
                if shown.stopped {
                    self.finish(Finish::Stop);
                }
                shown.text
            }
            Event::Finished(finish) => {
                let rest = self.text.take().map(Text::finish).unwrap_or_default();
                self.finish(finish);
                rest
            }
        }
    }

    /// The engine is let go of at once: what is left to do is to tell the client, who may be slow.
    fn finish(&mut self, finish: Finish) {
        self.end = Some(finish);
        self.events = futures_util::stream::empty().boxed();
    }

    async fn event(&mut self) -> Result<Event, ApiError> {
        match self.events.next().await {
            Some(event) => Ok(event?),
            None => Err(EngineError::Failed("it ended without saying why".to_owned()).into()),
        }
    }
}

//! OpenAI's HTTP API over one inference engine: what a worker of the fleet speaks.
//!
//! [`Worker`] is the state of one worker process (what it serves, its slots, its counts), [`router`] the routes over it,
//! and [`Engine`] the port that an inference library is put behind. This crate knows no inference library and opens no
//! socket.
//!
//! The key decision: there is one way to generate, and it streams. An answer that is not streamed to the client is the
//! same stream collected here. So a client that leaves cancels its generation in both cases, because dropping the stream
//! is what cancels; and stop strings, whole characters and token counts are right in one place for both.
//!
//! Invariants:
//! - a streamed answer ends in `[DONE]` or in an error event, never in both, and in neither only if the connection broke;
//! - no frame holds part of a character, and none holds text from a stop string on;
//! - a request parameter that would change the answer is honoured or refused by name, never ignored;
//! - at most [`Settings::slots`] generations hold a slot, and a slot is free again only when the engine let go of it.

mod answer;
mod chat;
mod engine;
mod error;
mod generation;
mod request;
mod routes;
#[cfg(test)]
mod scripted;
mod text;
mod worker;

pub use engine::{
    Engine, EngineError, Event, Events, Finish, Message, Order, Prompt, Sampling, Slot, Started,
};
pub use routes::router;
pub use worker::{Settings, Worker};

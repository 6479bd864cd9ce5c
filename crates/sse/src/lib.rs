//! Server-sent events (WHATWG HTML, "Server-sent events"), for both directions.
//!
//! The peer is another process and may be broken or hostile, so the [`Decoder`] never holds more than the caller's bound
//! of one event, and says so when the bound is passed. It is not a client: it reconnects nothing and keeps no last id.
//!
//! Invariants: the events do not depend on how the bytes were cut into pieces; memory is bounded by the given limit plus
//! one piece; an event that was not ended by a blank line is never reported.

mod decode;
mod encode;

pub use decode::{Decoder, Event, Overlong, StreamError, events};
pub use encode::{comment, data, event};

//! HTTP/1.1 as bytes: what a request looks like, and what an answer's bytes mean (RFC 9112). Nothing is read or written here.
//!
//! It is strict where two readers could disagree about where an answer ends, and knows nothing of what nobody here asks for:
//! pipelining, upgrades, trailers.

mod head;
mod length;
mod request;

use std::error::Error;

pub use self::request::Preface;
pub(crate) use self::{
    head::{Head, head},
    length::Rest,
    request::Upload,
};

/// Why an exchange on an open connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It could not be written to or read from.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// It was closed before the answer was complete.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// What came back is no HTTP/1.1.
    #[error("what came back is no answer in HTTP/1.1: {0}")]
    Garbled(&'static str),
    /// The body to be sent failed, or was not as long as it said.
    #[error("the request's body could not be sent")]
    Body(#[source] Box<dyn Error + Send + Sync>),
}

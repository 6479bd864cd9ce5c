//! A typed async client of the queen's HTTP API, for command lines, tests and programs that live beside a queen.
//!
//! It is no OpenAI client: there are enough of those, and the queen speaks with them all. It retries nothing and keeps no
//! state but its connections.
//!
//! The key decision: an answer that has not reached its end is an error. [`QueenClient::infer`] yields events and then
//! either ends, behind the terminator, or yields one error; so whoever reads it to its end has the whole answer.
//!
//! Invariants:
//! - no redirect is followed, no proxy of the environment asked, nothing decompressed: the token goes to the queen only;
//! - every call ends: control calls by [`Timeouts::call`], streams when nothing came for [`Timeouts::silence`];
//! - what a newer queen says beyond this version is passed over.

mod client;
mod error;
mod streams;

pub use client::{DEFAULT_ADDRESS, QueenClient, Timeouts};
pub use error::{AddressError, ClientError, ClientErrorKind};
pub use streams::{Happening, collect};

//! Engines for the machines of a fleet, fetched once by the queen: a URL and a SHA-256 become a directory of this machine that
//! holds the engine's program and the libraries it wants beside it.
//!
//! It brings nothing to other machines and runs nothing; whoever starts hives over SSH asks for a directory and pushes what is
//! in it. It is the one place where the queen connects to anything but the hosts of its fleet.
//!
//! ```text
//!   <dir>/<sha256>.part ──whole, SHA-256 right──▶ <dir>/<sha256>.tmp/ ──unpacked, synced──▶ <dir>/<sha256>/
//! ```
//!
//! The key decision: what is kept has the name of its content. So a directory of the right-hand form is whole and right, however
//! the process that made it ended, and the same engine named by several entries is fetched once.
//!
//! Invariants:
//! - https only, or plain HTTP of this machine; at most five redirects, none of them from https to anything less;
//! - nothing is unpacked before the SHA-256 of all of it was right, and of an archive only plain files of the program's own
//!   directory come out;
//! - one transfer for one digest at a time, in a task of its own: whoever began it may leave;
//! - every wait has a bound, and a transfer that was cut goes on where it ended;
//! - a URL's query is never shown: it often carries a right to read.

mod error;
mod fetch;
mod store;
mod unpack;
mod web;

pub use error::EngineError;
pub use store::{Bounds, EngineStore, Progress};

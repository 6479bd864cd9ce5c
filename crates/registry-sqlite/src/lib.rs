//! What the queen remembers over restarts: the five storage ports of `fleet` on one SQLite file.
//!
//! A [`SqliteStore`] is one data directory, held by one process. It is not the place for anything that changes with
//! every request or heartbeat (workers, leases and queues live in memory), and it decides nothing about hives: the few
//! rules of a row (who wins when an entry and a row disagree, whose decision `desired` is) stand in one pure module that
//! the SQLite and the in-memory implementation share.
//!
//! The key decision: **an answer means durable.** One writer thread runs every change in an `IMMEDIATE` transaction on a
//! WAL database with `synchronous=FULL`, and the caller is answered after the commit. Reads have a thread and a
//! connection of their own, so that a slow disk or a locked file delays writers only. Callers are never blocked: a call
//! is a job on a bounded queue and a reply.
//!
//! Invariants:
//! - an acknowledged change survives `kill -9` and, as far as the disk keeps its word, power loss;
//! - a failed call changed nothing;
//! - a file that is not ours, is damaged or was written by a newer queen is refused and left exactly as it was; only a
//!   path where nothing is becomes a new database, by a rename of a finished one;
//! - two processes never share a data directory;
//! - nothing is written to a database file that was moved or deleted under us.
//!
//! A call whose future is dropped may still take effect.

mod cells;
mod error;
mod lane;
mod lock;
mod open;
mod ports;
mod rules;
mod schema;
mod session;
mod store;
mod words;

#[cfg(any(test, feature = "memory"))]
pub mod memory;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

#[cfg(any(test, feature = "aged"))]
pub mod aged;

pub use error::{DatabaseReplaced, OpenError, QueueFull};
pub use store::SqliteStore;

/// The program in the README is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

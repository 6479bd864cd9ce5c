//! The store before a server on loopback that does as it is told.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod archives;
mod fetching;
mod server;

//! The contract: its messages to the byte, its routes against every wrong input, its client against a served hive, and
//! the page that describes it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod client;
mod page;
mod router;
mod samples;
mod stub;

//! The real queen as a service: what it tells the service manager, and what it leaves to its successor.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod engine;
mod fetched;
mod keeping;
mod network;
mod service;
mod town;

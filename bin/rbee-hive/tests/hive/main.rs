//! The real program, launched by the real launcher, with a scripted engine.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod engine;
mod harness;
mod launching;
mod proxying;
mod storing;
mod working;

//! A store against a hub and peers that misbehave on request.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod hf_cache;
mod hub;
mod local;
mod transfers;

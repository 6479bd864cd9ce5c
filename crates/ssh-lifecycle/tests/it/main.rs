//! The crate against real SSH servers.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod errors;
mod with_sshd;

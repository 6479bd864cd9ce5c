//! The real hive, started over a real SSH server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod with_sshd;

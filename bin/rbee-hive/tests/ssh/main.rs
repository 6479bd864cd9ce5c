//! The real hive, started over a real SSH server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "figures that whoever asks for the long form reads")]

mod with_sshd;

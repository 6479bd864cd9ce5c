//! The crate against real SSH servers.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::print_stdout, reason = "`cargo xtask test` shows figures that tests print")]

mod errors;
mod hostile;
mod with_sshd;

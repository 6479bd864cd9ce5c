//! The command line as people call it, over real queens.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod adding;
mod asking;
mod keeper;
mod machines;
mod starting;

// The scripted engine of the queen's own tests.
#[path = "../../../queen-rbee/tests/it/engine.rs"]
mod engine;

// The queen's own harness: a home directory, the real programs, and their end.
#[path = "../../../queen-rbee/tests/it/town.rs"]
#[expect(dead_code, reason = "this package needs a part of it")]
mod town;

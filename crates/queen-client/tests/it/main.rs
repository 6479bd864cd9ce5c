//! The client against the queen's real surface, and against what is no queen.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod calls;
mod strangers;

// The surface's own harness: a whole queen over scripted hives, which no other crate should have to build again.
#[path = "../../../http-api/tests/it/rig.rs"]
#[expect(dead_code, reason = "this crate needs a part of it")]
mod rig;

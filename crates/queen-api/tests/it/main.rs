//! The messages as they are on the wire, and the page that shows them.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod page;
mod samples;

//! Log lines on standard error, and the ids by which requests are found in them.
//!
//! It keeps no log files and rotates none: that is what a service manager does. It knows nothing of the fleet.
//!
//! The key decision: logging must not be able to hurt. Lines go to a bounded queue that a thread of its own writes to
//! standard error, so a terminal that was stopped or a pipe that nobody reads delays no request; what does not fit, or
//! cannot be written because standard error is closed, is dropped and counted.
//!
//! Invariants:
//! - no call into `tracing` waits for standard error, and none ends the program;
//! - what was logged before the [`Guard`] is dropped is written before its drop returns, if standard error takes it
//!   within a second;
//! - control characters that a peer put into a field never reach the terminal.

mod output;
mod request_id;
mod subscriber;

pub use request_id::new_request_id;
pub use subscriber::{Format, Guard, InitError, Settings, init};

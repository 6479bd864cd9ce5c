//! Processes that this program starts, finds again after a restart, and ends.
//!
//! A process is started in a session and group of its own with nothing inherited but an allow-list of the environment
//! and three file descriptors ([`Program::spawn`]), and is from then on spoken of by its [`fleet::ProcessIdentity`]: pid,
//! start time and boot. [`Process::open`] turns such an identity back into something that can be signalled and waited for,
//! also when somebody else started it. This is not a supervisor: it restarts nothing and keeps no table.
//!
//! The key decision: output goes to a file, never through a pipe, so that a child cannot block on a reader that is slow
//! or dead, and lives on when its parent does not. Who waits for the process also keeps that file below its cap.
//!
//! Invariants:
//! - nothing is signalled unless pid, start time and boot id all match (on Linux checked while a pidfd pins the process,
//!   so that a pid used again in between cannot be hit);
//! - a zombie counts as dead, and a child that was waited for leaves none;
//! - when a process has ended, what is left of its group is ended too.

mod environment;
mod error;
mod identity;
mod log;
mod running;
mod spawn;

pub use environment::Environment;
pub use error::ProcessError;
pub use identity::{find_marked, is_alive, of, own};
pub use log::{DEFAULT_CAP, LogFile, tail};
pub use running::{Process, Signal, members_of_group, memory_of_group};
pub use spawn::{Child, Exit, Program};

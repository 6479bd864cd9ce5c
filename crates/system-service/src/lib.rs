//! The queen as a service of the system: the text of its unit file (systemd) or property list (launchd), putting that file
//! where it belongs, and telling the service manager when the queen is ready and when it stops.
//!
//! It runs no `systemctl` and asks nobody: making a file is undone by removing it, and the commands that put it to use are
//! for whoever reads them.
//!
//! The key decision: the service manager ends and restarts the queen's process only, never its hives. They live on for
//! the next queen (`--keep-hives`), so an upgrade or a crash of the queen reloads no model. Everything in the unit that
//! could reach the hives is chosen by that: which processes are killed, what happens when a worker runs out of memory,
//! and no sandbox that would be gone, or another one, after a restart.
//!
//! Invariants:
//! - no text of a path or an argument becomes a setting or is expanded: what cannot be written safely is refused;
//! - a file that differs is never replaced unasked.

mod install;
mod launchd;
mod notify;
mod service;
mod systemd;

pub use install::{InstallError, Installed, install};
pub use launchd::property_list;
pub use notify::{Notice, notify, notify_at};
pub use service::{Scope, Service, ServiceError};
pub use systemd::unit;

//! The queen's configuration: `queen.toml`, then `QUEEN_RBEE_*` variables, then flags, become one [`Config`] or
//! [`Faults`].
//!
//! It binds no port, makes no directory and starts nothing, and it parses no command line: `bin/queen-rbee` fills
//! [`Flags`]. What it reads of the machine is the file, the token's file and a few variables.
//!
//! The key decision: every key stands once, in the table of `keys.rs`, with its default and its description. Reading
//! takes the default from there, unknown keys are told from it, and [`reference()`] prints it, so the documentation
//! cannot drift from what is read. `figment` lays the sources over each other and knows where each value came from;
//! values are then read one by one, so that one wrong value hides no other.
//!
//! Invariants:
//! - a `Config` that exists is usable: addresses and paths are whole, no two hives share an id or a port of a machine,
//!   and a queen that other machines can reach has a token;
//! - all faults are reported at once, each with file, line and column or the variable or flag, what is wrong and what to
//!   write;
//! - no fault and no `Debug` shows a secret.

mod fault;
mod keys;
mod layers;
mod models;
mod source;
mod value;

mod config;
mod engines;
mod hives;
mod read;
mod resolve;

pub use config::{Config, Limits, Log, LogFormat, ModelSettings, Models, Pattern, Queue, Ssh, Timeouts};
pub use fault::{Fault, Faults, Origin};
pub use keys::reference;
pub use layers::{Flags, Surroundings};
pub use resolve::{load, load_from};

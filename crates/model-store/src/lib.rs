//! The model files of one machine.
//!
//! A [`ModelStore`] knows which models are complete below its directory, finds the file that a reference stands for, and
//! reads headers ([`gguf`]) without loading weights. A `file:` reference is served from where the file lies, but only
//! below directories that the owner named. The store starts no engine and speaks to no queen: what changes, it tells to
//! one listener ([`StoreChange`]).
//!
//! The key decision: a reference is resolved once and pinned. The index beside the files remembers which references led
//! to which files and digests, so a branch that moves at the hub never changes what a machine serves.
//!
//! Invariants:
//! - a model that is listed is complete: its files came in by rename after their digest was checked;
//! - no path outside the store and the named directories is opened, symbolic links included.

mod digest;
mod error;
mod header;
mod index;
mod local;
mod settings;
mod store;

pub use error::StoreError;
pub use header::Header;
pub use settings::StoreSettings;
pub use store::{Located, ModelStore, StoreChange};

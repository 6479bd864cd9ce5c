//! The model files of one machine.
//!
//! A [`ModelStore`] knows which models are complete below its directory, finds the file that a reference stands for, reads
//! headers ([`gguf`]) without loading weights, also of a model that is still at the hub, and brings models here from other
//! hives, from a hub or through the queen. A `file:` reference is served from where the file lies, but only below
//! directories that the owner named. A model that lies in the machine's Hugging Face cache is used there, and the cache is never
//! written to. The store starts no engine and decides nothing: what changes, it tells to one
//! listener ([`StoreChange`]).
//!
//! The key decision: a reference is resolved once and pinned. The index beside the files remembers which references led
//! to which files and digests, so a branch that moves at the hub never changes what a machine serves.
//!
//! Invariants:
//! - a model that is listed is complete: its files came in by rename after their digest was checked;
//! - at most one transfer of a resolved model is under way, in a task of its own that no asker's end cancels;
//! - a transfer ends: a source that stalls is resumed a bounded number of times;
//! - no path outside the store, the named directories and the Hugging Face cache is opened, symbolic links included.

mod error;
mod settings;

mod digest;
mod header;
mod index;
mod local;

mod hf_cache;

mod flight;
mod hub;
mod transfer;
mod web;

mod blob;
mod downloads;
mod remote;
mod store;
mod taking_up;

pub use blob::{Grant, Part, Reading};
pub use error::StoreError;
pub use flight::Download;
pub use header::{Header, HeaderFile};
pub use remote::Order;
pub use settings::StoreSettings;
pub use store::{Located, ModelStore, StoreChange};
pub use transfer::Peer;

//! What every implementation of a storage port has to do: one suite per port, each a function that takes a factory of
//! empty stores and panics, with the claim that does not hold, where one falls short.
//!
//! ```
//! # #[cfg(feature = "memory")]
//! # fn main() {
//! use std::sync::Arc;
//! use registry_sqlite::{conformance, memory::MemoryStore};
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
//! runtime.block_on(conformance::hive_registry(|| Arc::new(MemoryStore::new())));
//! # }
//! # #[cfg(not(feature = "memory"))]
//! # fn main() {}
//! ```

mod hives;
mod keys;
mod launches;
mod models;
mod observations;
mod samples;

pub use hives::hive_registry;
pub use keys::key_store;
pub use launches::launch_journal;
pub use models::model_catalog;
pub use observations::observation_store;
pub use samples::{attached, capabilities, local, network};

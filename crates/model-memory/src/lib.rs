//! How much memory a worker needs, told from its model's header, and which context fits into what is there.
//!
//! The queen asks the first before a byte of a model is downloaded, a hive the second when nobody says how long a context should
//! be. Pure arithmetic over the shape that a header describes; what a worker was seen to hold corrects it.
//!
//! Invariants: more context or more slots never need less; the context that fits never grows when there is less memory.

mod bytes;
mod shape;

pub use bytes::Gib;
pub use shape::{AttentionMemory, ModelShape, Need};

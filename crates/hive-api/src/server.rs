//! The serving side: what a hive implements, and the router that puts it on HTTP.

mod hive;
mod router;

pub use hive::{Blob, ByteRange, Hive, HiveResult, Progress, Watch};
pub use router::router;

//! What a queen and a hive say to each other: `docs/hive-api.md` in Rust.
//!
//! The queen dials, a hive never does. Each side of the contract is behind a feature: `server` is the [`server::Hive`]
//! trait and one router over it, `client` is [`client::HiveClient`]. A hive that serves through the router cannot differ
//! from another in paths, codes or order of checks, which is why the fake hive of the tests uses the same one.
//!
//! The key decision is the fence: every call carries the launch it is meant for, and it is checked before the token (but
//! for health, which tells it, and for another hive's reading of one file, which has a grant instead). A hive that was restarted since answers 409 `stale_launch`, so no request ever reaches a worker of another
//! launch.
//!
//! Invariants: `rev` grows by exactly one with each reported change, so a reader knows when it missed one; unknown fields
//! are ignored and unknown error codes and events tolerated, so that either side may be newer.

mod error;
mod launch;
mod messages;
mod watch;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod server;

pub use error::{ErrorBody, ErrorCode, ErrorDetail};
pub use launch::{HiveFile, SecretLine, SecretLineError};
pub use messages::{
    Attention, AttentionKind, BlobGrant, BlobWritten, CapabilitiesReply, DownloadReply, DownloadRequest,
    Health, InspectedFile, Inspection, LogsReply, ModelsReply, ShutdownReply, ShutdownRequest, Source,
    SpawnReply, SpawnRequest, StopWorkerRequest, WorkersReply,
};
pub use watch::{Beat, DeviceChange, ModelChange, Snapshot, WatchEvent, WatchEventError};

/// Version of this contract. A queen refuses a hive of another one by name.
pub const API_VERSION: u32 = 1;

/// Carries the launch that a request is meant for.
pub const LAUNCH_HEADER: &str = "x-rbee-launch";

/// Set by the hive on a proxied answer: the worker that gave it.
pub const WORKER_HEADER: &str = "x-rbee-worker";

/// Longest line or event of the watch and progress streams, in bytes.
pub const EVENT_MAX: usize = 1024 * 1024;

/// Longest JSON body that either side accepts, in bytes.
pub const BODY_MAX: usize = 8 * 1024 * 1024;

//! The watch stream: the queen's source of truth.

use fleet::{Capabilities, Device, DownloadRecord, HiveId, LaunchId, StoredModel, WorkerRecord};
use serde::{Deserialize, Serialize};

/// One event of `GET /v1/watch`.
///
/// The first one is a snapshot. Each further change has a `rev` one above that of the event before; a beat repeats the
/// last one. A reader that sees a gap reconnects.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// Everything, as it stands.
    Snapshot(Box<Snapshot>),
    /// A worker is new or changed.
    Worker(Box<WorkerRecord>),
    /// A model came into the store or left it.
    Model(ModelChange),
    /// A transfer is new or changed.
    Download(Box<DownloadRecord>),
    /// Free memory or disk changed; at most once a second.
    Device(DeviceChange),
    /// Nothing changed; once a second.
    Beat(Beat),
}

/// Everything a hive has to report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which hive.
    pub hive_id: HiveId,
    /// Which start of it.
    pub launch_id: LaunchId,
    /// The revision that this is true at.
    pub rev: u64,
    /// The machine.
    pub capabilities: Capabilities,
    /// All workers.
    pub workers: Vec<WorkerRecord>,
    /// All complete models.
    pub models: Vec<StoredModel>,
    /// Transfers under way.
    pub downloads: Vec<DownloadRecord>,
}

/// A model came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelChange {
    /// Who reports it.
    pub launch_id: LaunchId,
    /// The new revision.
    pub rev: u64,
    /// Whether it left.
    #[serde(default)]
    pub removed: bool,
    /// The model.
    #[serde(flatten)]
    pub model: StoredModel,
}

/// Free memory or disk changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceChange {
    /// Who reports it.
    pub launch_id: LaunchId,
    /// The new revision.
    pub rev: u64,
    /// All devices.
    pub devices: Vec<Device>,
    /// Free main memory, in bytes.
    pub ram_free: u64,
    /// Free disk below the model directory, in bytes.
    pub disk_free: u64,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who lives.
    pub launch_id: LaunchId,
    /// The revision of the last change.
    pub rev: u64,
}

/// Why an event of the stream could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the watch event {name:?} cannot be read")]
pub struct WatchEventError {
    name: String,
    #[source]
    source: serde_json::Error,
}

impl WatchEvent {
    /// The SSE event's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "snapshot",
            Self::Worker(_) => "worker",
            Self::Model(_) => "model",
            Self::Download(_) => "download",
            Self::Device(_) => "device",
            Self::Beat(_) => "beat",
        }
    }

    /// The launch that reports it.
    #[must_use]
    pub const fn launch_id(&self) -> &LaunchId {
        match self {
            Self::Snapshot(e) => &e.launch_id,
            Self::Worker(e) => &e.launch_id,
            Self::Model(e) => &e.launch_id,
            Self::Download(e) => &e.launch_id,
            Self::Device(e) => &e.launch_id,
            Self::Beat(e) => &e.launch_id,
        }
    }

    /// The revision that it brings, or for a beat repeats.
    #[must_use]
    pub const fn rev(&self) -> u64 {
        match self {
            Self::Snapshot(e) => e.rev,
            Self::Worker(e) => e.rev,
            Self::Model(e) => e.rev,
            Self::Download(e) => e.rev,
            Self::Device(e) => e.rev,
            Self::Beat(e) => e.rev,
        }
    }

    /// The SSE event's data: one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = match self {
            Self::Snapshot(e) => serde_json::to_string(e),
            Self::Worker(e) => serde_json::to_string(e),
            Self::Model(e) => serde_json::to_string(e),
            Self::Download(e) => serde_json::to_string(e),
            Self::Device(e) => serde_json::to_string(e),
            Self::Beat(e) => serde_json::to_string(e),
        };
        json.unwrap_or_else(|_| unreachable!("the types hold nothing that JSON cannot"))
    }

    /// Reads an SSE event. None for a name that this version does not know.
    ///
    /// # Errors
    /// A known name with data of another shape.
    pub fn parse(name: &str, data: &[u8]) -> Result<Option<Self>, WatchEventError> {
        fn read<'a, T: Deserialize<'a>>(name: &str, data: &'a [u8]) -> Result<T, WatchEventError> {
            serde_json::from_slice(data).map_err(|source| WatchEventError { name: name.to_owned(), source })
        }
        Ok(Some(match name {
            "snapshot" => Self::Snapshot(Box::new(read(name, data)?)),
            "worker" => Self::Worker(Box::new(read(name, data)?)),
            "model" => Self::Model(read(name, data)?),
            "download" => Self::Download(Box::new(read(name, data)?)),
            "device" => Self::Device(read(name, data)?),
            "beat" => Self::Beat(read(name, data)?),
            _ => return Ok(None),
        }))
    }
}

//! `/v1/models/catalog` and `/v1/models/ensure`.

use fleet::{Digest, HiveId, ModelRef, Resolved, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ErrorDetail;

/// `GET /v1/models/catalog`: every model that is known, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogReply {
    /// By their names.
    pub models: Vec<CatalogModel>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogModel {
    /// What to send as `model`.
    pub model_ref: ModelRef,
    /// Short names that stand for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Whether it is kept loaded.
    pub pinned: bool,
    /// Size of its files, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where it is, was to be, or is served.
    pub hives: Vec<CatalogHive>,
}

/// A model on one hive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogHive {
    /// The hive.
    pub hive_id: HiveId,
    /// Whether the files are there.
    pub state: CatalogHiveState,
    /// Why they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the reference stands for there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// SHA-256 of the (first) file, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When this was last written, for display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// Workers there that take requests.
    pub workers: u32,
}

/// Whether a hive has a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatalogHiveState {
    /// They are on their way.
    Downloading,
    /// They are there.
    Complete,
    /// They did not come, or were damaged.
    Failed,
    /// They were there, and the hive reports them no more.
    Missing,
}

/// `POST /v1/models/ensure`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnsureRequest {
    /// A reference or an alias.
    pub model: String,
    /// Where it should be; the queen's choice if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hive: Option<HiveId>,
}

/// An event of the answer to [`EnsureRequest`]. `complete` is followed by `[DONE]`, `error` is the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EnsureEvent {
    /// A hive is being chosen, or asked.
    Choosing,
    /// Bytes arrive.
    Downloading {
        /// Where.
        hive_id: HiveId,
        /// On disk so far.
        bytes: u64,
        /// When complete, once known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        /// Bytes per second.
        rate: u64,
    },
    /// All bytes are there and are being checked.
    Verifying {
        /// Where.
        hive_id: HiveId,
    },
    /// The model is there.
    Complete {
        /// Where.
        hive_id: HiveId,
        /// What the reference stands for.
        resolved: Resolved,
    },
    /// It is not.
    Error(ErrorDetail),
}

/// `DELETE /v1/models/catalog?ref=&hive=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveModelReply {
    /// Hives that have it no more.
    pub removed_from: Vec<HiveId>,
    /// Why others still have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

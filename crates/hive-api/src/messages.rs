//! Bodies of requests and answers. Sizes are bytes, durations milliseconds, and say so in their names.

use fleet::{
    Capabilities, DeviceSelector, Digest, DownloadId, DownloadState, HiveId, LaunchId, ModelFile, ModelRef,
    Pinned, Resolved, StoredModel, TlsFingerprint, Token, WorkerId, WorkerRecord, WorkerState,
};
use model_memory::{AttentionMemory, ModelShape};
use serde::{Deserialize, Serialize};

/// `GET /v1/health`: who answers. The one call without launch and token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or `draining`.
    pub status: String,
    /// Version of the hive program.
    pub version: String,
    /// [`crate::API_VERSION`] that it speaks.
    pub api_version: u32,
    /// Which hive this is.
    pub hive_id: HiveId,
    /// Which start of it.
    pub launch_id: LaunchId,
    /// Since that start.
    pub uptime_ms: u64,
}

/// `GET /v1/capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitiesReply {
    /// Who observed this.
    pub launch_id: LaunchId,
    /// When, in the order of its changes.
    pub rev: u64,
    /// The machine.
    #[serde(flatten)]
    pub capabilities: Capabilities,
}

/// `GET /v1/workers/list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkersReply {
    /// Who observed this.
    pub launch_id: LaunchId,
    /// When, in the order of its changes.
    pub rev: u64,
    /// All workers of the launch, ended ones for a while too.
    pub workers: Vec<WorkerRecord>,
}

/// `POST /v1/workers/spawn`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// The model, which must be in the store; also the name that the engine serves it by.
    pub model_ref: ModelRef,
    /// What the reference has to stand for; what the hive takes it for if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// The engine by name; the hive's preferred one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The device; the hive's preferred one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSelector>,
    /// Context of one slot, in tokens; the hive's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// How many requests at once; the hive's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Repeating a request with the same key within a launch answers with the same worker. 1 to 64 characters.
    pub idempotency_key: String,
}

/// 202 to a spawn. Further states come over the watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpawnReply {
    /// Who owns the worker.
    pub launch_id: LaunchId,
    /// The hive's revision at the answer.
    pub rev: u64,
    /// The new worker, or the one of the same key.
    pub worker_id: WorkerId,
    /// Where it will take requests.
    pub url: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: WorkerState,
}

/// `POST /v1/workers/{id}/stop`. An empty body means the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopWorkerRequest {
    /// How long running requests may take to finish; the hive's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// `GET /v1/models/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelsReply {
    /// Who observed this.
    pub launch_id: LaunchId,
    /// When, in the order of its changes.
    pub rev: u64,
    /// What is complete in the store.
    pub models: Vec<StoredModel>,
}

/// `GET /v1/models/inspect?ref=`: what the model's header tells, read from the store or, by range, at its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// What the reference stands for.
    pub resolved: Resolved,
    /// Its files, the one that an engine opens first.
    pub files: Vec<InspectedFile>,
    /// Size of all files together.
    pub bytes: u64,
    /// Architecture family, such as `llama`.
    pub arch: String,
    /// Number of blocks.
    pub layers: u32,
    /// Key and value heads of a block; the largest where blocks differ.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// How its attention remembers.
    pub attention: Attention,
    /// Size of the vocabulary.
    pub vocab: u32,
    /// Longest context that it was trained for, in tokens.
    pub context_max: u32,
    /// Name of the quantisation, such as `Q4_K_M`.
    pub quant: String,
}

impl Inspection {
    /// The resolution with all that another hive needs to get the same files; none if a size or a digest is not known.
    #[must_use]
    pub fn pinned(&self) -> Option<Pinned> {
        let file = |file: &InspectedFile| {
            Some(ModelFile { path: file.path.clone(), bytes: file.bytes?, digest: file.digest? })
        };
        let files = self.files.iter().map(file).collect::<Option<Vec<_>>>()?;
        Some(Pinned { resolved: self.resolved.clone(), files })
    }
}

/// More blocks than any model has: a header that says so is not believed.
const BLOCKS: u32 = 1024;

impl Inspection {
    /// What the need for memory is computed from; none if the header lacks something for it.
    #[must_use]
    pub fn shape(&self) -> Option<ModelShape> {
        let attention = &self.attention;
        let same = || vec![self.kv_heads; self.layers.min(BLOCKS) as usize];
        let memory = match attention.kind {
            AttentionKind::Full => AttentionMemory::Full,
            AttentionKind::SlidingWindow => AttentionMemory::Window(attention.window?),
            AttentionKind::Latent => AttentionMemory::Latent {
                rank: attention.kv_latent_rank?,
                rope: attention.rope_dim.unwrap_or(0),
            },
        };
        Some(ModelShape {
            bytes: self.bytes,
            kv_heads: attention.kv_heads_per_layer.clone().unwrap_or_else(same),
            head_dim: self.head_dim,
            memory,
            vocab: self.vocab,
            context_max: self.context_max,
        })
    }
}

/// One file of an inspected model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedFile {
    /// Its path in the repository, or an absolute one for a `file:` model.
    pub path: String,
    /// Its size, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its SHA-256, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What one token costs in the attention's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// The family.
    pub kind: AttentionKind,
    /// Tokens that a windowed block remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Key and value heads block by block, where they differ; 0 for a block without attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads_per_layer: Option<Vec<u32>>,
    /// Rank of the latent key and value, for [`AttentionKind::Latent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_latent_rank: Option<u32>,
    /// Width of the rotary part beside the latent, for [`AttentionKind::Latent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_dim: Option<u32>,
}

/// Families of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// Every block remembers the whole context (multi-head or grouped).
    Full,
    /// Some blocks remember a window only.
    SlidingWindow,
    /// A compressed latent in place of keys and values.
    Latent,
}

/// `POST /v1/models/download`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DownloadRequest {
    /// The model.
    pub model_ref: ModelRef,
    /// What the reference stands for from now on, whatever its source would say; the source is asked if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Pinned>,
    /// Files that other hives have, to be read there first, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Whether the queen brings what can be read from no other hive, before the hub is asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relayed: bool,
}

/// Another hive to copy a file from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// Its blob's URL, `…/v1/models/blob/{digest}`.
    pub url: String,
    /// What it asks for there: a grant for this one digest.
    #[serde(with = "crate::launch::token")]
    pub token: Token,
    /// The only certificate that it may show; absent where it is reached over plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<TlsFingerprint>,
}

/// 202 to a download. The same resolved model gives the same download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadReply {
    /// Who runs it.
    pub launch_id: LaunchId,
    /// The hive's revision at the answer.
    pub rev: u64,
    /// Its name.
    pub download_id: DownloadId,
    /// Where it stands.
    #[serde(flatten)]
    pub state: DownloadState,
}

/// `POST /v1/models/blob/{digest}/grant`: lets another hive read one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlobGrant {
    /// What the reader sends as bearer token. Good for this digest only, until it is idle for 10 minutes.
    #[serde(with = "crate::launch::token")]
    pub token: Token,
    /// Size of the file.
    pub bytes: u64,
}

/// `PUT /v1/models/blob/{digest}?offset=`: a part was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobWritten {
    /// Bytes of the file that are there now, from its start without a hole.
    pub bytes: u64,
}

/// `GET /v1/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsReply {
    /// The last lines, oldest first.
    pub lines: Vec<String>,
}

/// `POST /v1/shutdown`. An empty body means the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownRequest {
    /// How long running requests may take to finish; the hive's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// 202 to a shutdown: the hive stops its workers, then itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownReply {
    /// `stopping`.
    pub status: String,
}

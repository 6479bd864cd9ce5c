//! Models and transfers.

use fleet::{Digest, ModelRef, Resolved};
use serde::{Deserialize, Serialize};

use super::Cut;

/// One model that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelScript {
    /// How people name it.
    pub model_ref: ModelRef,
    /// What that stands for; derived from the reference if absent.
    #[serde(default)]
    pub resolved: Option<Resolved>,
    /// Whether it is in the store from the start.
    #[serde(default)]
    pub stored: bool,
    /// Size of its files together.
    #[serde(default = "ModelScript::default_bytes")]
    pub bytes: u64,
    /// How many files it is in.
    #[serde(default = "ModelScript::default_shards")]
    pub shards: u32,
    /// The digest that is claimed for its first file; the true one of the invented bytes if absent.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Memory of a worker that runs it.
    #[serde(default = "ModelScript::default_memory")]
    pub memory_bytes: u64,
    /// Longest context, in tokens.
    #[serde(default = "ModelScript::default_context")]
    pub context_max: u32,
    /// Name of the quantisation.
    #[serde(default = "ModelScript::default_quant")]
    pub quant: String,
    /// Number of blocks.
    #[serde(default = "ModelScript::default_layers")]
    pub layers: u32,
    /// Key and value heads of a block.
    #[serde(default = "ModelScript::default_kv_heads")]
    pub kv_heads: u32,
    /// Width of a head.
    #[serde(default = "ModelScript::default_head_dim")]
    pub head_dim: u32,
}

impl ModelScript {
    const fn default_bytes() -> u64 {
        256 << 10
    }

    const fn default_shards() -> u32 {
        1
    }

    const fn default_memory() -> u64 {
        1 << 30
    }

    const fn default_context() -> u32 {
        32_768
    }

    fn default_quant() -> String {
        "Q4_K_M".to_owned()
    }

    const fn default_layers() -> u32 {
        16
    }

    const fn default_kv_heads() -> u32 {
        8
    }

    const fn default_head_dim() -> u32 {
        64
    }

    /// A model of this name with the default figures: a file of 256 KiB, a worker of 1 GiB, 16 blocks of 8 heads of 64.
    #[must_use]
    pub fn of(model_ref: ModelRef) -> Self {
        Self {
            model_ref,
            resolved: None,
            stored: false,
            bytes: Self::default_bytes(),
            shards: Self::default_shards(),
            digest: None,
            memory_bytes: Self::default_memory(),
            context_max: Self::default_context(),
            quant: Self::default_quant(),
            layers: Self::default_layers(),
            kv_heads: Self::default_kv_heads(),
            head_dim: Self::default_head_dim(),
        }
    }

    /// The same model, in the store from the start.
    #[must_use]
    pub fn stored(self) -> Self {
        Self { stored: true, ..self }
    }
}

/// How transfers go. The default takes 100 ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DownloadScript {
    /// Bytes in a second; absent: the whole file in [`DownloadScript::duration_ms`].
    pub bytes_per_s: Option<u64>,
    /// How long a transfer takes.
    pub duration_ms: u64,
    /// How long it stays queued first.
    pub queued_ms: u64,
    /// How long the digest takes.
    pub verify_ms: u64,
    /// No further byte after this part, 0 to 1, until the script changes.
    pub stall_at: Option<f64>,
    /// Fails after this part, 0 to 1, with [`DownloadScript::fail_code`].
    pub fail_at: Option<f64>,
    /// Why it fails: `source_unreachable`, `storage_full` or another code of the contract.
    pub fail_code: String,
    /// All bytes come and do not match the digest: it fails with `digest_mismatch`.
    pub corrupt: bool,
    /// It completes although the bytes are wrong: workers on the model fail as `model_invalid`.
    pub corrupt_unnoticed: bool,
    /// Reported bytes jump back to none once, half-way.
    pub goes_backwards: bool,
    /// Reported bytes are that many times the true ones.
    pub exaggerate: u64,
    /// Whether the sources of the request are really read. Otherwise they are journalled and all comes from the hub.
    pub use_sources: bool,
    /// How long a transfer whose sources and hub failed waits for bytes that the queen brings.
    pub relay_patience_ms: u64,
    /// How each progress stream breaks off behind its first record, if it does; the transfer goes on.
    pub cut_progress: Option<Cut>,
}

impl Default for DownloadScript {
    fn default() -> Self {
        Self {
            bytes_per_s: None,
            duration_ms: 100,
            queued_ms: 0,
            verify_ms: 0,
            stall_at: None,
            fail_at: None,
            fail_code: "source_unreachable".to_owned(),
            corrupt: false,
            corrupt_unnoticed: false,
            goes_backwards: false,
            exaggerate: 1,
            use_sources: true,
            relay_patience_ms: 10_000,
            cut_progress: None,
        }
    }
}

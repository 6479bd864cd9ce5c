//! What an owner can set.

use std::{path::PathBuf, time::Duration};

use fleet::Token;

/// Where a store keeps its files and what it may read.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The store's own directory.
    pub dir: PathBuf,
    /// Directories besides it that `file:` references may point into.
    pub file_dirs: Vec<PathBuf>,
    /// The cache of Hugging Face's tools on this machine, of which models are used where they lie.
    pub hf_cache: Option<PathBuf>,
    /// Where `hf:` references are resolved, such as `https://huggingface.co`.
    pub hub_url: String,
    /// What the hub asks for at private and gated repositories.
    pub hub_token: Option<Token>,
    /// How long a source may send nothing.
    pub stall: Duration,
    /// How often a transfer is resumed at one source without having got much further.
    pub resumes: u32,
    /// What a transfer leaves free on the disk, in bytes.
    pub headroom: u64,
}

impl StoreSettings {
    /// A store with the usual bounds.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            file_dirs: Vec::new(),
            hf_cache: None,
            hub_url: "https://huggingface.co".to_owned(),
            hub_token: None,
            stall: Duration::from_secs(30),
            resumes: 3,
            headroom: 1024 * 1024 * 1024,
        }
    }
}

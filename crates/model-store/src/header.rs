//! What a model's header says, with the model's size and name.

use std::path::Path;

use fleet::{Digest, Resolved};
use gguf::ModelInfo;

use crate::StoreError;

/// A model's header together with what it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// What the reference stands for.
    pub resolved: Resolved,
    /// Its files, the one that an engine opens first.
    pub files: Vec<HeaderFile>,
    /// Size of all of them, in bytes.
    pub bytes: u64,
    /// What the header says.
    pub info: ModelInfo,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFile {
    /// Its path in the repository, or an absolute one for a file of the owner's.
    pub path: String,
    /// Its size, where known.
    pub bytes: Option<u64>,
    /// Its SHA-256, where known.
    pub digest: Option<Digest>,
}

/// Reads the header of a local file; blocks.
pub(crate) fn read(path: &Path) -> Result<(ModelInfo, u64), StoreError> {
    let invalid = |source| StoreError::Invalid { path: path.to_owned(), source };
    let file = gguf::read_file(path).map_err(invalid)?;
    let info = file.header.model().map_err(invalid)?;
    Ok((info, file.len))
}

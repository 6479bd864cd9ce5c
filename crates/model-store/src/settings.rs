//! What an owner can set.

use std::path::PathBuf;

/// Where a store keeps its files and what it may read.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The store's own directory.
    pub dir: PathBuf,
    /// Directories besides it that `file:` references may point into.
    pub file_dirs: Vec<PathBuf>,
}

//! Ending what a hive that is gone left behind.

use std::path::Path;

use crate::{
    launch::{DataDir, StartError},
    worker::Journal,
};

/// Ends every process that the journal of a data directory names and that still is the same one, and tells how many those
/// were. Nothing else is touched.
///
/// # Errors
/// When a hive still holds the directory, or the journal cannot be read or written.
pub async fn reap(data_dir: &Path) -> Result<u32, StartError> {
    if !data_dir.exists() {
        return Ok(0);
    }
    let dir = DataDir::lock(data_dir)?;
    let journal = Journal::open(dir.path())?;
    let mut ended = 0;
    for entry in journal.entries() {
        if let Some(process) = entry.find() {
            tracing::info!(worker_id = %entry.worker_id, pid = process.identity().pid, "ending a worker");
            if !process.kill().await? {
                tracing::warn!(worker_id = %entry.worker_id, "a worker does not end");
                continue;
            }
            ended += 1;
        }
        let removed = journal.remove(entry.worker_id).await;
        removed.map_err(|source| StartError::Io {
            action: "write the journal of",
            path: dir.path().to_owned(),
            source,
        })?;
    }
    // The hive it speaks of is gone, and whoever looks should not have to find that out again.
    dir.withdraw()?;
    Ok(ended)
}

//! Free disk.

use std::{io, path::Path};

/// Free space for this user on the file system of `path`, in bytes.
///
/// # Errors
/// When the path is not there.
pub fn disk_free(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

//! SHA-256 of files.

use std::{fs::File, io::Read, path::Path};

use fleet::Digest;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::StoreError;

/// Reads the whole file and tells how much it has read so far; blocks. Gives up with [`StoreError::Closing`] once `cancel` is cancelled.
pub(crate) fn of_file(
    path: &Path,
    cancel: &CancellationToken,
    mut read: impl FnMut(u64),
) -> Result<Digest, StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1024 * 1024];
    let mut so_far = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(StoreError::Closing);
        }
        let count = file.read(&mut piece).map_err(StoreError::io("read", path))?;
        if count == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(&piece[..count]);
        so_far += count as u64;
        read(so_far);
    }
}

/// Of a short text, for names.
pub(crate) fn of_text(text: &str) -> Digest {
    Digest::from_bytes(Sha256::digest(text.as_bytes()).into())
}

//! Files that other hives may read, by digest.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet::{Digest, Token};
use subtle::ConstantTimeEq;
use tokio::{fs::File, time::Instant};

use crate::StoreError;

/// How long a grant that nobody uses is good.
const IDLE: Duration = Duration::from_secs(600);

/// Permission to read one file.
#[derive(Debug, Clone)]
pub struct Grant {
    /// What the reader has to show.
    pub token: Token,
    /// Size of the file.
    pub bytes: u64,
}

/// A part of a stored file. Reading it keeps the grants of that file good.
#[derive(Debug)]
pub struct Part {
    /// The file, at the part's first byte.
    pub file: File,
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// Size of the whole file.
    pub total: u64,
    /// To be dropped when the part was read.
    pub reading: Reading,
}

/// A read that goes on.
#[derive(Debug)]
pub struct Reading {
    grants: Grants,
    digest: Digest,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.grants.use_all(&self.digest);
    }
}

/// Tokens of one file, each with its last use.
type Tokens = Vec<(Token, Instant)>;

#[derive(Debug, Clone, Default)]
pub(crate) struct Grants(Arc<Mutex<HashMap<Digest, Tokens>>>);

impl Grants {
    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Tokens>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for grants in table.values_mut() {
            grants.retain(|(_, used)| used.elapsed() < IDLE);
        }
        table.retain(|_, grants| !grants.is_empty());
        table
    }

    pub(crate) fn give(&self, digest: Digest) -> Result<Token, StoreError> {
        let failed = |error: String| StoreError::io("grant", "a file")(std::io::Error::other(error));
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| failed(error.to_string()))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let token: Token = text.parse().map_err(|error: fleet::TokenError| failed(error.to_string()))?;
        self.table().entry(digest).or_default().push((token.clone(), Instant::now()));
        Ok(token)
    }

    /// Whether a token opens the file; using it keeps it good.
    pub(crate) fn opens(&self, digest: &Digest, token: &str) -> bool {
        let mut table = self.table();
        let Some(grants) = table.get_mut(digest) else { return false };
        let found = grants
            .iter_mut()
            .find(|(known, _)| bool::from(known.reveal().as_bytes().ct_eq(token.as_bytes())));
        found.map(|(_, used)| *used = Instant::now()).is_some()
    }

    fn use_all(&self, digest: &Digest) {
        // Of grants that ran out while the read went on, which the table would drop.
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, used) in table.get_mut(digest).into_iter().flatten() {
            *used = Instant::now();
        }
    }

    /// Opens a part of a file for reading.
    pub(crate) async fn open(
        &self,
        digest: Digest,
        path: PathBuf,
        start: u64,
        end: Option<u64>,
    ) -> Result<Part, StoreError> {
        let failed = || StoreError::io("open", &path);
        let mut file = File::open(&path).await.map_err(failed())?;
        let total = file.metadata().await.map_err(failed())?.len();
        if start >= total {
            return Err(StoreError::Range { digest, total });
        }
        tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::Start(start)).await.map_err(failed())?;
        let end = end.unwrap_or(total).min(total);
        Ok(Part { file, start, end, total, reading: Reading { grants: self.clone(), digest } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_grant_opens_one_file_until_it_is_idle_for_ten_minutes() {
        let grants = Grants::default();
        let (one, other) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        let token = grants.give(one).unwrap();
        assert!(grants.opens(&one, token.reveal()));
        assert!(!grants.opens(&other, token.reveal()));
        assert!(!grants.opens(&one, "0123456789abcdef"));
        for _ in 0..5 {
            tokio::time::advance(IDLE - Duration::from_secs(1)).await;
            assert!(grants.opens(&one, token.reveal()), "using it keeps it good");
        }
        tokio::time::advance(IDLE).await;
        assert!(!grants.opens(&one, token.reveal()));
    }
}

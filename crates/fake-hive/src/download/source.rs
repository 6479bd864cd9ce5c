//! Bytes of a model from somewhere else than the invented hub: another hive, or what the queen has put there.

use std::time::Duration;

use fleet::{Digest, DownloadRecord, DownloadState, ModelFile};
use futures_util::StreamExt;
use hive_api::Source;
use sha2::{Digest as _, Sha256};

use crate::{state::Core, store::HASHED_MAX, wire::lock};

/// A source that says nothing for this long is given up.
const SOURCE_STALL: Duration = Duration::from_secs(5);

/// Progress is reported once in so many bytes.
const REPORT_BYTES: u64 = 64 << 10;

/// The digest that a blob's URL ends with.
fn digest_of(url: &str) -> Option<Digest> {
    url.rsplit('/').next()?.parse().ok()
}

/// What came of asking other hives.
pub(super) enum Tried {
    /// The file.
    Whole,
    /// Other bytes than it should have.
    Wrong,
    /// Nothing that could be used.
    Nothing,
}

/// Why another hive was of no use.
enum Useless {
    Wrong,
    Other(String),
}

impl Core {
    /// Waits until somebody brings the file. False if nothing came for as long as the script waits, or it was wrong.
    pub(super) async fn relayed(&self, record: &mut DownloadRecord, file: &ModelFile, from: u64) -> bool {
        let digest = file.digest;
        self.state().incoming.insert(digest, Vec::new());
        record.awaits = Some(digest);
        record.state = DownloadState::Downloading;
        self.state().report_download(record.clone());
        let whole = self.wait_for(record, file, from).await;
        record.awaits = None;
        let brought = self.state().incoming.remove(&digest).unwrap_or_default();
        whole && (file.bytes > HASHED_MAX || Sha256::digest(brought)[..] == digest.as_bytes()[..])
    }

    async fn wait_for(&self, record: &mut DownloadRecord, file: &ModelFile, from: u64) -> bool {
        loop {
            let patience = Duration::from_millis(self.script().download.relay_patience_ms);
            if tokio::time::timeout(patience, self.brought.notified()).await.is_err() {
                return false;
            }
            let have = self.state().incoming.get(&file.digest).map_or(0, |bytes| bytes.len() as u64);
            record.bytes = from + have;
            self.state().report_download(record.clone());
            if have >= file.bytes {
                return true;
            }
        }
    }

    /// Reads a file from one of these hives.
    pub(super) async fn fetch_from(
        &self,
        sources: &[Source],
        record: &mut DownloadRecord,
        file: &ModelFile,
        from: u64,
    ) -> Tried {
        if !self.script().download.use_sources {
            return Tried::Nothing;
        }
        let mut tried = Tried::Nothing;
        for source in sources.iter().filter(|source| digest_of(&source.url) == Some(file.digest)) {
            let reason = match self.read_source(source, record, file, from).await {
                Ok(()) => return Tried::Whole,
                Err(Useless::Wrong) => {
                    tried = Tried::Wrong;
                    "its bytes have another digest".to_owned()
                }
                Err(Useless::Other(reason)) => reason,
            };
            self.state().say(format!("source {} is of no use: {reason}", source.url));
        }
        tried
    }

    async fn read_source(
        &self,
        source: &Source,
        record: &mut DownloadRecord,
        file: &ModelFile,
        from: u64,
    ) -> Result<(), Useless> {
        let other = |reason: String| Useless::Other(reason);
        let http = http_client::builder(source.tls_fingerprint.into())
            .read_timeout(SOURCE_STALL)
            .build()
            .map_err(|e| other(e.to_string()))?;
        let answer = http.get(&source.url).bearer_auth(source.token.reveal()).send().await;
        let answer = answer.map_err(|e| match http_client::wrong_certificate(&e) {
            Some(wrong) => other(wrong.to_string()),
            None => other(e.without_url().to_string()),
        })?;
        if !answer.status().is_success() {
            return Err(other(format!("it answered {}", answer.status())));
        }
        let mut hash = Sha256::new();
        let (mut got, mut reported) = (0, 0);
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| other(e.without_url().to_string()))?;
            hash.update(&piece);
            got += piece.len() as u64;
            if got - reported >= REPORT_BYTES {
                reported = got;
                record.state = DownloadState::Downloading;
                record.bytes = from + got;
                self.state().report_download(record.clone());
            }
        }
        if got != file.bytes {
            return Err(other(format!("it gave {got} bytes of {}", file.bytes)));
        }
        let digest: [u8; 32] = hash.finalize().into();
        if file.bytes <= HASHED_MAX && Digest::from_bytes(digest) != file.digest {
            return Err(Useless::Wrong);
        }
        lock(&self.served_by).push(source.url.clone());
        Ok(())
    }
}

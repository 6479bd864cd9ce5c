//! Bytes of a model from somewhere else than the invented hub: another hive, or what the queen has put there.

use std::time::Duration;

use fleet::{Digest, DownloadRecord, DownloadState};
use futures_util::StreamExt;
use hive_api::Source;
use sha2::{Digest as _, Sha256};

use crate::{script::ModelScript, state::Core, store::HASHED_MAX, wire::lock};

/// A source that says nothing for this long is given up.
const SOURCE_STALL: Duration = Duration::from_secs(5);

/// Progress is reported once in so many bytes.
const REPORT_BYTES: u64 = 64 << 10;

/// The digest that a blob's URL ends with.
fn digest_of(url: &str) -> Option<Digest> {
    url.rsplit('/').next()?.parse().ok()
}

impl Core {
    /// Waits until somebody brings the file. False if nothing came for as long as the script waits, or it was wrong.
    pub(super) async fn relayed(&self, record: &mut DownloadRecord, model: &ModelScript) -> bool {
        let digest = self.digest_of(model);
        self.state().incoming.insert(digest, Vec::new());
        let whole = self.wait_for(&digest, record, model).await;
        let brought = self.state().incoming.remove(&digest).unwrap_or_default();
        whole && (model.bytes > HASHED_MAX || Sha256::digest(brought)[..] == digest.as_bytes()[..])
    }

    async fn wait_for(&self, digest: &Digest, record: &mut DownloadRecord, model: &ModelScript) -> bool {
        loop {
            let patience = Duration::from_millis(self.script().download.relay_patience_ms);
            if tokio::time::timeout(patience, self.brought.notified()).await.is_err() {
                return false;
            }
            let have = self.state().incoming.get(digest).map_or(0, |bytes| bytes.len() as u64);
            record.state = DownloadState::Downloading;
            record.bytes = have;
            self.state().report_download(record.clone());
            if have >= model.bytes {
                return true;
            }
        }
    }

    /// Reads the model from one of these hives. False if none of them gave the right bytes.
    pub(super) async fn fetch_from(
        &self,
        sources: &[Source],
        record: &mut DownloadRecord,
        model: &ModelScript,
    ) -> bool {
        if !self.script().download.use_sources {
            return false;
        }
        for source in sources {
            match self.read_source(source, record, model).await {
                Ok(()) => return true,
                Err(reason) => self.state().say(format!("source {} is of no use: {reason}", source.url)),
            }
        }
        false
    }

    async fn read_source(
        &self,
        source: &Source,
        record: &mut DownloadRecord,
        model: &ModelScript,
    ) -> Result<(), String> {
        let http = http_client::builder(source.tls_fingerprint.into())
            .read_timeout(SOURCE_STALL)
            .build()
            .map_err(|e| e.to_string())?;
        let answer = http.get(&source.url).bearer_auth(source.token.reveal()).send().await;
        let answer = answer.map_err(|e| match http_client::wrong_certificate(&e) {
            Some(wrong) => wrong.to_string(),
            None => e.without_url().to_string(),
        })?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let mut hash = Sha256::new();
        let (mut got, mut reported) = (0, 0);
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| e.without_url().to_string())?;
            hash.update(&piece);
            got += piece.len() as u64;
            if got - reported >= REPORT_BYTES {
                reported = got;
                record.state = DownloadState::Downloading;
                record.bytes = got;
                self.state().report_download(record.clone());
            }
        }
        if got != model.bytes {
            return Err(format!("it gave {got} bytes of {}", model.bytes));
        }
        let digest: [u8; 32] = hash.finalize().into();
        let wanted = digest_of(&source.url).ok_or("its url names no digest")?;
        if model.bytes <= HASHED_MAX && Digest::from_bytes(digest) != wanted {
            return Err("its bytes have another digest".to_owned());
        }
        lock(&self.served_by).push(source.url.clone());
        Ok(())
    }
}

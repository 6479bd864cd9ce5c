//! The contract, answered by the script's hive.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{body::Body, http::request::Parts, response::Response};
use fleet::{Digest, DownloadId, ModelRef, Token, WorkerId, WorkerRecord};
use hive_api::{
    API_VERSION, BlobGrant, CapabilitiesReply, DownloadReply, DownloadRequest, ErrorCode, Health, Inspection,
    ModelsReply, ShutdownRequest, SpawnReply, SpawnRequest, StopWorkerRequest, WorkersReply,
    server::{Blob, ByteRange, Hive, HiveResult, Progress, Watch},
};
use subtle::ConstantTimeEq;

use crate::{
    secret::random_token,
    state::{Core, refused},
    store::content,
};

/// The trait needs an owner that can be shared with tasks.
pub(crate) struct Served(pub(crate) Arc<Core>);

#[async_trait]
impl Hive for Served {
    fn health(&self) -> Health {
        let script = self.0.script();
        let claims = &script.claims;
        let state = self.0.state();
        Health {
            status: if state.draining { "draining" } else { "ok" }.to_owned(),
            version: claims.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            api_version: claims.api_version.unwrap_or(API_VERSION),
            hive_id: claims.hive_id.clone().unwrap_or_else(|| self.0.hive_id.clone()),
            launch_id: claims.health_launch_id.clone().unwrap_or_else(|| state.launch_id.clone()),
            uptime_ms: u64::try_from(state.launched.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn token(&self) -> &Token {
        &self.0.token
    }

    async fn capabilities(&self) -> HiveResult<CapabilitiesReply> {
        Ok(self.0.capabilities_reply())
    }

    async fn watch(&self) -> HiveResult<Watch> {
        Ok(self.0.watch_stream())
    }

    async fn workers(&self) -> HiveResult<WorkersReply> {
        self.0.workers_reply()
    }

    async fn spawn(&self, request: SpawnRequest) -> HiveResult<SpawnReply> {
        self.0.note_call(|call| {
            call.model = Some(request.model_ref.to_string());
            call.resolved = request.resolved.as_ref().map(ToString::to_string);
        });
        self.0.spawn_worker(request)
    }

    async fn stop_worker(&self, worker: &WorkerId, request: StopWorkerRequest) -> HiveResult<WorkerRecord> {
        self.0.stop_worker_now(worker, &request)
    }

    async fn models(&self) -> HiveResult<ModelsReply> {
        self.0.models_reply()
    }

    async fn inspect(&self, model: &ModelRef) -> HiveResult<Inspection> {
        self.0.note_call(|call| call.model = Some(model.to_string()));
        Ok(self.0.inspection(&self.0.find_model(model)?))
    }

    async fn download(&self, request: DownloadRequest) -> HiveResult<DownloadReply> {
        self.0.note_call(|call| {
            call.model = Some(request.model_ref.to_string());
            call.sources = request.sources.iter().map(|source| source.url.clone()).collect();
            call.resolved = request.pinned.as_ref().map(|pinned| pinned.resolved.to_string());
        });
        self.0.start_download(&request)
    }

    async fn download_progress(&self, download: &DownloadId) -> HiveResult<Progress> {
        self.0.follow_download(download)
    }

    async fn delete_model(&self, model: &ModelRef) -> HiveResult<()> {
        self.0.note_call(|call| call.model = Some(model.to_string()));
        let stored = self.0.find_stored(model)?;
        self.0.forget_model(&stored.record.resolved)
    }

    async fn grant_blob(&self, digest: &Digest) -> HiveResult<BlobGrant> {
        let (_, shard) = self.0.find_blob(digest)?;
        let token = random_token()
            .map_err(|e| refused(ErrorCode::Internal, format!("no randomness for a grant: {e}")))?;
        let mut state = self.0.state();
        let token = state.grants.entry(*digest).or_insert(token).clone();
        Ok(BlobGrant { token, bytes: shard.file.bytes })
    }

    fn blob_is_granted(&self, digest: &Digest, token: &str) -> bool {
        let state = self.0.state();
        let granted = state.grants.get(digest);
        granted.is_some_and(|granted| granted.reveal().as_bytes().ct_eq(token.as_bytes()).into())
    }

    async fn read_blob(&self, digest: &Digest, range: ByteRange) -> HiveResult<Blob> {
        let (stored, shard) = self.0.find_blob(digest)?;
        let total = shard.file.bytes;
        let end = range.end.unwrap_or(total).min(total);
        if range.start > end || (range.start == total && total > 0) {
            return Err(refused(ErrorCode::RangeNotSatisfiable, format!("the file has {total} bytes")));
        }
        let mut bytes = content(&shard.seed, range.start, end);
        if stored.corrupt
            && let Some(first) = bytes.first_mut()
        {
            *first ^= 1;
        }
        Ok(Blob { body: Body::from(bytes), start: range.start, end, total })
    }

    async fn write_blob(&self, digest: &Digest, offset: u64, body: Body) -> HiveResult<u64> {
        self.0.write_incoming(digest, offset, body).await
    }

    async fn logs(&self, worker: Option<&WorkerId>, lines: usize) -> HiveResult<Vec<String>> {
        let log: Vec<String> = match worker {
            None => self.0.state().log.iter().cloned().collect(),
            Some(id) if self.0.state().workers.contains_key(id) => self.0.script_of(id).log,
            Some(id) => return Err(refused(ErrorCode::NotFound, format!("this launch has no worker {id}"))),
        };
        Ok(log[log.len().saturating_sub(lines)..].to_vec())
    }

    async fn shutdown(&self, request: ShutdownRequest) -> HiveResult<()> {
        self.0.begin_shutdown(&request);
        Ok(())
    }

    fn metrics(&self) -> String {
        let state = self.0.state();
        format!(
            "# TYPE fake_hive_workers gauge\nfake_hive_workers {}\n# TYPE fake_hive_rev counter\nfake_hive_rev {}\n",
            state.workers.len(),
            state.rev
        )
    }

    async fn proxy(&self, worker: &WorkerId, head: Parts, body: Body) -> HiveResult<Response> {
        self.0.ask_worker(worker, head, body).await
    }
}

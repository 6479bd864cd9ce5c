//! A hive that answers with the samples.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Request, StatusCode, request::Parts},
    response::Response,
};
use fleet::{Digest, DownloadId, DownloadState, ModelRef, Token, WorkerId, WorkerRecord, WorkerState};
use futures_util::{StreamExt, stream};
use hive_api::{
    Beat, BlobGrant, CapabilitiesReply, DownloadReply, DownloadRequest, ErrorCode, ErrorDetail, Health,
    Inspection, ModelsReply, ShutdownRequest, SpawnReply, SpawnRequest, StopWorkerRequest, WatchEvent,
    WorkersReply,
    server::{Blob, ByteRange, Hive, HiveResult, Progress, Watch, router},
};
use tower_service::Service;

use crate::samples;

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const GRANT: &str = "3f0c9f5b1d7e4a86b2c8d4e09a7713bc";
pub(crate) const LAUNCH: &str = "l-5b8d5f91";
pub(crate) const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
pub(crate) const FILE: &[u8] = b"0123456789";

pub(crate) struct Stub {
    token: Token,
}

impl Stub {
    pub(crate) fn router() -> axum::Router {
        router(Arc::new(Self { token: TOKEN.parse().unwrap() }))
    }
}

/// A request that has launch and token.
pub(crate) fn allowed(method: &str, path: &str) -> axum::http::request::Builder {
    let request = Request::builder().method(method).uri(path).header("x-rbee-launch", LAUNCH);
    request.header("authorization", format!("Bearer {TOKEN}"))
}

pub(crate) async fn answer(request: Request<Body>) -> Response {
    Stub::router().call(request).await.unwrap()
}

fn missing(what: &str) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::NotFound, format!("there is no {what}"))
}

#[async_trait]
impl Hive for Stub {
    fn health(&self) -> Health {
        samples::health()
    }

    fn token(&self) -> &Token {
        &self.token
    }

    async fn capabilities(&self) -> HiveResult<CapabilitiesReply> {
        Ok(samples::capabilities_reply())
    }

    async fn watch(&self) -> HiveResult<Watch> {
        let beat = Beat { launch_id: LAUNCH.parse().unwrap(), rev: 43 };
        let events = [WatchEvent::Snapshot(Box::new(samples::snapshot())), WatchEvent::Beat(beat)];
        Ok(stream::iter(events).boxed())
    }

    async fn workers(&self) -> HiveResult<WorkersReply> {
        let workers = vec![samples::worker(WorkerState::Ready)];
        Ok(WorkersReply { launch_id: LAUNCH.parse().unwrap(), rev: 42, workers })
    }

    async fn spawn(&self, _: SpawnRequest) -> HiveResult<SpawnReply> {
        Ok(samples::spawn_reply())
    }

    async fn stop_worker(&self, worker: &WorkerId, request: StopWorkerRequest) -> HiveResult<WorkerRecord> {
        if worker.as_str() != "w-3" {
            return Err(missing("such worker"));
        }
        let state = if request.grace_ms == Some(0) { WorkerState::Stopping } else { WorkerState::Draining };
        Ok(samples::worker(state))
    }

    async fn models(&self) -> HiveResult<ModelsReply> {
        Ok(ModelsReply { launch_id: LAUNCH.parse().unwrap(), rev: 43, models: vec![samples::stored()] })
    }

    async fn inspect(&self, model: &ModelRef) -> HiveResult<Inspection> {
        // Every character that a reference may hold has come through.
        if model.to_string() == "hf:a/b+c@v=1,2:d.gguf" || model.to_string() == "hf:Qwen/Qwen3-8B-GGUF" {
            Ok(samples::inspection())
        } else {
            Err(ErrorDetail::new(ErrorCode::ModelNotFound, format!("no {model}")))
        }
    }

    async fn download(&self, _: DownloadRequest) -> HiveResult<DownloadReply> {
        Ok(samples::download_reply())
    }

    async fn download_progress(&self, download: &DownloadId) -> HiveResult<Progress> {
        if download.as_str() != "d-1f6bd2a0" {
            return Err(missing("such download"));
        }
        let states = [DownloadState::Downloading, DownloadState::Complete];
        Ok(stream::iter(states.map(samples::download)).boxed())
    }

    async fn delete_model(&self, _: &ModelRef) -> HiveResult<()> {
        Ok(())
    }

    async fn grant_blob(&self, _: &Digest) -> HiveResult<BlobGrant> {
        Ok(samples::grant())
    }

    fn blob_is_granted(&self, digest: &Digest, token: &str) -> bool {
        digest.to_string() == DIGEST && token == GRANT
    }

    async fn read_blob(&self, _: &Digest, range: ByteRange) -> HiveResult<Blob> {
        let total = FILE.len() as u64;
        let end = range.end.unwrap_or(total).min(total);
        if range.start >= end {
            return Err(ErrorDetail::new(ErrorCode::RangeNotSatisfiable, "the file has 10 bytes"));
        }
        let (from, to) = (usize::try_from(range.start).unwrap(), usize::try_from(end).unwrap());
        Ok(Blob { body: Body::from(&FILE[from..to]), start: range.start, end, total })
    }

    async fn write_blob(&self, _: &Digest, offset: u64, body: Body) -> HiveResult<u64> {
        let bytes = axum::body::to_bytes(body, 100 << 20).await.unwrap();
        Ok(offset + bytes.len() as u64)
    }

    async fn logs(&self, worker: Option<&WorkerId>, lines: usize) -> HiveResult<Vec<String>> {
        Ok(vec![format!("{} {lines}", worker.map_or("hive", WorkerId::as_str))])
    }

    async fn shutdown(&self, _: ShutdownRequest) -> HiveResult<()> {
        Ok(())
    }

    fn metrics(&self) -> String {
        "up 1\n".to_owned()
    }

    async fn proxy(&self, worker: &WorkerId, head: Parts, _: Body) -> HiveResult<Response> {
        if worker.as_str() != "w-3" {
            return Err(missing("such worker"));
        }
        let names: Vec<_> = head.headers.keys().map(axum::http::HeaderName::as_str).collect();
        let text = format!("{} {} {}", head.method, head.uri, names.join(","));
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response.headers_mut().insert("x-rbee-worker", "forged".parse().unwrap());
        Ok(response)
    }
}

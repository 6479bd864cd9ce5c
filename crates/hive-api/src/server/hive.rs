//! What a hive must be able to do.

use async_trait::async_trait;
use axum::{body::Body, http::request::Parts};
use fleet::{Digest, DownloadId, DownloadRecord, ModelRef, Token, WorkerId, WorkerRecord};
use futures_util::stream::BoxStream;

use crate::{
    BlobGrant, CapabilitiesReply, DownloadReply, DownloadRequest, ErrorDetail, Health, Inspection,
    ModelsReply, ShutdownRequest, SpawnReply, SpawnRequest, StopWorkerRequest, WatchEvent, WorkersReply,
};

/// What a call answers. The error's code gives the status.
pub type HiveResult<T> = Result<T, ErrorDetail>;

/// The events of one watcher; ends when the watcher fell too far behind or the hive stops.
pub type Watch = BoxStream<'static, WatchEvent>;

/// The records of one transfer; the last one is final.
pub type Progress = BoxStream<'static, DownloadRecord>;

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Behind the last byte; the file's end if absent.
    pub end: Option<u64>,
}

/// A part of a stored file, on its way.
pub struct Blob {
    /// The part.
    pub body: Body,
    /// Its first byte.
    pub start: u64,
    /// Behind its last byte.
    pub end: u64,
    /// Size of the whole file.
    pub total: u64,
}

/// One hive, real or scripted.
///
/// Paths, methods, status codes and the order of checks are the router's; an implementor never sees a request of another
/// launch or without the token.
#[async_trait]
pub trait Hive: Send + Sync + 'static {
    /// Who this is.
    fn health(&self) -> Health;

    /// What it asks for in `Authorization`.
    fn token(&self) -> &Token;

    /// The machine.
    async fn capabilities(&self) -> HiveResult<CapabilitiesReply>;

    /// A snapshot, then every change, with a beat each second.
    async fn watch(&self) -> HiveResult<Watch>;

    /// All workers.
    async fn workers(&self) -> HiveResult<WorkersReply>;

    /// Starts a worker, or finds the one of the same key.
    async fn spawn(&self, request: SpawnRequest) -> HiveResult<SpawnReply>;

    /// Begins to stop a worker: drain, stop, kill. Stopping one that is already over changes nothing.
    async fn stop_worker(&self, worker: &WorkerId, request: StopWorkerRequest) -> HiveResult<WorkerRecord>;

    /// All complete models.
    async fn models(&self) -> HiveResult<ModelsReply>;

    /// A model's header.
    async fn inspect(&self, model: &ModelRef) -> HiveResult<Inspection>;

    /// Starts a transfer, or finds the one of the same resolved model.
    async fn download(&self, request: DownloadRequest) -> HiveResult<DownloadReply>;

    /// Follows a transfer; of one that ended, its outcome.
    async fn download_progress(&self, download: &DownloadId) -> HiveResult<Progress>;

    /// Removes a model's files from the store. A `file:` model is only forgotten.
    async fn delete_model(&self, model: &ModelRef) -> HiveResult<()>;

    /// Lets another hive read one file.
    async fn grant_blob(&self, digest: &Digest) -> HiveResult<BlobGrant>;

    /// Whether a grant's token opens this file.
    fn blob_is_granted(&self, digest: &Digest, token: &str) -> bool;

    /// Reads a part of a stored file.
    async fn read_blob(&self, digest: &Digest, range: ByteRange) -> HiveResult<Blob>;

    /// Writes a part of a file that a transfer waits for; answers how many bytes it has now. A part begins where the file
    /// ends so far; any other is refused with [`crate::ErrorCode::RangeNotSatisfiable`] and `details.bytes`.
    async fn write_blob(&self, digest: &Digest, offset: u64, body: Body) -> HiveResult<u64>;

    /// The last lines of the hive's own log (`None`) or of a worker's.
    async fn logs(&self, worker: Option<&WorkerId>, lines: usize) -> HiveResult<Vec<String>>;

    /// Begins to stop all workers and then the hive.
    async fn shutdown(&self, request: ShutdownRequest) -> HiveResult<()>;

    /// Prometheus text.
    fn metrics(&self) -> String;

    /// Sends a request to a worker: `head` holds the path below the proxy prefix. Failures are answers too.
    async fn proxy(&self, worker: &WorkerId, head: Parts, body: Body)
    -> HiveResult<axum::response::Response>;
}

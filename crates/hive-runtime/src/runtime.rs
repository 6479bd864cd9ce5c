//! The hive itself: the contract's calls over the parts.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{body::Body, response::Response};
use fleet::{Digest, DownloadId, DownloadRecord, ModelRef, Token, WorkerId, WorkerRecord};
use futures_util::StreamExt;
use hive_api::{
    BlobGrant, CapabilitiesReply, DownloadReply, DownloadRequest, ErrorCode, ErrorDetail, Health, Inspection,
    ModelsReply, ShutdownRequest, Source, SpawnReply, SpawnRequest, StopWorkerRequest, WorkersReply,
    server::{Blob, ByteRange, Hive, HiveResult, Progress, Watch},
};
use http::request::Parts;
use model_store::{Download, ModelStore, Order as Wanted, Part, Peer};
use tokio::{io::AsyncReadExt, sync::watch, time::Instant};
use tokio_util::io::ReaderStream;

use crate::{
    board::Board,
    contact::{Contact, OpenCall},
    engine::{EngineSpec, choose},
    errors,
    launch::Launch,
    metrics,
    proxy::{Proxy, admission},
    settings::Settings,
    stopping::Stopping,
    workers::{Order, Workers},
};

/// One hive: implements the contract for this machine.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) launch: Launch,
    pub(crate) settings: Settings,
    pub(crate) log: PathBuf,
    pub(crate) board: Arc<Board>,
    pub(crate) store: ModelStore,
    pub(crate) engines: Vec<EngineSpec>,
    pub(crate) workers: Workers,
    pub(crate) proxy: Proxy,
    pub(crate) contact: Contact,
    pub(crate) stopping: Stopping,
    pub(crate) started: Instant,
}

fn no_worker(worker: &WorkerId) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::NotFound, format!("this launch has no worker {worker}"))
}

/// A queen that follows a transfer.
struct Following {
    records: watch::Receiver<Download>,
    board: Arc<Board>,
    _call: OpenCall,
    is_through: bool,
}

impl Following {
    async fn next(mut self) -> Option<(DownloadRecord, Self)> {
        if self.is_through || self.records.changed().await.is_err() {
            return None;
        }
        let id = self.records.borrow_and_update().id.clone();
        // The board has the record with its revision, and was told first.
        let record = self.board.download(&id)?;
        self.is_through = record.state.is_final();
        Some((record, self))
    }
}

/// Piece in which files go out, in bytes.
const BLOB_PIECE: usize = 256 * 1024;

/// Another hive's offer: the file's digest is the end of its URL.
fn peer(source: Source) -> HiveResult<Peer> {
    let refused = |reason: String| {
        ErrorDetail::new(ErrorCode::InvalidRequest, format!("source {}: {reason}", source.url))
    };
    let digest = source.url.rsplit('/').next().unwrap_or_default();
    let digest = digest.parse().map_err(|error: fleet::DigestError| refused(error.to_string()))?;
    let url = source.url.parse().map_err(|error: http::uri::InvalidUri| refused(error.to_string()))?;
    Ok(Peer { url, digest, token: source.token.clone(), pin: source.tls_fingerprint })
}

impl Runtime {
    fn spawned(&self, record: WorkerRecord) -> SpawnReply {
        SpawnReply {
            launch_id: record.launch_id,
            rev: self.board.rev(),
            worker_id: record.worker_id,
            url: record.url,
            state: record.state,
        }
    }

    /// Everything that a spawn request leaves open, decided.
    async fn order(&self, request: SpawnRequest) -> HiveResult<Order> {
        let which = request.resolved.as_ref().map_or_else(|| request.model_ref.clone(), ModelRef::from);
        let header = self.store.header(&which).await.map_err(|e| errors::of_store(&e))?;
        let located = self.store.locate(&which).await.map_err(|e| errors::of_store(&e))?;
        let (_, capabilities) = self.board.capabilities();
        let (engine, device) =
            choose(&self.engines, &capabilities.devices, request.engine.as_deref(), request.device)
                .map_err(|e| errors::of_engine(&e))?;
        let slots = request.slots.unwrap_or(self.settings.slots);
        let context = match (request.context, self.settings.context) {
            (Some(context), _) => context,
            (None, Some(usual)) => {
                let trained = header.info.context_length.and_then(|length| u32::try_from(length).ok());
                usual.min(trained.unwrap_or(u32::MAX)).max(1)
            }
            (None, None) => self.largest_context(header, slots, &capabilities, device).await,
        };
        Ok(Order {
            key: request.idempotency_key,
            model_ref: request.model_ref,
            model: located.model,
            path: located.path,
            projector: located.projector,
            engine: engine.clone(),
            device,
            context,
            slots,
        })
    }
}

#[async_trait]
impl Hive for Runtime {
    fn health(&self) -> Health {
        Health {
            status: if self.stopping.is_ordered() { "draining" } else { "ok" }.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: hive_api::API_VERSION,
            hive_id: self.launch.hive_id.clone(),
            launch_id: self.launch.launch_id.clone(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn token(&self) -> &Token {
        &self.launch.token
    }

    async fn capabilities(&self) -> HiveResult<CapabilitiesReply> {
        self.contact.heard();
        let (rev, capabilities) = self.board.capabilities();
        Ok(CapabilitiesReply { launch_id: self.launch.launch_id.clone(), rev, capabilities })
    }

    async fn watch(&self) -> HiveResult<Watch> {
        Ok(self.board.watch(self.contact.open()))
    }

    async fn workers(&self) -> HiveResult<WorkersReply> {
        self.contact.heard();
        let (rev, workers) = self.board.workers();
        Ok(WorkersReply { launch_id: self.launch.launch_id.clone(), rev, workers })
    }

    async fn spawn(&self, request: SpawnRequest) -> HiveResult<SpawnReply> {
        self.contact.heard();
        if let Some(record) = self.workers.of_key(&request.idempotency_key) {
            return Ok(self.spawned(record));
        }
        let order = self.order(request).await?;
        let (model, engine, device) = (order.model_ref.clone(), order.engine.name.clone(), order.device);
        let record = self.workers.start(order).map_err(|e| errors::of_start(&e))?;
        tracing::info!(worker_id = %record.worker_id, %model, engine, %device, "starting a worker");
        Ok(self.spawned(record))
    }

    async fn stop_worker(&self, worker: &WorkerId, request: StopWorkerRequest) -> HiveResult<WorkerRecord> {
        self.contact.heard();
        let grace = request.grace_ms.map_or(self.settings.drain, Duration::from_millis);
        self.workers.stop(worker, grace);
        self.board.worker(worker).ok_or_else(|| no_worker(worker))
    }

    async fn models(&self) -> HiveResult<ModelsReply> {
        self.contact.heard();
        let (rev, models) = self.board.models();
        Ok(ModelsReply { launch_id: self.launch.launch_id.clone(), rev, models })
    }

    async fn inspect(&self, model: &ModelRef) -> HiveResult<Inspection> {
        self.contact.heard();
        let header = self.store.inspect(model).await.map_err(|e| errors::of_store(&e))?;
        crate::inspection::of_header(header)
    }

    async fn download(&self, mut request: DownloadRequest) -> HiveResult<DownloadReply> {
        self.contact.heard();
        let peers = std::mem::take(&mut request.sources).into_iter().map(peer).collect::<HiveResult<_>>()?;
        let DownloadRequest { model_ref, pinned, relayed, .. } = request;
        let wanted = Wanted { model: model_ref, pinned, peers, relayed };
        let download = self.store.download(wanted).await.map_err(|e| errors::of_store(&e))?;
        Ok(DownloadReply {
            launch_id: self.launch.launch_id.clone(),
            rev: self.board.rev(),
            download_id: download.id,
            state: download.state,
        })
    }

    async fn download_progress(&self, download: &DownloadId) -> HiveResult<Progress> {
        self.contact.heard();
        let missing =
            || ErrorDetail::new(ErrorCode::NotFound, format!("this launch has no download {download}"));
        let mut records = self.store.follow(download).ok_or_else(missing)?;
        records.mark_changed();
        let (board, call) = (Arc::clone(&self.board), self.contact.open());
        let following = Following { records, board, _call: call, is_through: false };
        Ok(futures_util::stream::unfold(following, Following::next).boxed())
    }

    async fn delete_model(&self, model: &ModelRef) -> HiveResult<()> {
        self.contact.heard();
        let board = Arc::clone(&self.board);
        let in_use = move |resolved: &fleet::Resolved| {
            board.workers().1.iter().any(|worker| worker.resolved == *resolved && !worker.state.is_over())
        };
        self.store.delete(model, in_use).await.map_err(|e| errors::of_store(&e))
    }

    async fn grant_blob(&self, digest: &Digest) -> HiveResult<BlobGrant> {
        self.contact.heard();
        let grant = self.store.grant(digest).map_err(|e| errors::of_store(&e))?;
        Ok(BlobGrant { token: grant.token, bytes: grant.bytes })
    }

    fn blob_is_granted(&self, digest: &Digest, token: &str) -> bool {
        self.store.is_granted(digest, token)
    }

    async fn read_blob(&self, digest: &Digest, range: ByteRange) -> HiveResult<Blob> {
        let part = self.store.read(digest, range.start, range.end).await.map_err(|e| errors::of_store(&e))?;
        let Part { file, start, end, total, reading } = part;
        let pieces = ReaderStream::with_capacity(file.take(end - start), BLOB_PIECE);
        // The read keeps its grant good as long as it goes on.
        let pieces = pieces.inspect(move |_| _ = &reading);
        Ok(Blob { body: Body::from_stream(pieces), start, end, total })
    }

    async fn write_blob(&self, digest: &Digest, offset: u64, body: Body) -> HiveResult<u64> {
        self.contact.heard();
        let _call = self.contact.open();
        self.store.write(digest, offset, body.into_data_stream()).await.map_err(|e| errors::of_store(&e))
    }

    async fn logs(&self, worker: Option<&WorkerId>, lines: usize) -> HiveResult<Vec<String>> {
        self.contact.heard();
        let path = match worker {
            None => self.log.clone(),
            Some(worker) => {
                let path = self.workers.log(worker);
                if !path.exists() && self.board.worker(worker).is_none() {
                    return Err(no_worker(worker));
                }
                path
            }
        };
        let reading = tokio::task::spawn_blocking(move || process::tail(&path, lines));
        reading.await.map_err(|error| ErrorDetail::new(ErrorCode::Internal, error.to_string()))
    }

    async fn shutdown(&self, request: ShutdownRequest) -> HiveResult<()> {
        self.contact.heard();
        let grace = request.grace_ms.map_or(self.settings.drain, Duration::from_millis);
        tracing::info!(
            grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            "the queen asks to stop"
        );
        self.stopping.order(grace);
        Ok(())
    }

    fn metrics(&self) -> String {
        self.contact.heard();
        metrics::text(&self.board, self.started.elapsed())
    }

    async fn proxy(&self, worker: &WorkerId, head: Parts, body: Body) -> HiveResult<Response> {
        let call = self.contact.open();
        let not_ready = |state: &str| {
            let message = format!("worker {worker} takes no requests, it is {state}");
            ErrorDetail::new(ErrorCode::WorkerNotReady, message)
                .with_details(serde_json::json!({ "state": state, "sent": false }))
        };
        let record = self.board.worker(worker).ok_or_else(|| no_worker(worker))?;
        let state = record.state.name().as_str();
        let target = self.workers.target(worker).ok_or_else(|| not_ready(state))?;
        let admitted = target.traffic.admit(admission(&head.method));
        let held = admitted.ok_or_else(|| not_ready(state))?;
        let answer = self.proxy.forward(target.port, head, body, (held, call)).await;
        answer.map_err(|e| errors::of_proxy(&e))
    }
}

//! Models that are not here yet: their headers, and how they come.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use fleet::{Digest, DownloadId, DownloadState, ModelRef, Pinned};
use futures_util::Stream;
use tokio::{sync::watch, time::Instant};

use crate::{
    Download, Grant, Header, ModelStore, Part, Peer, StoreError,
    downloads::Asked,
    flight::Flight,
    hub::{RemoteFile, Resolution},
    index::Entry,
    store::Inner,
    transfer::{self, Failed, Transfer},
    web::{Ask, Whom},
};

/// How long an answer of the hub is good, so that the model whose header was read is the one that is fetched.
const RESOLVED_FOR: Duration = Duration::from_secs(600);

/// How many answers are remembered.
const RESOLVED_KEPT: usize = 256;

/// Longest wait of an asker for the hub. The question goes on in its own task, and its answer is remembered.
const RESOLVE: Duration = Duration::from_secs(4);

/// First part of a file that is asked for its header, and the largest, in bytes. A vocabulary makes a header of megabytes.
const HEADER_FIRST: usize = 2 * 1024 * 1024;
const HEADER_MAX: usize = 256 * 1024 * 1024;

/// What is to be brought here, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// The model.
    pub model: ModelRef,
    /// What that stands for, whatever the hub would say; the hub is asked if absent.
    pub pinned: Option<Pinned>,
    /// Other hives that have its files.
    pub peers: Vec<Peer>,
    /// Whether the queen brings what no peer gives, before the hub is asked.
    pub relayed: bool,
}

impl Order {
    /// The model as the hub has it now, from there.
    #[must_use]
    pub const fn of(model: ModelRef) -> Self {
        Self { model, pinned: None, peers: Vec::new(), relayed: false }
    }
}

/// What the hub said, for a while.
#[derive(Debug, Default)]
pub(crate) struct Resolutions(Mutex<HashMap<ModelRef, (Instant, Resolution)>>);

impl Resolutions {
    fn get(&self, model: &ModelRef) -> Option<Resolution> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, resolution) = known.get(model)?;
        (at.elapsed() < RESOLVED_FOR).then(|| resolution.clone())
    }

    fn put(&self, model: ModelRef, resolution: Resolution) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= RESOLVED_KEPT {
            known.retain(|_, (at, _)| at.elapsed() < RESOLVED_FOR);
        }
        if known.len() < RESOLVED_KEPT {
            known.insert(model, (Instant::now(), resolution));
        }
    }
}

impl ModelStore {
    /// The header of a model, read here or, by range, at the hub.
    ///
    /// # Errors
    /// When the model is neither here nor there, or is no model.
    pub async fn inspect(&self, model: &ModelRef) -> Result<Header, StoreError> {
        match self.header(model).await {
            Err(StoreError::NotStored { .. }) => {}
            found => return found,
        }
        let resolution = self.inner.resolve(model).await?;
        match self.inner.cached_header(&resolution).await {
            Some(header) => Ok(header),
            None => self.inner.remote_header(resolution).await,
        }
    }

    /// Brings a model here, or finds the transfer that does. It runs in a task of its own.
    ///
    /// # Errors
    /// When the reference cannot be resolved.
    pub async fn download(&self, order: Order) -> Result<Download, StoreError> {
        let model = &order.model;
        let resolution = match &order.pinned {
            Some(pinned) => self.inner.hub.pinned(pinned)?,
            None => match self.locate(model).await {
                Ok(located) => {
                    let stored = located.model;
                    return self.inner.downloads.found(model.clone(), &stored.resolved, stored.bytes);
                }
                Err(StoreError::NotStored { .. }) => self.resolve_soon(model).await?,
                Err(error) => return Err(error),
            },
        };
        if let Some(stored) = self.inner.also_named(model, &resolution).await? {
            return self.inner.downloads.found(model.clone(), &resolution.resolved, stored);
        }
        let asked = self.inner.downloads.ask(model.clone(), &resolution.resolved, resolution.bytes())?;
        let flight = match asked {
            Asked::Found(download) => return Ok(*download),
            Asked::New(flight) => flight,
        };
        let first = flight.view();
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move { inner.fly(&flight, order, resolution).await });
        Ok(first)
    }

    /// Asks the hub, which may take longer than a call does.
    async fn resolve_soon(&self, model: &ModelRef) -> Result<Resolution, StoreError> {
        let (inner, wanted) = (Arc::clone(&self.inner), model.clone());
        let resolving = self.inner.tasks.spawn(async move { inner.resolve(&wanted).await });
        match tokio::time::timeout(RESOLVE, resolving).await {
            Ok(joined) => joined.map_err(|_| StoreError::Closing)?,
            Err(_) => Err(StoreError::Source {
                source_name: self.inner.settings.hub_url.clone(),
                reason: format!("it takes longer than {RESOLVE:?} to name the files; ask again"),
            }),
        }
    }

    /// Follows a transfer; of one that is over, its outcome.
    #[must_use]
    pub fn follow(&self, download: &DownloadId) -> Option<watch::Receiver<Download>> {
        self.inner.downloads.follow(download)
    }

    /// Lets another hive read one file.
    ///
    /// # Errors
    /// When it is not here.
    pub fn grant(&self, digest: &Digest) -> Result<Grant, StoreError> {
        let (_, bytes) = self.inner.file_of(digest).ok_or(StoreError::NoBlob { digest: *digest })?;
        Ok(Grant { token: self.inner.grants.give(*digest)?, bytes })
    }

    /// Whether a grant's token opens a file.
    #[must_use]
    pub fn is_granted(&self, digest: &Digest, token: &str) -> bool {
        self.inner.grants.opens(digest, token)
    }

    /// A part of a file, `end` excluded.
    ///
    /// # Errors
    /// When the file is not here, or the part begins behind its end.
    pub async fn read(&self, digest: &Digest, start: u64, end: Option<u64>) -> Result<Part, StoreError> {
        let (path, _) = self.inner.file_of(digest).ok_or(StoreError::NoBlob { digest: *digest })?;
        self.inner.grants.open(*digest, path, start, end).await
    }

    /// Writes a part of a file that a transfer waits for; answers how much of it is here now.
    ///
    /// # Errors
    /// When no transfer waits for it, or the part does not begin where the file ends now.
    pub async fn write<E: std::fmt::Display>(
        &self,
        digest: &Digest,
        offset: u64,
        pieces: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<u64, StoreError> {
        let flight =
            self.inner.downloads.awaiting(digest).ok_or(StoreError::NotAwaited { digest: *digest })?;
        transfer::write(&flight, digest, offset, pieces).await
    }
}

impl Inner {
    async fn resolve(&self, model: &ModelRef) -> Result<Resolution, StoreError> {
        if let Some(resolution) = self.resolutions.get(model) {
            return Ok(resolution);
        }
        let resolution = match self.hub.resolve(model).await {
            Ok(resolution) => resolution,
            Err(error @ StoreError::Source { .. }) => return self.resolve_by_cache(model, error).await,
            Err(error) => return Err(error),
        };
        self.let_go_of_parts(&resolution)?;
        self.resolutions.put(model.clone(), resolution.clone());
        Ok(resolution)
    }

    /// What the Hugging Face cache has under that name, now that the hub cannot be asked. It is not remembered: the hub may be
    /// back in a moment.
    async fn resolve_by_cache(&self, model: &ModelRef, error: StoreError) -> Result<Resolution, StoreError> {
        let Some(cache) = self.cache.clone() else { return Err(error) };
        let wanted = model.clone();
        let looking = self.tasks.spawn_blocking(move || cache.resolve(&wanted));
        let Some(pinned) = looking.await.map_err(|_| StoreError::Closing)?? else { return Err(error) };
        let resolved = &pinned.resolved;
        tracing::warn!(%model, %resolved, %error, "the hub cannot be asked: taken from the Hugging Face cache");
        self.hub.pinned(&pinned)
    }

    async fn remote_header(&self, resolution: Resolution) -> Result<Header, StoreError> {
        let file = resolution.files.first().ok_or(StoreError::Closing)?;
        let failed =
            |reason: String| StoreError::Source { source_name: self.settings.hub_url.clone(), reason };
        let mut wanted = HEADER_FIRST;
        let header = loop {
            let to = Some(wanted as u64);
            let ask = Ask { bearer: self.hub.token(), from: Some(0), to, whom: Whom::Hub };
            let answer = self.web.get(&file.url, ask).await.map_err(failed)?;
            if !answer.status.is_success() {
                return Err(failed(format!("it answered {} for {}", answer.status, file.path)));
            }
            let prefix = answer.prefix(wanted).await.map_err(failed)?;
            match gguf::Header::parse(&prefix) {
                Err(gguf::Error::Truncated { needed }) if prefix.len() >= wanted && wanted < HEADER_MAX => {
                    let needed = usize::try_from(needed).unwrap_or(HEADER_MAX);
                    wanted = needed.max(wanted * 2).min(HEADER_MAX);
                }
                parsed => break parsed,
            }
        };
        let invalid = |source| StoreError::Invalid { path: file.path.clone().into(), source };
        let info = header.and_then(|header| header.model()).map_err(invalid)?;
        Ok(Header {
            bytes: resolution.bytes().unwrap_or(0),
            files: resolution.files.iter().map(RemoteFile::described).collect(),
            resolved: resolution.resolved,
            info,
        })
    }

    /// Brings a model's files here and takes it up.
    async fn fly(self: &Arc<Self>, flight: &Arc<Flight>, order: Order, resolution: Resolution) {
        let mut transfer = Transfer {
            settings: &self.settings,
            web: &self.web,
            hub_token: self.hub.token(),
            flight,
            resolution: &resolution,
            order: &order,
            closing: &self.closing,
            cached: Vec::new(),
        };
        let flying = async {
            let closing = || Failed::new("draining", "the hive is stopping");
            let _place = tokio::select! {
                place = self.downloads.places.acquire() => place.map_err(|_| closing())?,
                () = self.closing.cancelled() => return Err(closing()),
            };
            tokio::select! {
                files = async {
                    transfer.cached = self.from_cache(&resolution, Some(flight)).await;
                    transfer.run().await
                } => files,
                () = flight.tell() => Err(closing()),
            }
        };
        let ended = match flying.await {
            Ok(files) => {
                let entry =
                    Entry { resolved: resolution.resolved.clone(), refs: vec![order.model.clone()], files };
                self.keep(entry).map_err(|error| Failed::new("internal", error.to_string()))
            }
            Err(failed) => Err(failed),
        };
        let model = &resolution.resolved;
        let state = match ended {
            Ok(()) => {
                tracing::info!(%model, "a model is complete");
                DownloadState::Complete
            }
            Err(Failed { code, message }) => {
                tracing::warn!(%model, code, message, "a model did not come");
                DownloadState::Failed { code: code.to_owned(), message }
            }
        };
        self.downloads.end(flight, state);
    }
}

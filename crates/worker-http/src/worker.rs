//! The state of one worker process: what it serves, its slots, its counts, and where it stands.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Slot};
use crate::error::ApiError;

/// What a worker is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name requests must ask for.
    pub served_name: String,
    /// How many generations may run at once.
    pub slots: u16,
    /// How many requests may wait for a slot.
    pub waiting: usize,
}

/// One worker. It loads until [`Worker::ready`] was called, and serves until [`Worker::stop`] was.
pub struct Worker {
    settings: Settings,
    created: u64,
    engine: OnceLock<Arc<dyn Engine>>,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
    stopping: CancellationToken,
}

/// What `GET /rbee/status` answers. The token totals only grow, so their growth shows that the engine is alive.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    ready: bool,
    context: Option<u32>,
    slots: u16,
    slots_busy: usize,
    waiting: usize,
    prompt_tokens_total: u64,
    output_tokens_total: u64,
}

impl Worker {
    /// A worker whose model is still loading.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            slots: Arc::new(Semaphore::new(settings.slots.into())),
            settings,
            created,
            engine: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            prompt_tokens: AtomicU64::new(0),
            output_tokens: AtomicU64::new(0),
            stopping: CancellationToken::new(),
        }
    }

    /// The model is loaded. A second call changes nothing.
    pub fn ready(&self, engine: Arc<dyn Engine>) {
        if self.engine.set(engine).is_err() {
            tracing::warn!("the engine was set twice");
        }
    }

    /// Ends every generation with an error and refuses new ones.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    pub(crate) fn served_name(&self) -> &str {
        &self.settings.served_name
    }

    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    pub(crate) fn engine(&self) -> Result<&Arc<dyn Engine>, ApiError> {
        if self.stopping.is_cancelled() {
            return Err(ApiError::Stopping);
        }
        self.engine.get().ok_or(ApiError::Loading)
    }

    /// Waits for a free slot, first come first served.
    pub(crate) async fn slot(&self) -> Result<Slot, ApiError> {
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(Slot::new(permit));
        }
        let _place = self.place_in_queue()?;
        tokio::select! {
            // The semaphore is never closed, so an error here can only mean that the process is ending.
            permit = Arc::clone(&self.slots).acquire_owned() => permit.map(Slot::new).map_err(|_| ApiError::Stopping),
            () = self.stopping.cancelled() => Err(ApiError::Stopping),
        }
    }

    fn place_in_queue(&self) -> Result<Place<'_>, ApiError> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.waiting);
        if waiting < self.settings.waiting { Ok(place) } else { Err(ApiError::QueueFull { waiting }) }
    }

    pub(crate) fn count_prompt(&self, tokens: u32) {
        self.prompt_tokens.fetch_add(tokens.into(), Ordering::Relaxed);
    }

    pub(crate) fn count_output(&self) {
        self.output_tokens.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            ready: self.engine().is_ok(),
            context: self.engine.get().map(|engine| engine.context()),
            slots: self.settings.slots,
            slots_busy: usize::from(self.settings.slots).saturating_sub(self.slots.available_permits()),
            waiting: self.waiting.load(Ordering::Relaxed),
            prompt_tokens_total: self.prompt_tokens.load(Ordering::Relaxed),
            output_tokens_total: self.output_tokens.load(Ordering::Relaxed),
        }
    }
}

/// A place in the queue, given back when the wait ends in whatever way.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

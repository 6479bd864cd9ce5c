//! The flights under way, and the task of each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use fleet::{
    CatalogEntry, CatalogState, DownloadRecord, DownloadState, EventKind, HiveId, ModelCatalog, ModelRef,
    Resolved, StoreError, Timestamp,
};
use futures_util::StreamExt;
use hive_api::{
    DownloadRequest,
    client::{Connections, HiveClient},
};
use journal::Journal;
use registry_ram::WorkerRegistry;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Flight, Progress, ProvisionError};

/// Pause before a hive is asked again after its progress stream broke.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Times that flights are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Without a new byte for this long, a flight is given up. The hive itself resumes a transfer well before.
    pub stall: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        // Three resumes of 30 s at the hive, and some room.
        Self { stall: Duration::from_secs(150) }
    }
}

/// What the provisioner is made of.
pub struct Parts {
    /// The central catalog.
    pub catalog: Arc<dyn ModelCatalog>,
    /// What the hives report.
    pub registry: Arc<WorkerRegistry>,
    /// Connections to hives.
    pub connections: Connections,
    /// Where events go.
    pub journal: Journal,
    /// Times to judge by.
    pub settings: Settings,
}

/// A store and a model. Hives that share their files share a store.
type Key = (String, ModelRef);

/// Makes models available on hives.
pub struct ModelProvisioner {
    parts: Parts,
    flights: Mutex<HashMap<Key, Flight>>,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl ModelProvisioner {
    /// Nothing flies yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        Arc::new(Self { parts, flights: Mutex::default(), tracker, stopping })
    }

    /// The hives whose store holds the model, as far as the catalog knows what the reference stands for and the hives
    /// report it.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn hives_with(&self, model: &ModelRef) -> Result<Vec<HiveId>, StoreError> {
        let resolutions = self.resolutions(model).await?;
        let view = self.parts.registry.view();
        let has = |hive: &&Arc<registry_ram::HiveView>| resolutions.iter().any(|r| hive.has_model(r));
        Ok(view.hives().filter(has).map(|hive| hive.id.clone()).collect())
    }

    /// The whole catalog.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn catalog(&self) -> Result<Vec<CatalogEntry>, StoreError> {
        self.parts.catalog.entries().await
    }

    async fn resolutions(&self, model: &ModelRef) -> Result<Vec<Resolved>, StoreError> {
        if let ModelRef::File(_) = model {
            return Ok(vec![Resolved::from(model)]);
        }
        let entries = self.parts.catalog.of_model(model).await?;
        Ok(entries.into_iter().filter_map(|entry| entry.resolved).collect())
    }

    /// Sees to it that the hive has the model: at once if it has, by joining a flight that is under way, or by a new one.
    pub async fn ensure_model_available(self: &Arc<Self>, model: &ModelRef, hive_id: &HiveId) -> Flight {
        let view = self.parts.registry.view();
        let resolutions = self.resolutions(model).await.unwrap_or_default();
        if let Some(hive) = view.hive(hive_id)
            && let Some(resolved) = resolutions.into_iter().find(|r| hive.has_model(r))
        {
            return Flight::landed(resolved);
        }
        let store = view.hive(hive_id).and_then(|h| h.capabilities.as_ref()).map(|c| c.store_id.to_string());
        let key = (store.unwrap_or_else(|| format!("hive {hive_id}")), model.clone());
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let (sender, progress) = watch::channel(Progress::Asking);
        let flight = Flight { progress };
        flights.insert(key.clone(), flight.clone());
        let (this, hive_id) = (Arc::clone(self), hive_id.clone());
        self.tracker.spawn(async move {
            let outcome = tokio::select! {
                outcome = this.fly(&key.1, &hive_id, &sender) => outcome,
                () = this.stopping.cancelled() => {
                    Err(ProvisionError::HiveGone { hive_id: hive_id.clone(), model: key.1.clone() })
                }
            };
            // Out of the map before its end is told, so that whoever asks after that begins a new one.
            this.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_replace(match outcome {
                Ok(resolved) => Progress::Done(resolved),
                Err(error) => Progress::Failed(error),
            });
        });
        flight
    }

    async fn fly(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
        progress: &watch::Sender<Progress>,
    ) -> Result<Resolved, ProvisionError> {
        self.note(model, hive_id, CatalogState::Downloading, None).await;
        let event = |state| EventKind::Download { hive_id: hive_id.clone(), model_ref: model.clone(), state };
        self.parts.journal.record(event(DownloadState::Queued));
        let outcome = self.transfer(model, hive_id, progress).await;
        let (state, record) = match &outcome {
            Ok(record) => (CatalogState::Complete, Some(record)),
            Err(error) => (CatalogState::Failed { reason: error.to_string() }, None),
        };
        self.note(model, hive_id, state, record).await;
        self.parts.journal.record(event(match &outcome {
            Ok(_) => DownloadState::Complete,
            Err(error) => DownloadState::Failed {
                code: error.code().map_or_else(|| "unreachable".to_owned(), hive_api::ErrorCode::text),
                message: error.to_string(),
            },
        }));
        Ok(outcome?.resolved.unwrap_or_else(|| Resolved::from(model)))
    }

    fn client(&self, model: &ModelRef, hive_id: &HiveId) -> Result<HiveClient, ProvisionError> {
        let view = self.parts.registry.view();
        let endpoint = view.hive(hive_id).and_then(|hive| hive.endpoint.clone());
        let gone = || ProvisionError::HiveGone { hive_id: hive_id.clone(), model: model.clone() };
        endpoint.map(|e| self.parts.connections.client(e)).ok_or_else(gone)
    }

    /// Asks the hive and follows it. A progress stream that breaks is taken up again: the hive knows the transfer by its
    /// model, so asking twice is asking once.
    async fn transfer(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
        progress: &watch::Sender<Progress>,
    ) -> Result<DownloadRecord, ProvisionError> {
        let stall = self.parts.settings.stall;
        let mut last = (0, Instant::now());
        loop {
            let client = self.client(model, hive_id)?;
            let request = DownloadRequest { model_ref: model.clone(), sources: Vec::new() };
            let asked = client.download(&request).await;
            let failed = match asked {
                Err(error) => error,
                Ok(reply) => match client.download_progress(&reply.download_id).await {
                    Err(error) => error,
                    Ok(mut records) => loop {
                        match timeout_at(last.1 + stall, records.next()).await {
                            Err(_) => return Err(stalled(model, hive_id, stall, last.0)),
                            Ok(Some(Ok(record))) => {
                                if record.bytes != last.0 || matches!(record.state, DownloadState::Verifying)
                                {
                                    last = (record.bytes, Instant::now());
                                }
                                if let Some(outcome) = told(&record, model, hive_id, progress) {
                                    return outcome.map(|()| record);
                                }
                            }
                            Ok(Some(Err(error))) => break error,
                            // Without a final record the stream did not end, it broke.
                            Ok(None) => break broke(hive_id),
                        }
                    },
                },
            };
            let failed = ProvisionError::of(&failed, hive_id, model);
            if matches!(failed, ProvisionError::Refused { .. }) || last.1.elapsed() >= stall {
                return Err(failed);
            }
            tracing::debug!(%hive_id, %model, error = %failed, "asking again");
            sleep(ASK_AGAIN).await;
        }
    }

    async fn note(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
        state: CatalogState,
        record: Option<&DownloadRecord>,
    ) {
        let resolved = record.and_then(|r| r.resolved.clone());
        let digest = resolved
            .as_ref()
            .and_then(|resolved| self.parts.registry.view().hive(hive_id)?.models.get(resolved)?.digest);
        let entry = CatalogEntry {
            hive_id: hive_id.clone(),
            model_ref: model.clone(),
            resolved,
            state,
            bytes: record.and_then(|r| r.total.or(Some(r.bytes))),
            digest,
            updated_at: Timestamp::from(SystemTime::now()),
        };
        if let Err(error) = self.parts.catalog.put(entry).await {
            tracing::warn!(%hive_id, %model, %error, "the catalog could not be written");
        }
    }

    /// Ends all flights. The hives' transfers go on.
    pub async fn close(&self) {
        self.stopping.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn broke(hive_id: &HiveId) -> hive_api::client::ClientError {
    let kind = hive_api::client::ClientErrorKind::Unreachable {
        reason: "the progress stream ended early".to_owned(),
    };
    hive_api::client::ClientError { hive: hive_id.to_string(), action: "follow download", kind }
}

fn stalled(model: &ModelRef, hive_id: &HiveId, idle: Duration, bytes: u64) -> ProvisionError {
    ProvisionError::Stalled { hive_id: hive_id.clone(), model: model.clone(), idle, bytes }
}

/// Tells those who wait what a record says; its outcome if it is the last one.
fn told(
    record: &DownloadRecord,
    model: &ModelRef,
    hive_id: &HiveId,
    progress: &watch::Sender<Progress>,
) -> Option<Result<(), ProvisionError>> {
    match &record.state {
        DownloadState::Queued => None,
        DownloadState::Downloading => {
            let (bytes, total, rate) = (record.bytes, record.total, record.rate);
            progress.send_replace(Progress::Transferring { bytes, total, rate });
            None
        }
        DownloadState::Verifying => {
            progress.send_replace(Progress::Verifying);
            None
        }
        DownloadState::Complete => Some(Ok(())),
        DownloadState::Failed { code, message } => Some(Err(ProvisionError::Failed {
            hive_id: hive_id.clone(),
            model: model.clone(),
            code: code.clone(),
            message: message.clone(),
        })),
    }
}

//! The flights under way, and the task of each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use fleet::{
    CatalogEntry, CatalogState, DownloadRecord, DownloadState, EventKind, HiveId, ModelCatalog, ModelRef,
    Resolved, StoreError, Timestamp,
};
use hive_api::{
    DownloadRequest,
    client::{Connections, HiveClient},
};
use journal::Journal;
use registry_ram::WorkerRegistry;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Flight, Progress, ProvisionError,
    relay::relay,
    sources::Way,
    transfer::{Left, Moved, follow},
};

/// Pause before a hive is asked again after its progress stream broke.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How long a hive that said it has a model, or has it no more, may take to report it.
const REPORTED: Duration = Duration::from_secs(2);

/// Times that flights are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Without a new byte for this long, a flight is given up. The hive itself resumes a transfer well before.
    pub stall: Duration,
    /// A hive that does not get as far as taking the order for this long is not asked any more: others may be able.
    pub accept: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        // Three resumes of 30 s at the hive, and some room.
        Self { stall: Duration::from_secs(150), accept: Duration::from_secs(15) }
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
    pub(crate) parts: Parts,
    flights: Mutex<HashMap<Key, Flight>>,
    /// Whose turn it is at the hub.
    pub(crate) turns: Mutex<HashMap<ModelRef, Weak<tokio::sync::Mutex<()>>>>,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl ModelProvisioner {
    /// Nothing flies yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        Arc::new(Self { parts, flights: Mutex::default(), turns: Mutex::default(), tracker, stopping })
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

    /// What the reference stands for; until that is decided, whatever it was seen to stand for.
    pub(crate) async fn resolutions(&self, model: &ModelRef) -> Result<Vec<Resolved>, StoreError> {
        // A reference in which nothing is open stands for itself.
        let itself = Resolved::from(model);
        if let ModelRef::File(_) = model {
            return Ok(vec![itself]);
        }
        if let Some(pinned) = self.parts.catalog.pinned(model).await? {
            return Ok(vec![pinned.resolved]);
        }
        let entries = self.parts.catalog.of_model(model).await?;
        Ok(entries.into_iter().filter_map(|entry| entry.resolved).chain([itself]).collect())
    }

    /// Sees to it that the hive has the model: at once if it has, by joining a flight that is under way, or by a new one.
    pub async fn ensure_model_available(self: &Arc<Self>, model: &ModelRef, hive_id: &HiveId) -> Flight {
        let view = self.parts.registry.view();
        let resolutions = self.resolutions(model).await.unwrap_or_default();
        if let Some(hive) = view.hive(hive_id)
            && let Some(resolved) = resolutions.iter().find(|r| hive.has_model(r))
        {
            return Flight::landed(resolved.clone());
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
        let (model, hive_id) = (model.clone(), hive_id.clone());
        let lost = ProvisionError::Call {
            hive_id: hive_id.clone(),
            model: model.clone(),
            reason: "the queen failed on the way".to_owned(),
        };
        let landing =
            Landing { this: Arc::clone(self), key, progress: sender, end: Some(Progress::Failed(lost)) };
        self.tracker.spawn(async move {
            let this = Arc::clone(&landing.this);
            let flying = async {
                let (resolved, way) = this.fly(&model, &hive_id, &landing.progress).await?;
                landing.progress.send_replace(Progress::Done(resolved.clone()));
                // Whoever waited goes on; whoever comes next looks at what is reported, and joins this flight until then.
                this.until_reported(&hive_id, &resolved, true).await;
                drop(way);
                Ok(resolved)
            };
            let outcome = tokio::select! {
                outcome = flying => outcome,
                () = this.stopping.cancelled() => {
                    Err(ProvisionError::HiveGone { hive_id: hive_id.clone(), model: model.clone() })
                }
            };
            landing.land(match outcome {
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
    ) -> Result<(Resolved, Way), ProvisionError> {
        let way = self.way(model, hive_id).await;
        let known = way.pinned.as_ref();
        let noted = known.map(|pinned| pinned.resolved.clone());
        self.note(model, hive_id, CatalogState::Downloading, noted.clone(), None).await;
        planted::step("download-noted");
        let event = |state| EventKind::Download { hive_id: hive_id.clone(), model_ref: model.clone(), state };
        self.parts.journal.record(event(DownloadState::Queued));
        let outcome = self.transfer(model, hive_id, &way, progress).await;
        planted::step("download-over");
        let outcome = outcome.and_then(|record| {
            let resolved = record.resolved.clone().or(noted.clone()).unwrap_or_else(|| Resolved::from(model));
            match known.filter(|pinned| pinned.resolved != resolved) {
                Some(pinned) => Err(ProvisionError::Another {
                    hive_id: hive_id.clone(),
                    model: model.clone(),
                    wanted: pinned.resolved.clone(),
                    found: resolved,
                }),
                None => Ok((resolved, record)),
            }
        });
        if known.is_none()
            && let Ok((resolved, _)) = &outcome
        {
            self.decide_by(model, hive_id, resolved).await;
        }
        let (state, resolved, record) = match &outcome {
            Ok((resolved, record)) => (CatalogState::Complete, Some(resolved.clone()), Some(record)),
            Err(error) => (CatalogState::Failed { reason: error.to_string() }, noted, None),
        };
        self.note(model, hive_id, state, resolved, record).await;
        self.parts.journal.record(event(match &outcome {
            Ok(_) => DownloadState::Complete,
            Err(error) => DownloadState::Failed {
                code: error.code().map_or_else(|| "unreachable".to_owned(), hive_api::ErrorCode::text),
                message: error.to_string(),
            },
        }));
        match outcome {
            Ok((resolved, _)) => Ok((resolved, way)),
            Err(error) => {
                // What was taken away at the hub may be found under another revision.
                if error.is_about_the_model() {
                    self.unpin_if_nowhere(model).await;
                }
                Err(error)
            }
        }
    }

    /// A client of the hive's present launch, and what ends when that stops answering.
    pub(crate) fn client(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
    ) -> Result<(HiveClient, CancellationToken), ProvisionError> {
        let view = self.parts.registry.view();
        let hive = view.hive(hive_id).filter(|hive| !hive.lost.is_cancelled());
        let found = hive.and_then(|hive| Some((hive.endpoint.clone()?, hive.lost.clone())));
        let gone = || ProvisionError::HiveGone { hive_id: hive_id.clone(), model: model.clone() };
        found.map(|(endpoint, lost)| (self.parts.connections.client(endpoint), lost)).ok_or_else(gone)
    }

    /// Asks the hive and follows it. A progress stream that breaks is taken up again: the hive knows the transfer by its
    /// model, so asking twice is asking once.
    async fn transfer(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
        way: &Way,
        progress: &watch::Sender<Progress>,
    ) -> Result<DownloadRecord, ProvisionError> {
        let Settings { stall, accept } = self.parts.settings;
        let mut last = Moved::now(0);
        loop {
            let (client, lost) = self.client(model, hive_id)?;
            let request = DownloadRequest {
                model_ref: model.clone(),
                pinned: way.pinned.clone(),
                sources: self.sources(way).await,
                relayed: !way.holders.is_empty(),
            };
            let (awaits, awaited) = watch::channel(None);
            let followed = tokio::select! {
                followed = follow(&client, request, &mut last, stall, (progress, &awaits)) => followed,
                () = relay(&self.parts.connections, &client, &way.holders, awaited) => continue,
                // Who is lost may be back in a moment with all that it had; the next round sees to that.
                () = lost.cancelled() => Err(Left::Broke("it stopped answering".to_owned())),
            };
            let reason = match followed {
                Ok(record) => return Ok(record),
                Err(Left::Ended(error)) => return Err(error),
                Err(Left::Broke(reason)) => reason,
            };
            let bound = if last.begun { stall } else { accept.min(stall) };
            if last.at.elapsed() >= bound {
                let (hive_id, model) = (hive_id.clone(), model.clone());
                return Err(ProvisionError::Call { hive_id, model, reason });
            }
            tracing::debug!(%hive_id, %model, reason, "asking again");
            sleep(ASK_AGAIN).await;
        }
    }

    /// Waits a moment until the hive reports that it has the model, or has it no more.
    pub(crate) async fn until_reported(&self, hive_id: &HiveId, resolved: &Resolved, has: bool) {
        let mut changes = self.parts.registry.changes();
        let reported = async {
            while self.parts.registry.view().hive(hive_id).is_some_and(|h| h.has_model(resolved) != has) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // What was not seen by then is told by the next snapshot.
        let _ = timeout(REPORTED, reported).await;
    }

    pub(crate) async fn note(
        &self,
        model: &ModelRef,
        hive_id: &HiveId,
        state: CatalogState,
        resolved: Option<Resolved>,
        record: Option<&DownloadRecord>,
    ) {
        let pinned = self.pinned(model).await.filter(|pinned| Some(&pinned.resolved) == resolved.as_ref());
        let reported = || self.parts.registry.view().hive(hive_id)?.models.get(resolved.as_ref()?)?.digest;
        let digest = pinned.and_then(|pinned| Some(pinned.files.first()?.digest)).or_else(reported);
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

/// Takes a flight out of the map, so that whoever asks after that begins a new one, and then tells its end. Dropped by a
/// task that panicked, it does the same.
struct Landing {
    this: Arc<ModelProvisioner>,
    key: Key,
    progress: watch::Sender<Progress>,
    end: Option<Progress>,
}

impl Landing {
    fn land(mut self, end: Progress) {
        self.end = Some(end);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.this.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        if let Some(end) = self.end.take() {
            self.progress.send_replace(end);
        }
    }
}

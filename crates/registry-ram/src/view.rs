//! The fleet at one moment.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use fleet::{
    Capabilities, DownloadId, DownloadRecord, HiveEndpoint, HiveId, HivePhase, LaunchId, ModelRef, Resolved,
    StoredModel, WorkerId, WorkerRecord,
};

use tokio_util::sync::CancellationToken;

use crate::{Lease, lease::Load};

/// All hives at one moment. Cheap to keep, never changes.
#[derive(Debug, Default, Clone)]
pub struct FleetView {
    pub(crate) hives: BTreeMap<HiveId, Arc<HiveView>>,
    /// Ready workers of online hives, by the model they serve.
    pub(crate) serving: HashMap<ModelRef, Vec<Arc<WorkerView>>>,
}

impl FleetView {
    /// All hives, by id.
    pub fn hives(&self) -> impl Iterator<Item = &Arc<HiveView>> {
        self.hives.values()
    }

    /// One hive.
    #[must_use]
    pub fn hive(&self, id: &HiveId) -> Option<&Arc<HiveView>> {
        self.hives.get(id)
    }

    /// All workers of all hives.
    pub fn workers(&self) -> impl Iterator<Item = &Arc<WorkerView>> {
        self.hives.values().flat_map(|hive| hive.workers.values())
    }

    /// The workers that may be sent requests for a model.
    #[must_use]
    pub fn serving(&self, model: &ModelRef) -> &[Arc<WorkerView>] {
        self.serving.get(model).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn index(&mut self) {
        self.serving.clear();
        let online = self.hives.values().filter(|hive| hive.phase == HivePhase::Online);
        for worker in online.flat_map(|hive| hive.workers.values()).filter(|w| w.record.state.is_ready()) {
            self.serving.entry(worker.record.model_ref.clone()).or_default().push(Arc::clone(worker));
        }
    }
}

/// One hive at one moment.
#[derive(Debug, Clone)]
pub struct HiveView {
    /// Its id.
    pub id: HiveId,
    /// Where it stands.
    pub phase: HivePhase,
    /// Where its owner says that it stands.
    pub region: Option<Arc<str>>,
    /// To it and back, as last measured; zero before.
    pub round_trip: Duration,
    /// Why it stands there, where that is not obvious.
    pub reason: Option<String>,
    /// Where it takes requests, while there is a launch.
    pub endpoint: Option<HiveEndpoint>,
    /// The last revision that was applied; none before the first snapshot of a launch.
    pub rev: Option<u64>,
    /// Whether demand starts and stops it: its owner said so, and nobody decided otherwise since. In the phase `offline` it
    /// waits for a request that needs it.
    pub on_demand: bool,
    /// What it reported of its machine, at the latest before this queen started. Kept while it is away.
    pub capabilities: Option<Capabilities>,
    /// Its workers, ended ones too as long as it reports them.
    pub workers: BTreeMap<WorkerId, Arc<WorkerView>>,
    /// What is complete in its store.
    pub models: BTreeMap<Resolved, StoredModel>,
    /// Its transfers.
    pub downloads: BTreeMap<DownloadId, DownloadRecord>,
    /// Cancelled when the hive stops answering or its launch is over: whoever waits for bytes of it stops waiting.
    pub lost: CancellationToken,
}

impl HiveView {
    pub(crate) fn new(id: HiveId) -> Self {
        Self {
            id,
            phase: HivePhase::Offline,
            region: None,
            round_trip: Duration::ZERO,
            reason: None,
            endpoint: None,
            rev: None,
            on_demand: false,
            capabilities: None,
            workers: BTreeMap::new(),
            models: BTreeMap::new(),
            downloads: BTreeMap::new(),
            lost: CancellationToken::new(),
        }
    }

    /// The launch that it was last seen in.
    #[must_use]
    pub fn launch_id(&self) -> Option<&LaunchId> {
        self.endpoint.as_ref().map(|e| &e.launch_id)
    }

    /// Whether its store holds what a reference was resolved to.
    #[must_use]
    pub fn has_model(&self, resolved: &Resolved) -> bool {
        self.models.contains_key(resolved)
    }
}

/// One worker at one moment.
#[derive(Debug, Clone)]
pub struct WorkerView {
    /// The hive that owns it.
    pub hive_id: HiveId,
    /// What its hive reported last.
    pub record: WorkerRecord,
    pub(crate) load: Arc<Load>,
}

impl WorkerView {
    /// Requests that the queen has under way on it.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    /// Takes one slot, if one is free.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        self.load.take(self.record.slots)
    }

    /// How long none has been under way, at most since the queen knows of it; none if one is.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        self.load.idle()
    }
}

//! What the queen remembers over restarts.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    ApiKeyId, Capabilities, Desired, DesiredBy, DeviceSelector, Digest, HiveId, HiveRecord, HiveSpec,
    HiveStatus, LaunchId, ModelRef, Pinned, ProcessIdentity, Resolved, RunningHive, Timestamp,
    TlsFingerprint,
};

/// Why the store did not do what it was asked. Nothing of a failed call remains.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else holds the database; worth another try.
    #[error("the database is locked by another process ({action})")]
    Locked {
        /// What was attempted.
        action: &'static str,
    },
    /// No space is left on the disk.
    #[error("the disk of the database is full ({action})")]
    Full {
        /// What was attempted.
        action: &'static str,
    },
    /// The file or its directory cannot be written.
    #[error("the database cannot be written ({action})")]
    ReadOnly {
        /// What was attempted.
        action: &'static str,
    },
    /// A row that this version cannot read.
    #[error("{table} row {key:?} cannot be read: {reason}")]
    Row {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The row that the call is about is not there.
    #[error("no row {key:?} in {table} ({action})")]
    NotFound {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// What was attempted.
        action: &'static str,
    },
    /// The store is closed, or its writer is gone.
    #[error("the database is closed ({action})")]
    Closed {
        /// What was attempted.
        action: &'static str,
    },
    /// Anything else the database said.
    #[error("the database failed ({action})")]
    Other {
        /// What was attempted.
        action: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What registering a hive did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// There was none of that id.
    Created,
    /// The same hive was registered already; its region, labels, start policy and token are now the given ones.
    Unchanged,
    /// Another hive has that id, and stays as it is.
    Conflict {
        /// What is registered under the id.
        existing: Box<HiveSpec>,
    },
}

/// What the queen saw of a hive, for the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedHive {
    /// The stored state.
    pub status: HiveStatus,
    /// When it last answered; absent leaves the row's value.
    pub last_seen: Option<Timestamp>,
    /// What it reported; absent leaves the row's value.
    pub capabilities: Option<Capabilities>,
}

/// The registered hives.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait HiveRegistry: Send + Sync {
    /// Registers a hive over the API. Idempotent; a different connection under the same id is a conflict.
    async fn register(&self, spec: HiveSpec) -> Result<Registration, StoreError>;

    /// Makes the rows of source `config` be exactly these: upserts each, and has those leave whose entry is gone. An entry
    /// wins over the row for connection data; the row keeps `desired`. Returns the rows that leave from now on.
    async fn sync_config(&self, specs: Vec<HiveSpec>) -> Result<Vec<HiveRecord>, StoreError>;

    /// The row of one hive.
    async fn get(&self, id: &HiveId) -> Result<Option<HiveRecord>, StoreError>;

    /// All rows, by id. A row that cannot be read does not hide the others: it comes as an error of its own.
    async fn list(&self) -> Result<Vec<Result<HiveRecord, StoreError>>, StoreError>;

    /// What should be true of a hive's process, and who says so. [`DesiredBy::Placement`] changes nothing where a person
    /// decided otherwise; the answer tells what holds now.
    async fn set_desired(
        &self,
        id: &HiveId,
        desired: Desired,
        by: DesiredBy,
    ) -> Result<(Desired, DesiredBy), StoreError>;

    /// What the queen saw.
    async fn observe(&self, id: &HiveId, seen: ObservedHive) -> Result<(), StoreError>;

    /// Notes that a hive leaves: from now on its row shows in [`HiveRegistry::leaving`] only, and its id is free for another
    /// one, which takes the row over. False if there was none, or it leaves already.
    async fn leave(&self, id: &HiveId) -> Result<bool, StoreError>;

    /// The rows of hives that leave, by id: whatever still runs of them has to be ended before they are removed.
    async fn leaving(&self) -> Result<Vec<Result<HiveRecord, StoreError>>, StoreError>;

    /// Removes a row, whether it leaves or not. False if there was none.
    async fn remove(&self, id: &HiveId) -> Result<bool, StoreError>;
}

/// How far a launch got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchStep {
    /// Nothing was done yet.
    Intended,
    /// A process exists.
    Spawned,
    /// It answered for itself.
    Healthy,
    /// It is gone, or was given up.
    Ended,
}

/// What is known of the process of a launch. What is absent is not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchFacts {
    /// The process.
    pub process: Option<ProcessIdentity>,
    /// The port that it listens on.
    pub port: Option<u16>,
    /// The certificate that it shows.
    pub tls_fingerprint: Option<TlsFingerprint>,
}

impl From<ProcessIdentity> for LaunchFacts {
    fn from(process: ProcessIdentity) -> Self {
        Self { process: Some(process), ..Self::default() }
    }
}

impl From<&RunningHive> for LaunchFacts {
    fn from(running: &RunningHive) -> Self {
        let RunningHive { launch_id: _, process, port, tls_fingerprint } = running.clone();
        Self { process: Some(process), port: Some(port), tls_fingerprint }
    }
}

impl LaunchFacts {
    /// These facts, and where one is absent the other's.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            process: self.process.or(other.process),
            port: self.port.or(other.port),
            tls_fingerprint: self.tls_fingerprint.or(other.tls_fingerprint),
        }
    }
}

/// One launch of a hive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchRecord {
    /// The launch.
    pub launch_id: LaunchId,
    /// Its hive.
    pub hive_id: HiveId,
    /// How far it got.
    pub step: LaunchStep,
    /// What is known of its process.
    pub facts: LaunchFacts,
}

impl LaunchRecord {
    /// The process, if everything is known that reaching it takes.
    #[must_use]
    pub fn running(&self) -> Option<RunningHive> {
        let LaunchFacts { process, port, tls_fingerprint } = self.facts.clone();
        Some(RunningHive {
            launch_id: self.launch_id.clone(),
            process: process?,
            port: port?,
            tls_fingerprint,
        })
    }
}

/// Launches, written before they are acted on, so that a queen that was killed can be succeeded.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait LaunchJournal: Send + Sync {
    /// Commits the intention to launch. Durable when it returns.
    async fn intend(&self, launch: LaunchId, hive: HiveId) -> Result<(), StoreError>;

    /// Commits that a launch got further. A step is never taken back; an ended launch stays ended.
    async fn advance(
        &self,
        launch: &LaunchId,
        step: LaunchStep,
        facts: LaunchFacts,
    ) -> Result<(), StoreError>;

    /// Commits that a launch was found running, whatever was noted of it: one that was thought to have ended, or is not
    /// known, is open and healthy from now on.
    async fn found(&self, launch: LaunchId, hive: HiveId, facts: LaunchFacts) -> Result<(), StoreError>;

    /// The launches of a hive that did not end, newest first.
    async fn open(&self, hive: &HiveId) -> Result<Vec<LaunchRecord>, StoreError>;
}

/// Whether a hive has a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogState {
    /// It is being transferred there.
    Downloading,
    /// It is complete there.
    Complete,
    /// The last transfer failed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One model on one hive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The hive.
    pub hive_id: HiveId,
    /// The model as it was asked for.
    pub model_ref: ModelRef,
    /// What that stands for, once resolved.
    pub resolved: Option<Resolved>,
    /// Whether it is there.
    pub state: CatalogState,
    /// Its size, once known.
    pub bytes: Option<u64>,
    /// SHA-256 of its (first) file, once known.
    pub digest: Option<Digest>,
    /// When this was last written.
    pub updated_at: Timestamp,
}

/// The central catalog: which hive has which model.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ModelCatalog: Send + Sync {
    /// Writes one entry, over the one of the same hive and reference.
    async fn put(&self, entry: CatalogEntry) -> Result<(), StoreError>;

    /// The whole catalog, by reference and hive.
    async fn entries(&self) -> Result<Vec<CatalogEntry>, StoreError>;

    /// The entries of one model.
    async fn of_model(&self, model: &ModelRef) -> Result<Vec<CatalogEntry>, StoreError>;

    /// Removes the entry of one model on one hive, or on all. Returns how many there were.
    async fn remove<'a>(&self, model: &ModelRef, hive: Option<&'a HiveId>) -> Result<u32, StoreError>;

    /// What a reference stands for in this fleet, once that was decided.
    async fn pinned(&self, model: &ModelRef) -> Result<Option<Pinned>, StoreError>;

    /// Decides what a reference stands for, unless that is decided already. Returns what holds from now on.
    async fn pin(&self, model: &ModelRef, pinned: Pinned) -> Result<Pinned, StoreError>;

    /// Leaves open again what a reference stands for.
    async fn unpin(&self, model: &ModelRef) -> Result<(), StoreError>;
}

/// What a worker of some shape was seen to need and to do, on one hive.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The model.
    pub resolved: Resolved,
    /// The hive.
    pub hive_id: HiveId,
    /// The engine.
    pub engine: String,
    /// The device.
    pub device: DeviceSelector,
    /// Context of a slot, in tokens.
    pub context: u32,
    /// Slots.
    pub slots: u32,
    /// Largest memory seen, in bytes.
    pub peak_memory: u64,
    /// Seconds from spawn to ready.
    pub load_s: f64,
    /// Prompt tokens per second, once measured.
    pub prefill_tok_s: Option<f64>,
    /// Generated tokens per second of one stream, once measured.
    pub decode_tok_s: Option<f64>,
}

/// Measurements that outlive the workers they were taken of.
#[async_trait]
pub trait ObservationStore: Send + Sync {
    /// Writes the newest measurement of one shape; the peak never shrinks.
    async fn record(&self, observation: Observation) -> Result<(), StoreError>;

    /// All measurements of a model.
    async fn of_model(&self, resolved: &Resolved) -> Result<Vec<Observation>, StoreError>;
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Ask models that are in the catalog.
    Infer,
    /// Everything.
    Admin,
}

/// One API key, as stored: never the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public name.
    pub id: ApiKeyId,
    /// What its owner calls it.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: Digest,
    /// What it may do.
    pub scope: Scope,
    /// Requests per minute, if bounded.
    pub requests_per_minute: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// The API keys.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Adds a key.
    async fn add(&self, key: ApiKey) -> Result<(), StoreError>;

    /// All keys, revoked ones too, oldest first.
    async fn list(&self) -> Result<Vec<ApiKey>, StoreError>;

    /// The key of this hash, revoked or not.
    async fn find(&self, sha256: &Digest) -> Result<Option<ApiKey>, StoreError>;

    /// Revokes a key; false if there is none, or it was revoked before.
    async fn revoke(&self, id: &ApiKeyId, at: Timestamp) -> Result<bool, StoreError>;
}

//! The vocabulary of an inference fleet, and the ports through which the rest of queen-rbee reaches storage and
//! machines.
//!
//! A fleet is one *queen* that decides, *hives* that each manage one machine, and *workers* that each serve one model.
//! This crate names those things and says what must be true of a name, an address or a model reference. It holds no
//! I/O, no clock and no JSON: the derives of `serde` describe the data, the wire formats are pinned by `hive-api` and
//! `queen-api`, the stored ones by `registry-sqlite`.
//!
//! The one decision that everything else rests on: a value is checked when it is made, so a [`HiveId`], a [`ModelRef`]
//! or a [`HiveCommand`] that exists is a legal one, and nobody downstream checks again.
//!
//! Invariants kept here:
//! - an id is printable ASCII without separators, so it is safe as a file name, a URL segment and a log field;
//! - a model reference never holds `..`, a shell metacharacter or a leading `-` in a segment, and a leading `.` only in
//!   the path of a `file:`;
//! - a secret's `Debug` and `Display` never show it.

mod id;
mod secret;
mod time;
mod tls;

mod capabilities;
mod command;
mod engine;
mod hive;
mod model;
mod target;
mod worker;

mod decision;
mod event;
mod port;

pub use capabilities::{
    Capabilities, Device, DeviceKind, DeviceSelector, DeviceSelectorError, Engine, Notice,
};
pub use command::{CommandError, HiveCommand, Invocation, SecretSource};
pub use decision::{ALTERNATIVES, Alternative, DecisionKind, DecisionStep, ExpectedTime, RequestDecisions};
pub use engine::{EngineName, EngineNameError, EngineOrigin, EngineSpec, EngineUrl, EngineUrlError};
pub use event::{Event, EventKind, RequestOutcome};
pub use hive::{
    Desired, DesiredBy, HiveEndpoint, HiveKind, HiveMode, HivePhase, HiveRecord, HiveSource, HiveSpec,
    HiveStatus, Hostname, HostnameError, SshTarget, StartPolicy,
};
pub use id::{ApiKeyId, DownloadId, HiveId, IdError, LaunchId, RequestId, StoreId, WorkerId};
pub use model::{
    Digest, DigestError, DownloadRecord, DownloadState, ModelFile, ModelRef, ModelRefError, Pinned, Resolved,
    StoredModel,
};
pub use port::{
    ApiKey, CatalogEntry, CatalogState, HiveExit, HiveLauncher, HiveRegistry, KeyStore, LaunchError,
    LaunchFacts, LaunchJournal, LaunchObserver, LaunchOrder, LaunchProgress, LaunchRecord, LaunchStage,
    LaunchStep, ModelCatalog, Observation, ObservationStore, ObservedHive, ProcessIdentity, Registration,
    RunningHive, Scope, StoreError,
};
#[cfg(feature = "mock")]
pub use port::{MockHiveLauncher, MockHiveRegistry, MockLaunchJournal, MockModelCatalog};
pub use secret::{Token, TokenError};
pub use target::{Arch, Os, Target, TargetError};
pub use time::Timestamp;
pub use tls::{TlsFingerprint, TlsFingerprintError};
pub use worker::{FailureCode, WorkerRecord, WorkerState, WorkerStateName};

/// The README's examples, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

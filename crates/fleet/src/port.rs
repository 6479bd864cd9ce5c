//! Ports: what the queen needs of storage and of machines. Each has a real adapter and at least one other
//! implementation; `registry-sqlite` keeps a conformance suite for the storage ones.

mod launch;
mod storage;

#[cfg(feature = "mock")]
pub use launch::MockHiveLauncher;
pub use launch::{
    HiveExit, HiveLauncher, LaunchError, LaunchObserver, LaunchOrder, LaunchProgress, LaunchStage,
    ProcessIdentity, RunningHive,
};
pub use storage::{
    ApiKey, CatalogEntry, CatalogState, HiveRegistry, KeyStore, LaunchFacts, LaunchJournal, LaunchRecord,
    LaunchStep, ModelCatalog, Observation, ObservationStore, ObservedHive, Registration, Scope, StoreError,
};
#[cfg(feature = "mock")]
pub use storage::{MockHiveRegistry, MockLaunchJournal, MockModelCatalog};

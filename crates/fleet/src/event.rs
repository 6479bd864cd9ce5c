//! What happened in the fleet, as `/v1/events` tells it.

use serde::{Deserialize, Serialize};

use crate::{
    DownloadState, HiveId, HivePhase, LaunchId, LaunchProgress, ModelRef, RequestId, Timestamp, WorkerId,
    WorkerState,
};

/// One thing that happened. Never holds a prompt, an answer or a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of this queen's run; a reader that sees a gap was cut off.
    pub seq: u64,
    /// When, for display.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// A hive was registered.
    HiveRegistered {
        /// The hive.
        hive_id: HiveId,
    },
    /// A hive's row was removed.
    HiveRemoved {
        /// The hive.
        hive_id: HiveId,
    },
    /// A hive went from one phase to another.
    HivePhase {
        /// The hive.
        hive_id: HiveId,
        /// The launch, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        launch_id: Option<LaunchId>,
        /// The new phase.
        phase: HivePhase,
        /// Why, as a sentence for the owner.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A hive that was already running was taken over rather than started.
    HiveAdopted {
        /// The hive.
        hive_id: HiveId,
        /// Its launch.
        launch_id: LaunchId,
    },
    /// The start of a hive came to a step, or further in it.
    HiveLaunch {
        /// The hive.
        hive_id: HiveId,
        /// The launch.
        launch_id: LaunchId,
        /// Where it is.
        #[serde(flatten)]
        progress: LaunchProgress,
    },
    /// A worker went from one state to another.
    Worker {
        /// Its hive.
        hive_id: HiveId,
        /// The launch that owns it.
        launch_id: LaunchId,
        /// The worker.
        worker_id: WorkerId,
        /// Its model.
        model_ref: ModelRef,
        /// The new state.
        #[serde(flatten)]
        state: WorkerState,
    },
    /// A transfer was asked for, or ended. Its progress is not an event.
    Download {
        /// The hive whose store is filled.
        hive_id: HiveId,
        /// The model.
        model_ref: ModelRef,
        /// Where it stands.
        #[serde(flatten)]
        state: DownloadState,
    },
    /// A worker was asked for.
    Spawn {
        /// The hive that was asked.
        hive_id: HiveId,
        /// The launch that was asked.
        launch_id: LaunchId,
        /// The model.
        model_ref: ModelRef,
    },
    /// An attempt to answer a request was sent to a worker.
    Attempt {
        /// The request.
        request_id: RequestId,
        /// The worker's hive.
        hive_id: HiveId,
        /// The launch that owns the worker.
        launch_id: LaunchId,
        /// The worker.
        worker_id: WorkerId,
        /// 1 for the first.
        attempt: u32,
    },
    /// A request ended.
    RequestEnded {
        /// The request.
        request_id: RequestId,
        /// The model it asked for.
        model: ModelRef,
        /// How.
        outcome: RequestOutcome,
        /// How many workers were sent it.
        attempts: u32,
        /// Error code, unless it was completed or cancelled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// The queen takes no new requests and stops.
    QueenStopping,
}

/// How a request ended: in exactly one of these ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestOutcome {
    /// The whole answer was sent, with its terminator.
    Completed,
    /// The client was told that it failed.
    Failed,
    /// The client left first.
    Cancelled,
}

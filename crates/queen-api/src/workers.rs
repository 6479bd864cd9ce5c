//! `/v1/workers/…`.

use fleet::{HiveId, WorkerRecord};
use serde::{Deserialize, Serialize};

/// `GET /v1/workers/list`: the workers of all hives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkersReply {
    /// All workers, by hive and id.
    pub workers: Vec<WorkerInfo>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The hive that owns it.
    pub hive_id: HiveId,
    /// Whether its hive answers. While it does not, the rest is what was last known.
    pub reachable: bool,
    /// Requests that the queen has under way on it.
    pub in_flight: u32,
    /// What its hive reports: `worker_id`, `model_ref`, `state` and more; `url` is where this queen reaches it.
    #[serde(flatten)]
    pub record: WorkerRecord,
}

//! `/v1/workers/…`.

use std::sync::Arc;

use axum::{Json, extract::State};
use fleet::HivePhase;
use queen_api::{WorkerInfo, WorkersReply};

use crate::Api;

pub(crate) async fn list(State(api): State<Arc<Api>>) -> Json<WorkersReply> {
    let view = api.parts.registry.view();
    let info = |worker: &Arc<registry_ram::WorkerView>| {
        let hive = view.hive(&worker.hive_id);
        let phase = hive.map(|hive| hive.phase);
        let mut record = worker.record.clone();
        if let Some(endpoint) = hive.and_then(|hive| hive.endpoint.as_ref()) {
            // A hive knows the address that it listens on, which on another machine is often 0.0.0.0.
            record.url = format!("{}/v1/workers/{}/proxy", endpoint.base_url(), record.worker_id);
        }
        WorkerInfo {
            hive_id: worker.hive_id.clone(),
            reachable: !matches!(phase, None | Some(HivePhase::Unreachable)),
            in_flight: worker.in_flight(),
            record,
        }
    };
    Json(WorkersReply { workers: view.workers().map(info).collect() })
}

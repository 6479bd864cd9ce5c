//! `/v1/workers/…`.

use std::sync::Arc;

use axum::{Json, extract::State};
use fleet::HivePhase;
use queen_api::{WorkerInfo, WorkersReply};

use crate::Api;

pub(crate) async fn list(State(api): State<Arc<Api>>) -> Json<WorkersReply> {
    let view = api.parts.registry.view();
    let info = |worker: &Arc<registry_ram::WorkerView>| {
        let phase = view.hive(&worker.hive_id).map(|hive| hive.phase);
        WorkerInfo {
            hive_id: worker.hive_id.clone(),
            reachable: !matches!(phase, None | Some(HivePhase::Unreachable)),
            in_flight: worker.in_flight(),
            record: worker.record.clone(),
        }
    };
    Json(WorkersReply { workers: view.workers().map(info).collect() })
}

//! How everything stands.

use std::time::SystemTime;

use fleet::Timestamp;
use queen_api::{CatalogModel, HiveInfo, ReadyState, WorkerInfo};
use serde::Serialize;

use crate::{failure::Failure, hives, models, place::Place, screen::Screen};

/// All that there is.
#[derive(Debug, Serialize)]
struct Status {
    queen: Queen,
    hives: Vec<HiveInfo>,
    workers: Vec<WorkerInfo>,
    models: Vec<CatalogModel>,
}

#[derive(Debug, Serialize)]
struct Queen {
    url: String,
    version: String,
    status: ReadyState,
}

pub(crate) async fn run(place: &Place, screen: &Screen) -> Result<(), Failure> {
    let client = &place.client;
    let health = client.health().await?;
    let ready = client.ready().await?;
    let queen = Queen { url: client.address().to_owned(), version: health.version, status: ready.status };
    let status = Status {
        queen,
        hives: client.hives().await?,
        workers: client.workers().await?,
        models: client.catalog().await?,
    };
    screen.show(|| render(&status, SystemTime::now().into()), &status)
}

fn render(status: &Status, now: Timestamp) -> String {
    let Queen { url, version, status: state } = &status.queen;
    let state = match state {
        ReadyState::Ready => "ready",
        ReadyState::Stopping => "stopping",
    };
    let parts = [
        format!("queen-rbee {version} at {url}: {state}"),
        hives::render(&status.hives, now),
        models::render_workers(&status.workers),
        models::render_models(&status.models),
    ];
    parts.map(|part| part.trim_end().to_owned()).join("\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_795_433_060_000;

    fn hive(patch: Value) -> HiveInfo {
        let mut hive = json!({
            "id": "gaming-pc", "hostname": "127.0.0.1", "port": 7835, "mode": "local", "last_seen": NOW - 1000,
            "capabilities": {
                "devices": [
                    { "kind": "cuda", "index": 0, "name": "NVIDIA GeForce RTX 3090",
                      "memory_total": 25_769_803_776_u64, "memory_free": 24_696_061_952_u64 },
                    { "kind": "cpu", "index": 0, "name": "AMD Ryzen", "memory_total": 1, "memory_free": 1 }
                ],
                "ram_total": 68_719_476_736_u64, "ram_free": 1, "disk_free": 1, "store_id": "st-1",
                "engines": [{ "name": "llama-server", "devices": ["cuda", "cpu"] }]
            },
            "status": "online", "phase": "online", "desired": "running", "desired_by": "person", "start": "always",
            "source": "config", "attached": false, "labels": ["gpu"], "region": "home"
        });
        for (key, value) in patch.as_object().unwrap() {
            hive[key] = value.clone();
        }
        serde_json::from_value(hive).unwrap()
    }

    fn worker(patch: Value) -> WorkerInfo {
        let mut worker = json!({
            "hive_id": "gaming-pc", "reachable": true, "in_flight": 2, "worker_id": "w-1", "launch_id": "l-1", "rev": 3,
            "model_ref": "hf:Qwen/Qwen3-8B-GGUF",
            "resolved": "hf:Qwen/Qwen3-8B-GGUF@7c41481f57cb95916b40956ab2f0b139b296d974:Qwen3-8B-Q4_K_M.gguf",
            "engine": "llama-server", "device": "cuda:0", "context": 8192, "slots": 4, "slots_busy": 2,
            "prompt_tokens_total": 1, "output_tokens_total": 1, "memory_bytes": 6_912_345_088_u64,
            "url": "http://127.0.0.1:7835/v1/workers/w-1/proxy", "state": "ready"
        });
        for (key, value) in patch.as_object().unwrap() {
            worker[key] = value.clone();
        }
        serde_json::from_value(worker).unwrap()
    }

    fn status(hives: Vec<HiveInfo>, workers: Vec<WorkerInfo>, models: &[&str]) -> Status {
        let model = |id: &&str| {
            let here = json!({ "hive_id": "gaming-pc", "state": "complete", "workers": 1 });
            let there =
                json!({ "hive_id": "mac", "state": "failed", "reason": "it did not come", "workers": 0 });
            let model = json!({
                "model_ref": id, "aliases": ["small"], "pinned": true, "bytes": 5_000_000_000_u64, "hives": [here, there]
            });
            serde_json::from_value(model).unwrap()
        };
        Status {
            queen: Queen {
                url: "http://127.0.0.1:7833".to_owned(),
                version: "0.1.0".to_owned(),
                status: ReadyState::Ready,
            },
            hives,
            workers,
            models: models.iter().map(model).collect(),
        }
    }

    fn shown(status: &Status) -> String {
        render(status, Timestamp::from_millis(NOW))
    }

    #[test]
    fn a_fleet_is_shown_with_what_is_wrong_in_it() {
        let lost = json!({
            "id": "old-server", "hostname": "192.168.1.100", "mode": "network", "phase": "unreachable", "status": "error",
            "reason": "off since 21:04, retrying every 30 s; last: \x1b[31mconnection timed out", "attached": true,
            "last_seen": NOW - 7_200_000, "capabilities": null, "labels": [], "region": null
        });
        let unused = json!({
            "id": "mac", "hostname": "mac.local", "mode": "network", "labels": ["a", "b"],
            "capabilities": {
                "devices": [{ "kind": "cpu", "index": 0, "name": "x", "memory_total": 1, "memory_free": 1 }],
                "ram_total": 17_179_869_184_u64, "ram_free": 1, "disk_free": 1, "store_id": "st-2", "engines": [],
                "notices": [{ "code": "gpu_unused", "message": "install llama-server to use the GPU" }]
            }
        });
        let failed = json!({
            "worker_id": "w-2", "state": "failed", "code": "out_of_memory", "log_tail": ["loading", "CUDA: out of memory"]
        });
        let loading = json!({ "worker_id": "w-3", "state": "loading", "progress": 0.25, "device": "cpu:0", "in_flight": 0 });
        insta::assert_snapshot!(shown(&status(
            vec![hive(json!({})), hive(unused), hive(lost)],
            vec![worker(json!({})), worker(failed), worker(loading), worker(json!({ "reachable": false }))],
            &["hf:Qwen/Qwen3-8B-GGUF"],
        )));
    }

    #[test]
    fn an_empty_fleet_says_what_to_do() {
        insta::assert_snapshot!(shown(&status(Vec::new(), Vec::new(), &[])));
    }
}

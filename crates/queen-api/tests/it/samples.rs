//! One value of every message. Their JSON is pinned here, and the page shows exactly these.

use fleet::RequestDecisions;
use queen_api::{
    CatalogReply, EnsureRequest, ErrorBody, HealthReply, HivesReply, InferReply, InferRequest, LogsReply,
    ModelsReply, OpenAiErrorBody, ReadyReply, RegisterReply, RegisterRequest, RemoveModelReply,
    ShutdownReply, ShutdownRequest, WorkersReply,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// A message by name, with a way to read one of its type.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) json: String,
    /// Reads text as the message's type and writes it again.
    pub(crate) again: fn(&str) -> serde_json::Result<String>,
}

/// The value as its type writes it, which must hold all that was given.
fn sample<T: Serialize + DeserializeOwned>(name: &'static str, value: Value) -> Sample {
    let typed: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), value, "{name}: the type drops a part or adds one");
    let json = serde_json::to_string_pretty(&typed).unwrap();
    Sample { name, json, again: |text| serde_json::to_string_pretty(&serde_json::from_str::<T>(text)?) }
}

fn hive() -> Value {
    json!({
        "id": "gaming-pc", "hostname": "127.0.0.1", "port": 7835, "mode": "local",
        "capabilities": {
            "devices": [{
                "kind": "cuda", "index": 0, "name": "NVIDIA GeForce RTX 3090",
                "memory_total": 25_769_803_776_u64, "memory_free": 24_696_061_952_u64
            }],
            "ram_total": 68_719_476_736_u64, "ram_free": 61_203_283_968_u64, "disk_free": 871_878_361_088_u64,
            "store_id": "st-0c5e1f7a",
            "engines": [{ "name": "llama-server", "version": "b6987", "devices": ["cuda", "cpu"] }],
            "notices": []
        },
        "last_seen": 1_795_433_050_206_i64, "status": "online", "phase": "online", "desired": "running",
        "desired_by": "person", "start": "always", "source": "config", "attached": false, "region": "home",
        "labels": ["gpu"], "launch_id": "l-5b8d5f91"
    })
}

fn lost_hive() -> Value {
    json!({
        "id": "old-server", "hostname": "192.168.1.100", "port": 7835, "mode": "network",
        "status": "error", "phase": "unreachable", "reason": "silent for 3 s; no answer to a probe",
        "desired": "running", "desired_by": "person", "start": "always", "source": "api", "attached": true
    })
}

fn worker() -> Value {
    json!({
        "hive_id": "gaming-pc", "reachable": true, "in_flight": 1,
        "worker_id": "w-1", "launch_id": "l-5b8d5f91", "rev": 43, "model_ref": "hf:Qwen/Qwen3-8B-GGUF",
        "resolved": "hf:Qwen/Qwen3-8B-GGUF@7c41481f57cb95916b40956ab2f0b139b296d974:Qwen3-8B-Q4_K_M.gguf",
        "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "engine": "llama-server", "device": "cuda:0", "context": 8192, "slots": 4, "slots_busy": 1,
        "prompt_tokens_total": 12_210, "output_tokens_total": 48_004, "memory_bytes": 6_912_345_088_u64,
        "pid": 41_077, "url": "http://127.0.0.1:7835/v1/workers/w-1/proxy", "state": "ready"
    })
}

fn decisions() -> Value {
    json!({
        "request_id": "1m842cc37xeq91jm77295", "model": "hf:Qwen/Qwen3-8B-GGUF",
        "at": 1_795_433_050_400_i64, "prompt_bytes": 4210, "max_tokens": 64, "region": "home",
        "steps": [
            { "after_ms": 0, "type": "queued", "ahead": 2, "expected_wait_s": 1.5 },
            {
                "after_ms": 1480, "type": "sent", "hive_id": "gaming-pc", "worker_id": "w-1",
                "expected": {
                    "wait_s": 0.0, "prefill_s": 0.0312, "decode_s": 0.75, "round_trip_s": 0.0,
                    "prompt_tokens": 1052, "cached_tokens": 896
                },
                "compared": 2,
                "others": [{
                    "hive_id": "old-server", "worker_id": "w-4",
                    "expected": {
                        "wait_s": 0.5, "prefill_s": 0.8, "decode_s": 2.25, "round_trip_s": 0.0,
                        "prompt_tokens": 1052, "cached_tokens": 0
                    },
                    "suspect": true
                }]
            },
            {
                "after_ms": 1495, "type": "failed", "hive_id": "gaming-pc", "worker_id": "w-1",
                "reason": "it answered 500 Internal Server Error"
            },
            {
                "after_ms": 1495, "type": "not_again",
                "reason": "too many requests had to be sent again in the last seconds"
            }
        ],
        "outcome": "failed", "code": "worker_failed", "attempts": 1
    })
}

const FINGERPRINT: &str = "3d6f7a5c1be2090f4c8d3e7716a5b2c4f0918273645546372819a0bbccddeeff";

/// All messages.
#[expect(clippy::too_many_lines, reason = "one entry for each message")]
pub(crate) fn all() -> Vec<Sample> {
    vec![
        sample::<HealthReply>("health", json!({ "status": "ok", "version": "0.1.0" })),
        sample::<ReadyReply>("ready", json!({ "status": "ready", "hives_online": 2, "workers_ready": 1 })),
        sample::<ErrorBody>(
            "error",
            json!({ "error": {
                "code": "no_hive",
                "message": "no hive can start a worker for hf:Qwen/Qwen3-8B-GGUF: gaming-pc: draining; old-server: unreachable",
                "details": { "hives": { "gaming-pc": "draining", "old-server": "unreachable" } }
            } }),
        ),
        sample::<OpenAiErrorBody>(
            "openai_error",
            json!({ "error": {
                "message": "the field `model` is missing", "type": "invalid_request_error", "param": "model",
                "code": "invalid_request"
            } }),
        ),
        sample::<InferRequest>(
            "infer_request",
            json!({
                "model": "hf:Qwen/Qwen3-8B-GGUF", "prompt": "Once upon a time", "max_tokens": 64, "temperature": 0.5,
                "top_p": 0.75, "top_k": 40, "seed": 7, "stop": ["\n\n"], "stream": true
            }),
        ),
        sample::<InferReply>(
            "infer_reply",
            json!({
                "request_id": "1m842cc9k4dnr5vppemys", "model": "hf:Qwen/Qwen3-8B-GGUF", "worker_id": "w-1",
                "hive_id": "gaming-pc", "attempts": 1, "queued_ms": 0, "text": " there was a queen.",
                "tokens_out": 5, "decode_time_ms": 41,
                "stop_reason": "stop"
            }),
        ),
        sample::<CatalogReply>(
            "catalog",
            json!({ "models": [{
                "model_ref": "hf:Qwen/Qwen3-8B-GGUF", "aliases": ["small"], "pinned": true, "bytes": 5_027_783_488_u64,
                "hives": [
                    {
                        "hive_id": "gaming-pc", "state": "complete",
                        "resolved": "hf:Qwen/Qwen3-8B-GGUF@7c41481f57cb95916b40956ab2f0b139b296d974:Qwen3-8B-Q4_K_M.gguf",
                        "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                        "updated_at": 1_795_433_050_206_i64, "workers": 1
                    },
                    {
                        "hive_id": "old-server", "state": "failed",
                        "reason": "hf:Qwen/Qwen3-8B-GGUF did not arrive on hive old-server: the disk is full",
                        "updated_at": 1_795_433_041_007_i64, "workers": 0
                    }
                ]
            }] }),
        ),
        sample::<EnsureRequest>("ensure_request", json!({ "model": "small", "hive": "gaming-pc" })),
        sample::<RemoveModelReply>(
            "remove_model_reply",
            json!({
                "removed_from": ["gaming-pc"],
                "failed": ["hive old-server did not remove hf:Qwen/Qwen3-8B-GGUF: it is being downloaded"]
            }),
        ),
        sample::<RegisterRequest>(
            "register_request",
            json!({
                "id": "old-server", "hostname": "192.168.1.100", "port": 7835,
                "token": "c2f3a1e09b7d4655", "tls_fingerprint": FINGERPRINT, "region": "attic", "labels": ["old"]
            }),
        ),
        sample::<RegisterReply>(
            "register_reply",
            json!({ "created": true, "hive": {
            "id": "old-server", "hostname": "192.168.1.100", "port": 7835, "mode": "network",
            "status": "offline", "phase": "starting", "desired": "running", "desired_by": "person", "start": "always",
            "source": "api", "attached": true, "region": "attic", "labels": ["old"]
        } }),
        ),
        sample::<HivesReply>("hives", json!({ "hives": [hive(), lost_hive()] })),
        sample::<WorkersReply>("workers", json!({ "workers": [worker()] })),
        sample::<ModelsReply>(
            "models",
            json!({ "object": "list", "data": [
            { "id": "hf:Qwen/Qwen3-8B-GGUF", "object": "model", "created": 1_795_433_050, "owned_by": "queen-rbee" },
            { "id": "small", "object": "model", "created": 0, "owned_by": "queen-rbee" }
        ] }),
        ),
        sample::<RequestDecisions>("decisions", decisions()),
        sample::<LogsReply>(
            "logs",
            json!({ "lines": [
                "2026-11-24T18:20:01.114Z  INFO hive_runtime::run: listening address=127.0.0.1:7835",
                "2026-11-24T18:20:04.871Z  INFO hive_runtime::workers: worker ready worker_id=w-1"
            ] }),
        ),
        sample::<ShutdownRequest>("shutdown_request", json!({ "hives": "stop" })),
        sample::<ShutdownReply>(
            "shutdown_reply",
            json!({ "status": "stopping", "process": { "pid": 40_912, "start_time": 1_205_311, "boot_id": "6f1c3d52-3a10-4f0e-9d0c-0a51c1f0a7ce" } }),
        ),
    ]
}

#[test]
fn messages_keep_their_shape() {
    for sample in all() {
        insta::assert_snapshot!(sample.name, sample.json);
        assert_eq!((sample.again)(&sample.json).unwrap(), sample.json, "{}", sample.name);
    }
}

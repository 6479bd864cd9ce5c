//! One value of every message. Their JSON is pinned here, and the page shows exactly these.

use fleet::{
    Capabilities, Device, DeviceKind, DownloadRecord, DownloadState, Engine, FailureCode, Notice,
    ProcessIdentity, StoredModel, TlsFingerprint, WorkerRecord, WorkerState,
};
use hive_api::{
    Attention, AttentionKind, Beat, BlobGrant, BlobWritten, CapabilitiesReply, DeviceChange, DownloadReply,
    DownloadRequest, ErrorBody, ErrorCode, ErrorDetail, Health, HiveFile, InspectedFile, Inspection,
    LogsReply, ModelChange, ModelsReply, SecretLine, ShutdownReply, ShutdownRequest, Snapshot, Source,
    SpawnReply, SpawnRequest, StopWorkerRequest, WorkersReply,
};
use serde::{Serialize, de::DeserializeOwned};

const GIB: u64 = 1 << 30;

/// A message by name, with a way to read one of its type.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) json: String,
    /// Reads text as the message's type and writes it again.
    pub(crate) again: fn(&str) -> serde_json::Result<String>,
}

fn sample<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Sample {
    let json = serde_json::to_string_pretty(value).unwrap();
    Sample { name, json, again: |text| serde_json::to_string_pretty(&serde_json::from_str::<T>(text)?) }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn digest() -> fleet::Digest {
    parse("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
}

const RESOLVED: &str = "hf:Qwen/Qwen3-8B-GGUF@7c41481f57cb95916b40956ab2f0b139b296d974:Qwen3-8B-Q4_K_M.gguf";

pub(crate) fn health() -> Health {
    Health {
        status: "ok".to_owned(),
        version: "0.1.0".to_owned(),
        api_version: 1,
        hive_id: parse("gaming-pc"),
        launch_id: parse("l-5b8d5f91"),
        uptime_ms: 93_412,
    }
}

fn devices() -> Vec<Device> {
    vec![
        Device {
            kind: DeviceKind::Cuda,
            index: 0,
            name: "NVIDIA GeForce RTX 3090".to_owned(),
            memory_total: 24 * GIB,
            memory_free: 23 * GIB,
        },
        Device {
            kind: DeviceKind::Cpu,
            index: 0,
            name: "AMD Ryzen 9 5900X".to_owned(),
            memory_total: 64 * GIB,
            memory_free: 57 * GIB,
        },
    ]
}

fn capabilities() -> Capabilities {
    Capabilities {
        devices: devices(),
        ram_total: 64 * GIB,
        ram_free: 57 * GIB,
        disk_free: 812 * GIB,
        store_id: parse("st-0c5e1f7a"),
        engines: vec![Engine {
            name: "llama-server".to_owned(),
            version: Some("b6987".to_owned()),
            devices: vec![DeviceKind::Cuda, DeviceKind::Cpu],
            running_usage: Some("timings_per_token".to_owned()),
            chat_prefill: Some("assistant_message".to_owned()),
        }],
        notices: vec![Notice {
            code: "gpu_unused".to_owned(),
            message: "Radeon RX 580: no engine of this machine drives it; install one built for Vulkan"
                .to_owned(),
        }],
    }
}

pub(crate) fn capabilities_reply() -> CapabilitiesReply {
    CapabilitiesReply { launch_id: parse("l-5b8d5f91"), rev: 41, capabilities: capabilities() }
}

pub(crate) fn worker(state: WorkerState) -> WorkerRecord {
    WorkerRecord {
        worker_id: parse("w-3"),
        launch_id: parse("l-5b8d5f91"),
        rev: 42,
        model_ref: parse("hf:Qwen/Qwen3-8B-GGUF"),
        resolved: parse(RESOLVED),
        digest: Some(digest()),
        engine: "llama-server".to_owned(),
        device: parse("cuda:0"),
        context: 16_384,
        slots: 4,
        slots_busy: 1,
        prompt_tokens_total: 18_222,
        output_tokens_total: 4_131,
        memory_bytes: 7_516_192_768,
        pid: Some(40_211),
        url: "http://127.0.0.1:7835/v1/workers/w-3/proxy".to_owned(),
        state,
    }
}

pub(crate) fn stored() -> StoredModel {
    StoredModel {
        resolved: parse(RESOLVED),
        digest: Some(digest()),
        bytes: 5_027_783_488,
        files: vec!["Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf".to_owned()],
    }
}

pub(crate) fn inspection() -> Inspection {
    Inspection {
        resolved: parse(RESOLVED),
        files: vec![InspectedFile {
            path: "Qwen3-8B-Q4_K_M.gguf".to_owned(),
            bytes: Some(5_027_783_488),
            digest: Some(digest()),
        }],
        bytes: 5_027_783_488,
        arch: "qwen3".to_owned(),
        layers: 36,
        kv_heads: 8,
        head_dim: 128,
        attention: Attention {
            kind: AttentionKind::Full,
            window: None,
            kv_heads_per_layer: None,
            kv_latent_rank: None,
            rope_dim: None,
        },
        vocab: 151_936,
        context_max: 40_960,
        quant: "Q4_K_M".to_owned(),
    }
}

pub(crate) fn download(state: DownloadState) -> DownloadRecord {
    DownloadRecord {
        download_id: parse("d-1f6bd2a0"),
        launch_id: parse("l-5b8d5f91"),
        rev: 43,
        model_ref: parse("hf:Qwen/Qwen3-8B-GGUF"),
        resolved: Some(parse(RESOLVED)),
        bytes: 1_288_490_188,
        total: Some(5_027_783_488),
        rate: 48_234_112,
        awaits: None,
        state,
    }
}

pub(crate) fn spawn_reply() -> SpawnReply {
    SpawnReply {
        launch_id: parse("l-5b8d5f91"),
        rev: 42,
        worker_id: parse("w-3"),
        url: "http://127.0.0.1:7835/v1/workers/w-3/proxy".to_owned(),
        state: WorkerState::Starting,
    }
}

pub(crate) fn download_reply() -> DownloadReply {
    DownloadReply {
        launch_id: parse("l-5b8d5f91"),
        rev: 43,
        download_id: parse("d-1f6bd2a0"),
        state: DownloadState::Queued,
    }
}

pub(crate) fn grant() -> BlobGrant {
    BlobGrant { token: parse("3f0c9f5b1d7e4a86b2c8d4e09a7713bc"), bytes: 5_027_783_488 }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        hive_id: parse("gaming-pc"),
        launch_id: parse("l-5b8d5f91"),
        rev: 43,
        capabilities: capabilities(),
        workers: vec![worker(WorkerState::Ready)],
        models: vec![stored()],
        downloads: vec![download(DownloadState::Downloading)],
    }
}

fn failed() -> WorkerState {
    WorkerState::Failed {
        code: FailureCode::OutOfMemory,
        log_tail: vec![
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9216.00 MiB on device 0: cudaMalloc failed: out of memory"
                .to_owned(),
            "llama_init_from_model: failed to initialize the context".to_owned(),
        ],
    }
}

fn requests() -> Vec<Sample> {
    let minimal = SpawnRequest {
        model_ref: parse("hf:Qwen/Qwen3-8B-GGUF"),
        resolved: None,
        engine: None,
        device: None,
        context: None,
        slots: None,
        idempotency_key: "cold-start-17".to_owned(),
    };
    let full = SpawnRequest {
        resolved: Some(parse(RESOLVED)),
        engine: Some("llama-server".to_owned()),
        device: Some(parse("cuda:0")),
        context: Some(16_384),
        slots: Some(4),
        ..minimal.clone()
    };
    let source = Source {
        url: format!("https://10.0.0.7:7835/v1/models/blob/{}", digest()),
        token: grant().token,
        tls_fingerprint: Some(fingerprint()),
    };
    vec![
        sample("spawn_request_minimal", &minimal),
        sample("spawn_request", &full),
        sample("stop_worker_request", &StopWorkerRequest { grace_ms: Some(30_000) }),
        sample(
            "download_request",
            &DownloadRequest {
                model_ref: parse("hf:Qwen/Qwen3-8B-GGUF"),
                pinned: inspection().pinned(),
                sources: vec![source],
                relayed: true,
            },
        ),
        sample("shutdown_request", &ShutdownRequest { grace_ms: Some(30_000) }),
    ]
}

fn replies() -> Vec<Sample> {
    let launch_id = || parse("l-5b8d5f91");
    vec![
        sample("health", &health()),
        sample("capabilities", &capabilities_reply()),
        sample(
            "workers",
            &WorkersReply { launch_id: launch_id(), rev: 42, workers: vec![worker(WorkerState::Ready)] },
        ),
        sample("spawn_reply", &spawn_reply()),
        sample("models", &ModelsReply { launch_id: launch_id(), rev: 43, models: vec![stored()] }),
        sample("inspection", &inspection()),
        sample("download_reply", &download_reply()),
        sample("blob_grant", &grant()),
        sample("blob_written", &BlobWritten { bytes: 8_388_608 }),
        sample("logs", &LogsReply { lines: vec!["worker w-3 is ready".to_owned()] }),
        sample("shutdown_reply", &ShutdownReply { status: "stopping".to_owned() }),
        sample(
            "error",
            &ErrorBody {
                error: ErrorDetail::new(
                    ErrorCode::StaleLaunch,
                    "this is launch l-5b8d5f91, the request is for l-77aa01c2",
                )
                .with_details(serde_json::json!({ "launch_id": "l-5b8d5f91" })),
            },
        ),
    ]
}

fn events() -> Vec<Sample> {
    let launch_id = || parse("l-5b8d5f91");
    let came = ModelChange { launch_id: launch_id(), rev: 45, removed: false, model: stored() };
    vec![
        sample("event_snapshot", &snapshot()),
        sample("event_worker", &worker(WorkerState::Loading { progress: Some(0.25) })),
        sample("event_model", &came),
        sample("event_model_removed", &ModelChange { rev: 46, removed: true, ..came }),
        sample("event_download", &download(DownloadState::Downloading)),
        sample(
            "event_download_awaits",
            &DownloadRecord { awaits: Some(digest()), rate: 0, ..download(DownloadState::Downloading) },
        ),
        sample(
            "event_device",
            &DeviceChange {
                launch_id: launch_id(),
                rev: 47,
                devices: devices(),
                ram_free: 57 * GIB,
                disk_free: 812 * GIB,
            },
        ),
        sample("event_beat", &Beat { launch_id: launch_id(), rev: 47 }),
    ]
}

fn states() -> Vec<Sample> {
    let broke = DownloadState::Failed {
        code: "digest_mismatch".to_owned(),
        message: "Qwen3-8B-Q4_K_M.gguf does not have the digest that its source gave".to_owned(),
    };
    vec![
        sample("state_starting", &WorkerState::Starting),
        sample("state_loading", &WorkerState::Loading { progress: Some(0.25) }),
        sample("state_loading_unknown", &WorkerState::Loading { progress: None }),
        sample("state_ready", &WorkerState::Ready),
        sample("state_draining", &WorkerState::Draining),
        sample("state_stopping", &WorkerState::Stopping),
        sample("state_stopped", &WorkerState::Stopped { exit: Some(0) }),
        sample("state_stopped_by_signal", &WorkerState::Stopped { exit: None }),
        sample("state_failed", &failed()),
        sample("download_queued", &DownloadState::Queued),
        sample("download_downloading", &DownloadState::Downloading),
        sample("download_verifying", &DownloadState::Verifying),
        sample("download_complete", &DownloadState::Complete),
        sample("download_failed", &broke),
    ]
}

fn attentions() -> Vec<Sample> {
    let full = inspection().attention;
    vec![
        sample(
            "attention_sliding_window",
            &Attention {
                kind: AttentionKind::SlidingWindow,
                window: Some(1024),
                kv_heads_per_layer: Some(vec![4, 4, 4, 1]),
                ..full.clone()
            },
        ),
        sample(
            "attention_latent",
            &Attention { kind: AttentionKind::Latent, kv_latent_rank: Some(512), rope_dim: Some(64), ..full },
        ),
    ]
}

fn files() -> Vec<Sample> {
    let file = HiveFile {
        hive_id: parse("gaming-pc"),
        launch_id: parse("l-5b8d5f91"),
        process: ProcessIdentity {
            pid: 40_102,
            start_time: 331_279,
            boot_id: "8f90aae5-3587-4dda-a5d7-2b984097b697".to_owned(),
        },
        port: 7835,
        version: "0.1.0".to_owned(),
        tls_fingerprint: Some(fingerprint()),
    };
    vec![sample("hive_file", &file), sample("secret_line", &SecretLine { token: grant().token })]
}

fn fingerprint() -> TlsFingerprint {
    parse("3d6f7a5c1be2090f4c8d3e7716a5b2c4f0918273645546372819a0bbccddeeff")
}

pub(crate) fn all() -> Vec<Sample> {
    [requests(), replies(), events(), states(), attentions(), files()].into_iter().flatten().collect()
}

#[test]
fn every_message_keeps_its_bytes() {
    for Sample { name, json, .. } in all() {
        insta::assert_snapshot!(name, json);
    }
}

#[test]
fn every_error_code_keeps_its_word_and_its_status() {
    let lines = ErrorCode::ALL.iter().map(|code| format!("{} {}\n", code.text(), code.status()));
    insta::assert_snapshot!(lines.collect::<String>());
}

#[test]
fn every_message_reads_back_as_itself() {
    for Sample { name, json, again } in all() {
        assert_eq!(again(&json).unwrap(), json, "{name}");
    }
}

#[test]
fn unknown_fields_codes_and_events_are_tolerated() {
    for Sample { name, json, again } in all() {
        if name.starts_with("error") {
            continue;
        }
        let newer = json.replacen('{', "{\"of_a_newer_version\": {\"a\": [1]},", 1).replace(",}", "}");
        assert_eq!(again(&newer).unwrap(), json, "{name}");
    }
    let newer = r#"{"error":{"code":"of_a_newer_version","message":"m","hint":"h"}}"#;
    let body: ErrorBody = serde_json::from_str(newer).unwrap();
    assert_eq!(body.error.code, ErrorCode::Unknown);
    assert_eq!(hive_api::WatchEvent::parse("of_a_newer_version", b"?").unwrap(), None);
}

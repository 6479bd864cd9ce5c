//! Faults of models and transfers.

use fake_hive::Options;
use fleet::{DownloadRecord, DownloadState, FailureCode, WorkerState};
use futures_util::StreamExt;
use hive_api::{DownloadRequest, ErrorCode, Source};
use serde_json::json;

use crate::rig::{Rig, eventually, model, soon};

fn request() -> DownloadRequest {
    DownloadRequest { model_ref: model(), pinned: None, sources: Vec::new(), relayed: false }
}

async fn records(rig: &Rig, request: &DownloadRequest) -> Vec<DownloadRecord> {
    let id = rig.client.download(request).await.unwrap().download_id;
    let records = rig.client.download_progress(&id).await.unwrap();
    soon("the transfer", records.map(Result::unwrap).collect()).await
}

fn code(records: &[DownloadRecord]) -> Option<String> {
    match &records.last()?.state {
        DownloadState::Failed { code, .. } => Some(code.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn transfers_fail_by_name() {
    for (patch, expected) in [
        (json!({"download": {"fail_at": 0.5}}), "source_unreachable"),
        (json!({"download": {"corrupt": true}}), "digest_mismatch"),
        (json!({"machine": {"disk_free": 1000}}), "storage_full"),
    ] {
        let rig = Rig::start(patch).await;
        assert_eq!(code(&records(&rig, &request()).await).as_deref(), Some(expected));
        assert!(rig.client.models().await.unwrap().models.is_empty());
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn unknown_models_are_not_found() {
    let rig = Rig::start(json!({"models": {"any": false}})).await;
    for text in ["a/b", "missing/b", "file:/x.gguf"] {
        let request = DownloadRequest {
            model_ref: text.parse().unwrap(),
            pinned: None,
            sources: Vec::new(),
            relayed: false,
        };
        let error = rig.client.download(&request).await.unwrap_err();
        assert_eq!(error.refused().unwrap().code, ErrorCode::ModelNotFound, "{text}");
    }
    rig.fake.stop().await;
}

#[tokio::test]
async fn two_names_of_one_model_share_a_transfer() {
    let rig = Rig::start(json!({"download": {"duration_ms": 60_000}})).await;
    let first = rig.client.download(&request()).await.unwrap();
    let other = DownloadRequest {
        model_ref: "a/b:Q4_K_M".parse().unwrap(),
        pinned: None,
        sources: Vec::new(),
        relayed: false,
    };
    assert_eq!(rig.client.download(&other).await.unwrap().download_id, first.download_id);
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_stalled_transfer_goes_on_when_the_script_lets_it() {
    let rig = Rig::start(json!({"download": {"stall_at": 0.99}})).await;
    let id = rig.client.download(&request()).await.unwrap().download_id;
    let mut records = rig.client.download_progress(&id).await.unwrap();
    let stalled = async {
        loop {
            let record = records.next().await.unwrap().unwrap();
            if record.rate == 0 && record.bytes > 0 {
                return record;
            }
        }
    };
    let stalled = soon("the stall", stalled).await;
    assert_eq!((stalled.state, stalled.bytes), (DownloadState::Downloading, 259_522));
    rig.patch(json!({"download": null}));
    let last = soon("the rest", records.map(Result::unwrap).collect::<Vec<_>>()).await;
    assert_eq!(last.last().unwrap().state, DownloadState::Complete);
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_progress_stream_breaks_off_and_the_transfer_goes_on() {
    let rig = Rig::start(json!({"download": {"cut_progress": "rst", "duration_ms": 300}})).await;
    let id = rig.client.download(&request()).await.unwrap().download_id;
    let records = rig.client.download_progress(&id).await.unwrap();
    let records: Vec<_> = soon("the end of the stream", records.collect()).await;
    assert!(records.len() == 2 && records[1].is_err(), "{records:?}");
    rig.patch(json!({"download": {"cut_progress": null}}));
    let rest = rig.client.download_progress(&id).await.unwrap();
    let rest: Vec<_> = soon("the transfer", rest.map(Result::unwrap).collect()).await;
    assert_eq!(rest.last().unwrap().state, DownloadState::Complete);
    rig.fake.stop().await;
}

#[tokio::test]
async fn reported_progress_can_be_nonsense() {
    let download = json!({"goes_backwards": true, "exaggerate": 3, "duration_ms": 400});
    let rig = Rig::start(json!({"download": download})).await;
    let bytes: Vec<_> = records(&rig, &request()).await.iter().map(|r| (r.bytes, r.total.unwrap())).collect();
    assert!(bytes.windows(2).any(|pair| pair[1].0 < pair[0].0), "{bytes:?}");
    assert!(bytes.iter().any(|(bytes, total)| bytes > total), "{bytes:?}");
    rig.fake.stop().await;
}

#[tokio::test]
async fn damage_that_nobody_noticed_shows_when_a_worker_loads_it() {
    let rig = Rig::with_model(json!({"download": {"corrupt_unnoticed": true}})).await;
    let worker = rig.spawn().await.worker_id;
    let record = rig.worker_is(&worker, WorkerState::is_over).await;
    assert!(matches!(record.state, WorkerState::Failed { code: FailureCode::ModelInvalid, .. }));
    rig.fake.stop().await;
}

async fn grant(rig: &Rig) -> (String, hive_api::BlobGrant) {
    let digest = rig.client.models().await.unwrap().models[0].digest.unwrap();
    let endpoint = rig.fake.endpoint();
    let url = format!("{}/v1/models/blob/{digest}", endpoint.base_url());
    let request = rig.http.post(format!("{url}/grant")).bearer_auth(endpoint.token.reveal());
    let grant = request.header("x-rbee-launch", endpoint.launch_id.as_str()).send().await.unwrap();
    (url, grant.json().await.unwrap())
}

#[tokio::test]
async fn a_model_comes_from_another_hive_with_its_grant() {
    for tls in [false, true] {
        let source = Rig::start_as(json!({}), Options { tls, ..Options::default() }).await;
        source.download().await;
        a_model_comes_from(source).await;
    }
}

async fn a_model_comes_from(source: Rig) {
    let (url, grant) = grant(&source).await;
    let target = Rig::start(json!({"download": {"fail_at": 0.0}})).await;
    let tls_fingerprint = source.fake.endpoint().pin;
    let broken = Source { url: url.replace("/v1/", "/v0/"), token: grant.token.clone(), tls_fingerprint };
    let sources = vec![broken, Source { url: url.clone(), token: grant.token, tls_fingerprint }];
    let records = records(&target, &DownloadRequest { sources, ..request() }).await;
    assert_eq!(records.last().unwrap().state, DownloadState::Complete, "{records:?}");
    assert_eq!(target.fake.sources_used(), [url]);
    source.fake.stop().await;
    target.fake.stop().await;
}

#[tokio::test]
async fn the_queen_brings_what_a_transfer_cannot_reach() {
    let source = Rig::with_model(json!({})).await;
    let (url, grant) = grant(&source).await;
    let digest = url.rsplit('/').next().unwrap().parse().unwrap();
    let bytes = source.client.read_blob(&digest, 0..grant.bytes).await.unwrap();
    let target = Rig::start(json!({"download": {"fail_at": 0.0, "use_sources": false}})).await;
    let error = target.client.write_blob(&digest, 0, bytes.clone()).await.unwrap_err();
    assert_eq!(error.refused().unwrap().code, ErrorCode::NotFound, "no transfer waits yet");
    let request = DownloadRequest {
        sources: vec![Source { url, token: grant.token, tls_fingerprint: None }],
        relayed: true,
        ..request()
    };
    let id = target.client.download(&request).await.unwrap().download_id;
    let middle = bytes.len() / 2;
    let first_half = async {
        loop {
            if let Ok(have) = target.client.write_blob(&digest, 0, bytes.slice(..middle)).await {
                return have;
            }
        }
    };
    assert_eq!(soon("the transfer's wait", first_half).await, middle as u64);
    let hole = target.client.write_blob(&digest, 7, bytes.slice(7..)).await.unwrap_err();
    let hole = hole.refused().unwrap().clone();
    assert_eq!(
        (hole.code, &hole.details.unwrap()["bytes"]),
        (ErrorCode::RangeNotSatisfiable, &json!(middle))
    );
    target.client.write_blob(&digest, middle as u64, bytes.slice(middle..)).await.unwrap();
    let records = target.client.download_progress(&id).await.unwrap();
    let records: Vec<_> = soon("the transfer", records.map(Result::unwrap).collect()).await;
    assert_eq!(records.last().unwrap().state, DownloadState::Complete, "{records:?}");
    source.fake.stop().await;
    target.fake.stop().await;
}

#[tokio::test]
async fn a_model_vanishes_behind_everybodys_back() {
    let rig = Rig::with_model(json!({})).await;
    rig.fake.act(fake_hive::Act::DropModel { model_ref: model(), silent: true }).await.unwrap();
    eventually("the empty store", || rig.fake.workers().is_empty().then_some(())).await;
    assert!(rig.client.models().await.unwrap().models.is_empty());
    rig.fake.stop().await;
}

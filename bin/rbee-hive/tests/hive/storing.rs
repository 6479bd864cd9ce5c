//! Model files of a hive, and how they get to another one.

use std::time::Duration;

use fleet::{Digest, DownloadState, ModelFile, ModelRef, Pinned};
use futures_util::StreamExt;
use hive_api::{BlobGrant, DownloadRequest, ErrorCode, Source};

use crate::{
    engine,
    harness::{Machine, Running, within},
};

/// A hub where nobody answers.
const NO_HUB: &str = "hub_url = \"http://127.0.0.1:1\"\n";

async fn digest(running: &Running, model: &ModelRef) -> Digest {
    running.client.inspect(model).await.expect("the model is here");
    within("the digest is known", async {
        loop {
            let models = running.client.models().await.expect("a list").models;
            if let Some(digest) = models.first().and_then(|model| model.digest) {
                return digest;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

async fn offer(running: &Running, digest: &Digest) -> Source {
    let blob = format!("{}/v1/models/blob/{digest}", running.client.endpoint().base_url());
    let answer =
        running.http(reqwest::Method::POST, &format!("{blob}/grant")).send().await.expect("an answer");
    let grant: BlobGrant = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("a grant");
    Source { url: blob, token: grant.token, tls_fingerprint: running.client.endpoint().pin }
}

/// What a hub would have called the model.
fn pinned() -> ModelRef {
    "hf:o/n@0123456789abcdef0123456789abcdef01234567:tiny.gguf".parse().expect("a reference")
}

/// The model of one machine as another one's, pinned to its very bytes.
async fn order(from: &Running, machine: &Machine) -> DownloadRequest {
    let digest = digest(from, &machine.model()).await;
    let inspection = from.client.inspect(&machine.model()).await.expect("the model is here");
    let file = inspection.files.first().expect("a file");
    let file = ModelFile { path: "tiny.gguf".into(), bytes: file.bytes.expect("its size"), digest };
    DownloadRequest {
        model_ref: "hf:o/n".parse().expect("a reference"),
        pinned: Some(Pinned { resolved: (&pinned()).into(), files: vec![file] }),
        sources: vec![offer(from, &digest).await],
        relayed: false,
    }
}

#[tokio::test]
async fn a_model_is_copied_from_hive_to_hive_without_a_hub_and_then_serves() {
    let (giver, taker) =
        (Machine::new(""), Machine::new(&format!("{NO_HUB}{}", engine::entry("quick", &[]))));
    let (from, to) = (giver.launch("l-1").await, taker.launch("l-2").await);
    let request = order(&from, &giver).await;
    let reply = to.client.download(&request).await.unwrap();
    let records: Vec<_> = within(
        "the copy ends",
        to.client.download_progress(&reply.download_id).await.unwrap().collect::<Vec<_>>(),
    )
    .await;
    let last = records.last().expect("a record").as_ref().unwrap();
    assert_eq!(last.state, DownloadState::Complete);
    assert!(records.iter().filter(|record| record.as_ref().unwrap().state.is_final()).count() == 1);
    let again: Vec<_> = to.client.download_progress(&reply.download_id).await.unwrap().collect().await;
    assert_eq!(again.len(), 1, "a finished one answers its outcome");
    let model_ref: ModelRef = "hf:another/name".parse().unwrap();
    let resolved = Some((&pinned()).into());
    let wanted =
        hive_api::SpawnRequest { model_ref: model_ref.clone(), resolved, ..taker.request("quick", "k") };
    let worker = to.client.spawn(&wanted).await.unwrap();
    let worker = to.worker_in(&worker.worker_id, fleet::WorkerStateName::Ready).await;
    let digest = request.pinned.expect("it is pinned").files[0].digest;
    assert_eq!((worker.digest, worker.model_ref), (Some(digest), model_ref), "these files by that name");
}

#[tokio::test]
async fn a_grant_opens_one_file_and_nothing_else() {
    let machine = Machine::new("");
    let running = machine.launch("l-1").await;
    let digest = digest(&running, &machine.model()).await;
    let source = offer(&running, &digest).await;
    let client = http_client::builder(http_client::Trust::Nobody).build().unwrap();
    let read = async |url: &str, token: &str| {
        let answer = client.get(url).bearer_auth(token).header("range", "bytes=0-3").send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    };
    let (status, bytes) = read(&source.url, source.token.reveal()).await;
    assert_eq!((status, bytes.as_ref()), (206, b"GGUF".as_slice()));
    let workers = format!("{}/v1/workers/list", running.client.endpoint().base_url());
    for (url, token) in [(&source.url, "0123456789abcdef"), (&workers, source.token.reveal())] {
        let (status, _) = read(url, token).await;
        assert!(matches!(status, 401 | 409), "{url} answered {status}");
    }
}

#[tokio::test]
async fn a_model_that_a_worker_runs_from_is_not_deleted() {
    let machine = Machine::new(&engine::entry("quick", &[]));
    let running = machine.launch("l-1").await;
    let worker = machine.ready_worker(&running, "quick").await;
    let error = running.client.delete_model(&machine.model()).await.expect_err("is refused");
    assert_eq!(error.refused().expect("the hive says so").code, ErrorCode::ModelInUse);
    running.client.stop_worker(&worker.worker_id, &Default::default()).await.unwrap();
    running.worker_in(&worker.worker_id, fleet::WorkerStateName::Stopped).await;
    running.client.delete_model(&machine.model()).await.unwrap();
    assert_eq!(running.client.models().await.unwrap().models, []);
    assert!(machine.model_path().exists(), "somebody put the file there, and it stays theirs");
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_told_within_the_call() {
    let machine = Machine::new(NO_HUB);
    let running = machine.launch("l-1").await;
    let request = DownloadRequest {
        model_ref: "hf:o/n".parse().unwrap(),
        pinned: None,
        sources: vec![],
        relayed: false,
    };
    let error = running.client.download(&request).await.expect_err("is refused");
    assert_eq!(error.refused().expect("the hive says so").code, ErrorCode::SourceUnreachable);
}

//! A default script keeps the contract.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use fake_hive::{FakeHive, Options, Outcome, Script};
use fleet::{DownloadState, WorkerState};
use futures_util::{Stream, StreamExt};
use hive_api::{
    DownloadRequest, SpawnRequest, WatchEvent,
    client::{ClientError, Connections, HiveClient, Timeouts},
};
use serde_json::{Value, json};

fn connect(fake: &FakeHive) -> HiveClient {
    Connections::new(Timeouts::default()).unwrap().client(fake.endpoint())
}

async fn until<T>(
    events: &mut (impl Stream<Item = Result<WatchEvent, ClientError>> + Unpin),
    mut wanted: impl FnMut(WatchEvent) -> Option<T>,
) -> T {
    let found = async {
        loop {
            let event = events.next().await.expect("the watch goes on").expect("a readable event");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("the event comes in time")
}

async fn ready_worker(client: &HiveClient) -> String {
    let mut watch = client.watch().await.unwrap();
    let model: fleet::ModelRef = "a/b".parse().unwrap();
    let request = DownloadRequest { model_ref: model.clone(), sources: Vec::new() };
    let download = client.download(&request).await.unwrap();
    until(&mut watch, |event| match event {
        WatchEvent::Download(record) if record.state == DownloadState::Complete => Some(()),
        _ => None,
    })
    .await;
    let last = client.download_progress(&download.download_id).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(last.state, DownloadState::Complete);
    let request = SpawnRequest {
        model_ref: model,
        engine: None,
        device: None,
        context: None,
        slots: None,
        idempotency_key: "k".to_owned(),
    };
    let reply = client.spawn(&request).await.unwrap();
    assert_eq!(client.spawn(&request).await.unwrap().worker_id, reply.worker_id);
    until(&mut watch, |event| match event {
        WatchEvent::Worker(record) if record.state == WorkerState::Ready => Some(record.url),
        _ => None,
    })
    .await
}

async fn post(client: &HiveClient, url: &str, body: Value) -> reqwest::Response {
    let endpoint = client.endpoint();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(url).header("x-rbee-launch", endpoint.launch_id.as_str());
    request.bearer_auth(endpoint.token.reveal()).json(&body).send().await.unwrap()
}

#[tokio::test]
async fn a_model_is_fetched_started_and_recites() {
    let fake = FakeHive::start(Script::default(), Options::default()).await.unwrap();
    let client = connect(&fake);
    let url = ready_worker(&client).await;
    let body = json!({"model": "hf:a/b", "prompt": "hello", "max_tokens": 5});
    let answer = post(&client, &format!("{url}/v1/completions"), body).await;
    assert_eq!(answer.headers()["x-rbee-worker"], "w-2");
    let answer: Value = answer.json().await.unwrap();
    tiny_model::check_continuation("hello", answer["choices"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    let calls = fake.journal();
    let asked = calls.iter().find(|c| c.prompt_sha256.is_some()).unwrap();
    assert_eq!(asked.outcome, Outcome::Completed);
    fake.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_counts_and_its_terminator() {
    let fake = FakeHive::start(Script::default(), Options::default()).await.unwrap();
    let client = connect(&fake);
    let url = ready_worker(&client).await;
    let body = json!({
        "model": "hf:a/b", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}
    });
    let text = post(&client, &format!("{url}/v1/chat/completions"), body).await.text().await.unwrap();
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.last(), Some(&"[DONE]"));
    let frames: Vec<Value> =
        lines[..lines.len() - 1].iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: String = frames.iter().filter_map(|f| f["choices"][0]["delta"]["content"].as_str()).collect();
    tiny_model::check_continuation("hello", &said).unwrap();
    let counts: Vec<_> = frames.iter().filter_map(|f| f["usage"]["completion_tokens"].as_u64()).collect();
    assert_eq!(counts, [1, 2, 3, 3, 3]);
    fake.stop().await;
}

//! A fake hive with a client, and waits with deadlines.

use std::{future::Future, time::Duration};

use fake_hive::{Call, FakeHive, Options, Script};
use fleet::{DownloadState, ModelRef, WorkerId, WorkerRecord, WorkerState};
use futures_util::{StreamExt, stream::BoxStream};
use hive_api::{
    DownloadRequest, SpawnReply, SpawnRequest, WatchEvent,
    client::{ClientError, Connections, HiveClient, Timeouts},
};
use serde_json::Value;

pub(crate) const MODEL: &str = "hf:a/b";

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Rig {
    pub(crate) fake: FakeHive,
    pub(crate) client: HiveClient,
    pub(crate) http: reqwest::Client,
}

/// The result, which must come in time.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come in time"))
}

/// Looks again and again until there is something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, looking).await
}

pub(crate) fn client_of(fake: &FakeHive) -> HiveClient {
    Connections::new(Timeouts::default()).unwrap().client(fake.endpoint())
}

pub(crate) fn model() -> ModelRef {
    MODEL.parse().unwrap()
}

pub(crate) fn spawn_request(key: &str) -> SpawnRequest {
    SpawnRequest {
        model_ref: model(),
        resolved: None,
        engine: None,
        device: None,
        context: None,
        slots: None,
        idempotency_key: key.to_owned(),
    }
}

impl Rig {
    pub(crate) async fn start(patch: Value) -> Self {
        Self::start_as(patch, Options::default()).await
    }

    pub(crate) async fn start_as(patch: Value, options: Options) -> Self {
        let script = Script::default().with(&patch).unwrap();
        let fake = FakeHive::start(script, options).await.unwrap();
        let client = client_of(&fake);
        let http =
            http_client::builder(fake.endpoint().pin.into()).pool_max_idle_per_host(0).build().unwrap();
        Self { fake, client, http }
    }

    /// With the model in the store.
    pub(crate) async fn with_model(patch: Value) -> Self {
        let rig = Self::start(patch).await;
        rig.download().await;
        rig
    }

    /// With a ready worker.
    pub(crate) async fn with_worker(patch: Value) -> (Self, WorkerId) {
        let rig = Self::with_model(patch).await;
        let worker = rig.spawn().await.worker_id;
        rig.worker_is(&worker, WorkerState::is_ready).await;
        (rig, worker)
    }

    pub(crate) async fn download(&self) {
        let request =
            DownloadRequest { model_ref: model(), pinned: None, sources: Vec::new(), relayed: false };
        let id = self.client.download(&request).await.unwrap().download_id;
        let records: Vec<_> =
            soon("the transfer", self.client.download_progress(&id).await.unwrap().collect()).await;
        let records: Result<Vec<_>, _> = records.into_iter().collect();
        assert_eq!(records.unwrap().last().unwrap().state, DownloadState::Complete);
    }

    pub(crate) async fn spawn(&self) -> SpawnReply {
        self.client.spawn(&spawn_request("key")).await.unwrap()
    }

    pub(crate) fn patch(&self, patch: Value) {
        self.fake.patch(&patch).unwrap();
    }

    /// The worker's record, once its state is a wanted one.
    pub(crate) async fn worker_is(
        &self,
        id: &WorkerId,
        wanted: impl Fn(&WorkerState) -> bool,
    ) -> WorkerRecord {
        let look = || self.fake.workers().into_iter().find(|w| w.worker_id == *id && wanted(&w.state));
        eventually("the worker's state", look).await
    }

    /// A request to a worker.
    pub(crate) fn ask(&self, worker: &WorkerId, path: &str, body: &Value) -> reqwest::RequestBuilder {
        let endpoint = self.fake.endpoint();
        let url = format!("{}/v1/workers/{worker}/proxy{path}", endpoint.base_url());
        let request = self.http.post(url).header("x-rbee-launch", endpoint.launch_id.as_str());
        request.bearer_auth(endpoint.token.reveal()).json(body)
    }

    pub(crate) async fn completion(
        &self,
        worker: &WorkerId,
        body: Value,
    ) -> reqwest::Result<reqwest::Response> {
        soon("the answer's head", self.ask(worker, "/v1/completions", &body).send()).await
    }

    /// The journal's entry of the last prompt, once it ended.
    pub(crate) async fn ended_prompt(&self) -> Call {
        let look = || {
            let last = self.fake.journal().into_iter().rfind(|c| c.prompt_sha256.is_some())?;
            last.ended_ms.map(|_| last)
        };
        eventually("the end of the call", look).await
    }

    pub(crate) async fn watch(&self) -> Watch {
        Watch(self.client.watch().await.unwrap())
    }
}

pub(crate) struct Watch(pub(crate) BoxStream<'static, Result<WatchEvent, ClientError>>);

impl Watch {
    pub(crate) async fn next(&mut self) -> Option<Result<WatchEvent, ClientError>> {
        soon("the next event", self.0.next()).await
    }

    /// The first wanted event.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(WatchEvent) -> Option<T>) -> T {
        loop {
            let event = self.next().await.expect("the watch goes on").unwrap();
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }
}

/// All that comes of a body, and whether it ended properly.
pub(crate) async fn body_of(mut answer: reqwest::Response) -> (String, bool) {
    let mut bytes = Vec::new();
    let whole = loop {
        match soon("the next piece", answer.chunk()).await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    (String::from_utf8_lossy(&bytes).into_owned(), whole)
}

/// The text that the frames of a stream carry.
pub(crate) fn text_of(stream: &str) -> String {
    let frames = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let frames = frames.filter_map(|frame| serde_json::from_str::<Value>(frame).ok());
    let text = |frame: Value| {
        let choice = &frame["choices"][0];
        let text = choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str());
        text.map(str::to_owned)
    };
    frames.filter_map(text).collect()
}

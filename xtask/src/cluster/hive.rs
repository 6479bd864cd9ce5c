//! A fake hive as a process, steered over its control port.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{self, Server},
    program::{Running, Start},
};
use crate::programs::Profile;

/// How long a fake may take to listen.
const START: Duration = Duration::from_secs(10);

/// What the fake journalled of one call. It knows more; this is what scenarios and checks ask.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Call {
    pub(crate) call: String,
    pub(crate) path: String,
    pub(crate) request_id: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) outcome: String,
}

/// One fake hive.
#[derive(Debug)]
pub(crate) struct FakeHive {
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) token: String,
    pub(crate) running: Running,
    pub(crate) faults: usize,
    start: Start,
    control: Server,
    pub(crate) data_dir: PathBuf,
}

impl FakeHive {
    /// Starts one and waits until it can be steered.
    pub(crate) async fn start(id: &str, folder: &Path, logs: &Path, script: &Value) -> anyhow::Result<Self> {
        let data_dir = folder.join(id);
        std::fs::create_dir_all(&data_dir)?;
        std::fs::write(data_dir.join("script.json"), script.to_string())?;
        let data = data_dir.display().to_string();
        let start = Start::new(Profile::Dev.program("fake-hive"), logs.join(format!("{id}.log"))).args([
            "--port",
            "0",
            "--hive-id",
            id,
            "--data-dir",
            &data,
        ]);
        let running = start.spawn()?;
        let client = api::client()?;
        let control = Server { client, base: String::new(), token: None };
        let mut hive = Self {
            id: id.to_owned(),
            port: 0,
            token: String::new(),
            running,
            faults: 0,
            start,
            control,
            data_dir,
        };
        hive.find().await?;
        Ok(hive)
    }

    /// Finds the control port of the process and asks it for the rest.
    async fn find(&mut self) -> anyhow::Result<()> {
        let file = self.data_dir.join("control.json");
        let found = async {
            loop {
                let port = std::fs::read(&file).ok().and_then(|text| {
                    let value: Value = serde_json::from_slice(&text).ok()?;
                    value["port"].as_u64()
                });
                if let Some(port) = port {
                    self.control.base = format!("http://127.0.0.1:{port}");
                    if let Ok(reply) = self.control.get("/hive").await {
                        return reply.json();
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let hive = tokio::time::timeout(START, found).await;
        let hive =
            hive.with_context(|| format!("hive {} does not listen: {}", self.id, self.running.tail()))?;
        self.port =
            hive["port"].as_u64().and_then(|port| port.try_into().ok()).context("a hive without a port")?;
        self.token = hive["token"].as_str().context("a hive without a token")?.to_owned();
        Ok(())
    }

    /// Merges a part of a script over the one in force: this is how faults are ordered.
    pub(crate) async fn script(&mut self, patch: Value) -> anyhow::Result<()> {
        self.faults += 1;
        let reply = self.control.put("/script", &patch).await?;
        ensure!(reply.status.is_success(), "hive {} refuses the script: {}", self.id, reply.text());
        Ok(())
    }

    /// Takes every fault back.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        self.control.delete("/script").await?.expect(204).map(drop)
    }

    /// Makes it do something now.
    pub(crate) async fn act(&mut self, act: Value) -> anyhow::Result<()> {
        self.faults += 1;
        self.act_quietly(act).await
    }

    /// The same while the cluster is in use elsewhere, so that nobody counts it.
    pub(crate) async fn act_quietly(&self, act: Value) -> anyhow::Result<()> {
        let reply = self.control.post("/act", &act).await?;
        ensure!(reply.status.is_success(), "hive {} cannot do that: {}", self.id, reply.text());
        Ok(())
    }

    /// What it was asked, oldest first.
    pub(crate) async fn journal(&self) -> anyhow::Result<Vec<Call>> {
        let reply = self.control.get("/journal").await?.expect(200)?;
        serde_json::from_slice(&reply.body).context("the journal reads differently")
    }

    /// How often it was asked for one thing, and did it.
    pub(crate) async fn count(&self, call: &str) -> anyhow::Result<usize> {
        let done = |c: &&Call| c.call == call && c.status.is_none_or(|status| status < 400);
        Ok(self.journal().await?.iter().filter(done).count())
    }

    /// What its workers truly are.
    pub(crate) async fn workers(&self) -> anyhow::Result<Vec<Value>> {
        let reply = self.control.get("/workers").await?.expect(200)?;
        serde_json::from_slice(&reply.body).context("the workers read differently")
    }

    /// Has a worker started past the queen, as its owner could.
    pub(crate) async fn spawn(&self, model: &str) -> anyhow::Result<()> {
        let hive = self.control.get("/hive").await?.json();
        let key = format!("by-hand-{}", self.journal().await?.len());
        let own = Server {
            base: format!("http://127.0.0.1:{}", self.port),
            token: Some(self.token.clone()),
            ..self.control.clone()
        };
        for (path, body) in [
            ("/v1/models/download", json!({ "model_ref": model })),
            ("/v1/workers/spawn", json!({ "model_ref": model, "idempotency_key": key })),
        ] {
            let deadline = tokio::time::Instant::now() + START;
            loop {
                let launch = hive["launch_id"].as_str().unwrap_or_default();
                let request =
                    own.request(reqwest::Method::POST, path).header("x-rbee-launch", launch).json(&body);
                let reply = own.send(request).await?;
                if reply.status.is_success() {
                    break;
                }
                // The transfer may still be under way.
                ensure!(tokio::time::Instant::now() < deadline, "hive {}: {path}: {}", self.id, reply.text());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Kills the process.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.faults += 1;
        self.running.kill().await.map(drop)
    }

    /// Starts it again after its end, at the same port. It has another token then, as a hive that is started by hand does.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(!self.running.is_alive(), "hive {} still runs", self.id);
        let port = self.port.to_string();
        std::fs::remove_file(self.data_dir.join("control.json"))?;
        if let Some(at) = self.start.args.iter().position(|arg| arg == "--port") {
            self.start.args[at + 1] = port.into();
        }
        self.running = self.start.spawn()?;
        self.find().await
    }

    /// Ends it as asked.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        if !self.running.is_alive() {
            return Ok(());
        }
        self.running.signal(process::Signal::TERM)?;
        if self.running.ended(Duration::from_secs(5)).await.is_err() {
            self.running.kill().await?;
        }
        Ok(())
    }

    /// What a queen is sent to attach it.
    pub(crate) fn registration(&self) -> Value {
        json!({ "id": self.id, "hostname": "127.0.0.1", "port": self.port, "token": self.token })
    }
}

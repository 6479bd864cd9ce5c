//! A fake hive as a process, steered over its control port.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use fleet::ProcessIdentity;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{self, Server},
    network::Link,
    program::{Kit, Running, Start},
};

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
    /// Whether it named the hive's launch: `right`, `wrong` or `missing`.
    pub(crate) launch: String,
    /// The model that it is about.
    pub(crate) model: Option<String>,
}

/// One fake hive.
#[derive(Debug)]
pub(crate) struct FakeHive {
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) token: String,
    pub(crate) running: Running,
    pub(crate) faults: usize,
    pub(crate) data_dir: PathBuf,
    /// How it is started; none for one that the queen starts.
    start: Option<Start>,
    control: Server,
    /// Its own network, where it has one.
    pub(crate) link: Option<Link>,
}

impl FakeHive {
    /// Starts one and waits until it can be steered.
    pub(crate) async fn start(id: &str, folder: &Path, script: &Value, kit: &Kit) -> anyhow::Result<Self> {
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let start = kit.program("fake-hive", logs.join(format!("{id}.log")));
        Self::by_hand(id, folder, script, start, None).await
    }

    /// Starts one in a network of its own, with a cable to this one.
    pub(crate) async fn start_apart(
        id: &str,
        folder: &Path,
        script: &Value,
        kit: &Kit,
    ) -> anyhow::Result<Self> {
        let start = kit.program_apart("fake-hive", folder.join("logs").join(format!("{id}.log")));
        let start = start.env("FAKE_HIVE_CONTROL_HOST", "0.0.0.0");
        Self::by_hand(id, folder, script, start, Some(Link::new())).await
    }

    async fn by_hand(
        id: &str,
        folder: &Path,
        script: &Value,
        start: Start,
        link: Option<Link>,
    ) -> anyhow::Result<Self> {
        let data_dir = folder.join(id);
        std::fs::create_dir_all(&data_dir)?;
        std::fs::write(data_dir.join("script.json"), script.to_string())?;
        let host = if link.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        let start = start.args(["--port", "0", "--host", host, "--hive-id", id, "--data-dir"]);
        let start = start.args([data_dir.as_os_str()]);
        let running = start.spawn()?;
        if let Some(link) = &link {
            link.plug_in(&running).await?;
        }
        Self::found(id, data_dir, running, Some(start), link).await
    }

    /// One that the queen starts, once it listens. Its script lies in its data directory before that.
    pub(crate) async fn launched(id: &str, data_dir: &Path) -> anyhow::Result<Self> {
        Self::launched_behind(id, data_dir, None).await
    }

    /// The same, where there may be a cable between.
    pub(crate) async fn launched_behind(
        id: &str,
        data_dir: &Path,
        link: Option<Link>,
    ) -> anyhow::Result<Self> {
        let identity = launched_process(data_dir).await?;
        let running = Running::found(&identity, data_dir.join("hive.log"))?;
        Self::found(id, data_dir.to_path_buf(), running, None, link).await
    }

    async fn found(
        id: &str,
        data_dir: PathBuf,
        running: Running,
        start: Option<Start>,
        link: Option<Link>,
    ) -> anyhow::Result<Self> {
        let control = Server { client: api::client()?, base: String::new(), token: None };
        let (id, port, token, faults) = (id.to_owned(), 0, String::new(), 0);
        let mut hive = Self { id, port, token, running, faults, data_dir, start, control, link };
        hive.find().await?;
        Ok(hive)
    }

    /// Whether it is attached, and so lives on when the queen ends.
    pub(crate) const fn is_attached(&self) -> bool {
        self.start.is_some()
    }

    /// Whether it is stopped in its tracks, and would not answer whoever asks.
    pub(crate) fn is_frozen(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.identity().pid));
        status.is_ok_and(|status| status.contains("State:\tT"))
    }

    /// Its network, in a scenario where it has one.
    pub(crate) fn link(&self) -> anyhow::Result<&Link> {
        self.link.as_ref().context("this hive has no network of its own")
    }

    /// Finds the one that the queen has started in place of the one that ended.
    pub(crate) async fn find_successor(&mut self) -> anyhow::Result<()> {
        let before = self.running.identity().clone();
        let successor = async {
            loop {
                let now = launched_process(&self.data_dir).await?;
                if now != before {
                    return anyhow::Ok(now);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let identity = tokio::time::timeout(START, successor).await;
        let identity = identity.with_context(|| format!("nobody started hive {} again", self.id))??;
        self.running = Running::found(&identity, self.data_dir.join("hive.log"))?;
        self.find().await
    }

    /// Finds the control port of the process and asks it for the rest.
    async fn find(&mut self) -> anyhow::Result<()> {
        let file = self.data_dir.join("control.json");
        let host = self.link.as_ref().map_or(Ipv4Addr::LOCALHOST, Link::control);
        let pid = self.running.identity().pid;
        let found = async {
            loop {
                let control: Option<Value> =
                    std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
                if let Some(control) = control.filter(|control| control["pid"] == pid) {
                    self.control.base = format!("http://{host}:{}", control["port"]);
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
            base: format!("http://{}:{}", self.host(), self.port),
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
        let start = self.start.as_mut().context("this hive is the queen's to start")?;
        if let Some(at) = start.args.iter().position(|arg| arg == "--port") {
            start.args[at + 1] = port.into();
        }
        self.running = start.spawn()?;
        if let Some(link) = &self.link {
            link.plug_in(&self.running).await?;
        }
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

    /// What a queen is sent to attach it. One that listens beyond loopback has a certificate.
    pub(crate) fn registration(&self) -> Value {
        let host = self.host();
        let file = std::fs::read(self.data_dir.join("hive.json")).unwrap_or_default();
        let file: Value = serde_json::from_slice(&file).unwrap_or_default();
        let mut body = json!({ "id": self.id, "hostname": host, "port": self.port, "token": self.token });
        if file["tls_fingerprint"].is_string() {
            body["tls_fingerprint"] = file["tls_fingerprint"].clone();
        }
        body
    }

    /// Where the queen finds it.
    fn host(&self) -> Ipv4Addr {
        self.link.as_ref().map_or(Ipv4Addr::LOCALHOST, Link::hive)
    }
}

/// The process that `hive.json` names, once it lives.
async fn launched_process(data_dir: &Path) -> anyhow::Result<ProcessIdentity> {
    let file = data_dir.join("hive.json");
    let found = async {
        loop {
            let identity = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
            if let Some(identity) = identity.filter(process::is_alive) {
                return identity;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(START, found).await;
    found.with_context(|| format!("nobody started a hive in {}", data_dir.display()))
}

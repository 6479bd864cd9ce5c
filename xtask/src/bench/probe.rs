//! Measuring one fleet from outside.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::{strays, up::Queen};

/// By which way a token is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Route<'a> {
    /// Through queen and hive.
    Queen,
    /// From the worker at this URL itself.
    Worker(&'a str),
}

pub(super) struct Probe {
    client: reqwest::Client,
    url: String,
    model: String,
    data_dir: PathBuf,
    pid: u32,
}

impl Probe {
    pub(super) fn of(queen: &Queen) -> anyhow::Result<Self> {
        let (url, data_dir, pid) = (queen.url.clone(), queen.data_dir.clone(), queen.pid);
        Ok(Self { url, data_dir, pid, ..Self::bare(&queen.model)? })
    }

    /// For a worker without a fleet.
    pub(super) fn bare(model: &str) -> anyhow::Result<Self> {
        let client = http_client::builder(http_client::Trust::Nobody).build()?;
        Ok(Self { client, url: String::new(), model: model.to_owned(), data_dir: PathBuf::new(), pid: 0 })
    }

    /// Waits until the hive is there, and a moment longer.
    pub(super) async fn until_idle(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            let reply = self.client.get(format!("{}/readyz", self.url)).send().await?;
            let reply: Value = serde_json::from_slice(&reply.bytes().await?)?;
            if reply["hives_online"] == 1 {
                // What allocators and threads settle to after a start.
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("the hive is not online")
    }

    /// From the request to the first token of its answer. The answer is read to its end, so that the worker is free again.
    pub(super) async fn first_token(&self, route: Route<'_>) -> anyhow::Result<Duration> {
        let body = json!({
            "model": self.model, "prompt": "Tell me a story.", "max_tokens": 2, "temperature": 0, "stream": true,
        });
        let (path, mark) = match route {
            Route::Queen => (format!("{}/v1/infer", self.url), "\"type\":\"token\""),
            Route::Worker(url) => (format!("{url}/v1/completions"), "\"text\":\" "),
        };
        let request =
            self.client.post(path).header("content-type", "application/json").body(body.to_string());
        let began = Instant::now();
        let mut response = request.send().await?;
        let (mut first, mut text) = (None, String::new());
        while let Some(piece) = response.chunk().await? {
            text.push_str(&String::from_utf8_lossy(&piece));
            if first.is_none() && text.contains(mark) {
                first = Some(began.elapsed());
            }
        }
        ensure!(text.trim_end().ends_with("[DONE]"), "no whole answer: {text}");
        first.with_context(|| format!("no token in {text}"))
    }

    /// The same of a worker that is still being started.
    pub(super) async fn first_token_once_up(&self, url: &str) -> anyhow::Result<()> {
        loop {
            let health = self.client.get(format!("{url}/health")).send().await;
            if health.is_ok_and(|reply| reply.status().is_success()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.first_token(Route::Worker(url)).await.map(drop)
    }

    /// Where the worker itself listens, by its command line.
    pub(super) fn worker_url(&self) -> anyhow::Result<String> {
        let workers = strays::below(&self.data_dir);
        let worker = workers.iter().find(|found| found.command.contains("--served-name"));
        let worker = worker.or_else(|| workers.iter().find(|found| found.command.contains("llama-server")));
        let command = &worker.context("no worker runs")?.command;
        let port = command.split(' ').skip_while(|word| *word != "--port").nth(1);
        Ok(format!("http://127.0.0.1:{}", port.context("a worker without a port")?))
    }

    /// Resident memory of a program of the fleet, in KiB.
    pub(super) fn memory_of(&self, program: &str) -> anyhow::Result<u64> {
        let is_it = |command: &str| command.split(' ').next().is_some_and(|path| path.ends_with(program));
        let found = strays::below(&self.data_dir).into_iter().find(|found| is_it(&found.command));
        let pid =
            if program == "queen-rbee" { self.pid } else { found.context("it does not run")?.identity.pid };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("this system has no /proc")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches("kB").trim().parse().context("VmRSS reads differently")
    }
}

//! The programs that are measured, each by itself for one turn.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{START, Seen};
use crate::{ports, programs::Profile, workspace};

/// By which way requests go to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Proxy,
    Queen,
    /// The hive's own proxy, before a worker that it started.
    Hive,
    Nginx,
    Haproxy,
}

/// How the load generator asks.
pub(super) struct Load {
    pub(super) kind: &'static str,
    pub(super) connections: u32,
    pub(super) body: usize,
    pub(super) for_ms: u64,
    pub(super) warm_up_ms: u64,
}

/// The worker, on the first core.
pub(super) struct Worker {
    _child: Child,
    address: SocketAddr,
    /// All slots of all workers that it stands for.
    slots: u32,
    answers: [String; 4],
}

/// A way that takes requests.
pub(super) struct Router {
    child: Option<Child>,
    address: SocketAddr,
    /// What it leaves behind.
    folder: PathBuf,
    /// Path and head of its requests, where they are not what a worker is asked.
    asks: Vec<OsString>,
}

fn bench() -> PathBuf {
    Profile::Release.program("data-plane-bench")
}

/// A program on one core, which ends with this one.
fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], ports::free()?)))
}

async fn listens(address: SocketAddr) -> anyhow::Result<()> {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        ensure!(began.elapsed() < START, "nothing listens on {address} within {START:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

impl Worker {
    pub(super) async fn start(workers: u32, tokens: u32, gap_ms: u32) -> anyhow::Result<Self> {
        let address = free()?;
        let mut command = pinned(0, &bench());
        command.args(["worker", "--listen", &address.to_string(), "--workers", &workers.to_string()]);
        let answers = ["--tokens".to_owned(), tokens.to_string(), "--gap-ms".to_owned(), gap_ms.to_string()];
        let child = command.args(&answers).spawn().context("could not start the worker")?;
        listens(address).await?;
        Ok(Self { _child: child, address, slots: 4 * workers, answers })
    }

    /// The arguments of one more like it that a hive starts.
    fn as_engine(&self) -> Vec<String> {
        let mut arguments =
            ["worker", "--with-parent", "--listen", "127.0.0.1:{port}"].map(str::to_owned).to_vec();
        arguments.extend_from_slice(&self.answers);
        arguments
    }
}

impl Way {
    /// Those that this machine has; the first is the one without a router.
    pub(super) fn all() -> Vec<Self> {
        let mut ways = vec![Self::Direct, Self::Proxy, Self::Queen, Self::Hive];
        for way in [Self::Nginx, Self::Haproxy] {
            match workspace::on_path(way.name()) {
                Some(_) => ways.push(way),
                None => eprintln!("   not measured: {} is not installed", way.name()),
            }
        }
        ways
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy => "minimal proxy",
            Self::Queen => "queen",
            Self::Hive => "hive",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Starts it on a core of its own.
    pub(super) async fn start(self, worker: &Worker, core: usize) -> anyhow::Result<Router> {
        let folder = workspace::target().join("bench-data-plane").join(self.name().replace(' ', "-"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let address = if self == Self::Direct { worker.address } else { free()? };
        let mut command = match self {
            Self::Direct => return Ok(Router { child: None, address, folder, asks: Vec::new() }),
            Self::Proxy => {
                let mut command = pinned(core, &bench());
                let (listen, upstream) = (address.to_string(), worker.address.to_string());
                command.args(["proxy", "--listen", &listen, "--upstream", &upstream]);
                command
            }
            Self::Queen => queen(address, &folder, core)?,
            Self::Hive => hive(address, &folder, core, worker)?,
            Self::Nginx => {
                let file = folder.join("nginx.conf");
                fs::write(&file, nginx(address, worker.address, &folder))?;
                let mut command = pinned(core, Path::new("nginx"));
                command.arg("-c").arg(&file).arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log"));
                command
            }
            Self::Haproxy => {
                let file = folder.join("haproxy.cfg");
                fs::write(&file, haproxy(address, worker.address))?;
                let mut command = pinned(core, Path::new("haproxy"));
                command.arg("-f").arg(&file);
                command
            }
        };
        let child = Some(command.spawn().context("could not start it")?);
        let mut router = Router { child, address, folder, asks: Vec::new() };
        listens(address).await?;
        match self {
            Self::Queen => router.attach(worker).await?,
            Self::Hive => router.spawn(worker).await?,
            _ => {}
        }
        Ok(router)
    }
}

fn queen(address: SocketAddr, folder: &Path, core: usize) -> anyhow::Result<Command> {
    let file = folder.join("queen.toml");
    let log = fs::File::create(folder.join("queen.log"))?;
    fs::write(&file, format!("listen = \"{address}\"\ndata_dir = {:?}\nhive = []\n", folder.join("data")))?;
    let mut command = pinned(core, &Profile::Release.program("queen-rbee"));
    command.arg("--config").arg(&file).stderr(log).env_remove("QUEEN_RBEE_TOKEN");
    Ok(command)
}

/// A hive whose only engine is the worker of this measurement.
fn hive(address: SocketAddr, folder: &Path, core: usize, worker: &Worker) -> anyhow::Result<Command> {
    let engine = ["taskset", "--cpu-list", "0"].map(str::to_owned).into_iter();
    let engine: Vec<_> = engine.chain([bench().display().to_string()]).chain(worker.as_engine()).collect();
    let (data, log) = (folder.join("data"), fs::File::create(folder.join("hive.log"))?);
    let models = data.join("models");
    fs::create_dir_all(&models)?;
    tiny_model::write(&models.join("tiny.gguf"))?;
    fs::write(data.join("hive.toml"), format!("[[engine]]\nname = \"bench\"\ncommand = {engine:?}\n"))?;
    let mut command = pinned(core, &Profile::Release.program("rbee-hive"));
    command.args(["--port", &address.port().to_string(), "--data-dir"]).arg(data).stderr(log);
    Ok(command)
}

fn nginx(address: SocketAddr, worker: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 16000; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  \
         fastcgi_temp_path {folder}/f;\n  uwsgi_temp_path {folder}/u;\n  scgi_temp_path {folder}/s;\n  \
         keepalive_requests 1000000000;\n  client_body_buffer_size 64k;\n  \
         upstream worker {{ server {worker}; keepalive 1024; keepalive_requests 1000000000; }}\n  \
         server {{\n    listen {address};\n    location / {{\n      proxy_pass http://worker;\n      \
         proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_buffering off;\n    }}\n  }}\n}}\n"
    )
}

fn haproxy(address: SocketAddr, worker: SocketAddr) -> String {
    format!(
        "global\n  maxconn 9000\n  nbthread 1\n\
         defaults\n  mode http\n  option http-no-delay\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend here\n  bind {address}\n  default_backend there\n\
         backend there\n  http-reuse always\n  server worker {worker}\n"
    )
}

impl Router {
    /// Tells the queen of the hive, and waits until its workers take requests.
    async fn attach(&self, worker: &Worker) -> anyhow::Result<()> {
        let client = http_client::builder(http_client::Trust::Nobody).build()?;
        let base = format!("http://{}", self.address);
        let hive = json!({ "id": "bench", "port": worker.address.port(), "token": "none-is-asked-for-here" });
        let reply = client.post(format!("{base}/v1/hives/register")).json(&hive).send().await?;
        ensure!(reply.status().is_success(), "the hive was not registered: {}", reply.text().await?);
        let began = Instant::now();
        loop {
            let listed = client.get(format!("{base}/v1/workers/list")).send().await?.text().await?;
            if listed.contains("\"ready\"") {
                return Ok(());
            }
            ensure!(began.elapsed() < START, "no worker is ready within {START:?}: {listed}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has the hive start its worker, and waits until that takes requests.
    async fn spawn(&mut self, worker: &Worker) -> anyhow::Result<()> {
        let data = self.folder.join("data");
        let token = fs::read_to_string(data.join("token"))?.trim().to_owned();
        let client = http_client::builder(http_client::Trust::Nobody).build()?;
        let base = format!("http://{}", self.address);
        let health = client.get(format!("{base}/v1/health")).bearer_auth(&token).send().await?;
        let health: Value = serde_json::from_str(&health.text().await?)?;
        let launch = health["launch_id"].as_str().context("a hive without a launch")?.to_owned();
        let model = format!("file:{}", data.join("models/tiny.gguf").display());
        let asked =
            json!({ "model_ref": model, "context": 16, "slots": worker.slots, "idempotency_key": "bench" });
        let call = |call: reqwest::RequestBuilder| call.bearer_auth(&token).header("x-rbee-launch", &launch);
        let reply = call(client.post(format!("{base}/v1/workers/spawn"))).json(&asked).send().await?;
        ensure!(reply.status().is_success(), "the hive started no worker: {}", reply.text().await?);
        let began = Instant::now();
        let id = loop {
            let listed = call(client.get(format!("{base}/v1/workers/list"))).send().await?.text().await?;
            let workers: Value = serde_json::from_str(&listed)?;
            let first = &workers["workers"][0];
            if let (true, Some(id)) = (listed.contains("\"ready\""), first["worker_id"].as_str()) {
                break id.to_owned();
            }
            ensure!(began.elapsed() < START, "no worker is ready within {START:?}: {listed}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let head = self.folder.join("head");
        fs::write(&head, format!("authorization: Bearer {token}\nx-rbee-launch: {launch}\n"))?;
        let path = format!("/v1/workers/{id}/proxy/v1/chat/completions");
        self.asks = vec!["--path".into(), path.into(), "--head".into(), head.into()];
        Ok(())
    }

    /// Asks for as long as the load says.
    pub(super) async fn under(&mut self, load: &Load) -> anyhow::Result<Seen> {
        let mut command = pinned(0, &bench());
        command.args(["load", load.kind, "--to", &self.address.to_string()]);
        command.args(["--connections", &load.connections.to_string(), "--body", &load.body.to_string()]);
        command.args(["--for-ms", &load.for_ms.to_string(), "--warm-up-ms", &load.warm_up_ms.to_string()]);
        command.args(&self.asks);
        let before = self.usage();
        let output = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).output().await?;
        let after = self.usage();
        ensure!(output.status.success(), "the load generator failed");
        let mut seen: Seen =
            serde_json::from_slice(&output.stdout).context("what the load generator says")?;
        if let (Some(before), Some(after)) = (before, after) {
            // The processor's time is of the warm-up as well, so it is divided by what was asked in all of the time.
            let asked = seen.per_second * (load.for_ms + load.warm_up_ms) as f64 / 1000.0;
            seen.cpu = (after.cpu - before.cpu).as_secs_f64() * 1e6 / asked;
            seen.grown = after.peak_kib.saturating_sub(before.peak_kib) as f64;
        }
        Ok(seen)
    }

    fn usage(&self) -> Option<Usage> {
        Usage::of(self.child.as_ref()?.id()?)
    }

    /// Ends it.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child {
            if let Some(exit) = child.try_wait()? {
                bail!("it ended by itself with {exit}; see {}", workspace::shown(&self.folder));
            }
            child.kill().await?;
        }
        Ok(())
    }
}

/// What a process used.
struct Usage {
    cpu: Duration,
    peak_kib: u64,
}

impl Usage {
    /// From `/proc/PID/stat` and `/proc/PID/status`, as proc(5) has them.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit(')').next()?.split_ascii_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        // Fields 14 and 15 of all are user and system time; a tick is a hundredth of a second.
        let cpu = Duration::from_millis(10 * (ticks(11)? + ticks(12)?));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let peak_kib = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(Self { cpu, peak_kib })
    }
}

//! A queen and its hives, for one scenario.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::future;
use serde_json::{Value, json};

use super::{
    answer::{self, Ask, Ledger, Outcome, Stream},
    api::{self, Reply, Server},
    hive::FakeHive,
    isolation,
    other_machine::{Kind, OtherMachine},
    program::Kit,
    queen::Queen,
    secrets::CANARY,
};
use crate::{ports, programs::Profile};

/// How long a state that somebody waits for may take, unless the wait says otherwise.
pub(crate) const SOON: Duration = Duration::from_secs(10);

const GIB: u64 = 1 << 30;

/// What a scenario starts with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Fake hives, attached.
    pub(crate) hives: usize,
    /// Whether each of those has a network of its own.
    pub(crate) apart: bool,
    /// Fake hives that the queen starts.
    pub(crate) launched: usize,
    /// The other machine on which the queen starts a hive.
    pub(crate) network: Option<Kind>,
    /// Real hives, started by the queen.
    pub(crate) real_hives: usize,
    /// Workers that a fake hive has room for.
    pub(crate) workers_per_hive: usize,
    /// Lines of the queen's configuration, as `key = value`.
    pub(crate) config: Vec<&'static str>,
    /// What prompts and names are made from.
    pub(crate) seed: u64,
    /// Whether a scenario that has a long form runs in it.
    pub(crate) long: bool,
    /// How large the queen's disk is, in the words of `mount`, if it is to be a small one.
    pub(crate) disk: Option<&'static str>,
    /// Which programs.
    pub(crate) kit: Kit,
}

/// Lines that hold unless the plan has the same key: deadlines that a person would wait for are cut short.
const CONFIG: &[&str] =
    &["timeouts.stop_grace = \"3s\"", "timeouts.drain = \"2s\"", "log.filter = \"debug\""];

/// One fleet. Everything of it lies below one folder.
pub(crate) struct Cluster {
    pub(crate) folder: PathBuf,
    pub(crate) queen: Queen,
    pub(crate) hives: Vec<FakeHive>,
    pub(crate) ledger: Ledger,
    pub(crate) plan: Plan,
    /// The other machine, where there is one.
    other: Option<OtherMachine>,
    /// Faults that the scenario injected into the queen or from outside.
    pub(crate) faults: usize,
    /// What the scenario measured, in words.
    pub(crate) figures: Vec<String>,
    /// A word that stands in every prompt and must stand nowhere else.
    pub(crate) mark: String,
    asked: AtomicU64,
    /// Hives whose registration was acknowledged.
    registered: Mutex<BTreeSet<String>>,
    /// Ports that somebody wanted to register a hive at.
    ports: Mutex<BTreeSet<u16>>,
    /// Where hives stand, as they were registered.
    regions: Mutex<BTreeMap<String, String>>,
}

impl Cluster {
    /// Starts hives and queen, attaches the ones to the other, and waits until all are online.
    pub(crate) async fn start(folder: &Path, plan: Plan) -> anyhow::Result<Self> {
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let data_dir = folder.join("queen");
        if let Some(size) = plan.disk {
            isolation::mount_disk(&data_dir, size).await?;
        }
        let script = machine(plan.workers_per_hive);
        let ids: Vec<_> = (0..plan.hives).map(|n| format!("hive-{n}")).collect();
        let hives = ids.iter().map(async |id| {
            if plan.apart {
                FakeHive::start_apart(id, folder, &script, &plan.kit).await
            } else {
                FakeHive::start(id, folder, &script, &plan.kit).await
            }
        });
        let hives = future::try_join_all(hives).await?;
        for number in 0..plan.launched {
            let home = launched_home(&data_dir, number);
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home)?;
            std::fs::write(home.join("script.json"), script.to_string())?;
        }
        let other = match plan.network {
            Some(kind) => Some(OtherMachine::start(folder, kind, &script).await?),
            None => None,
        };
        let queen = start_queen(folder, &logs, &plan, other.as_ref()).await?;
        let mark = format!("{CANARY}{:08x}", mixed(plan.seed) >> 32);
        let (ledger, asked) = (Ledger::default(), AtomicU64::new(0));
        let (registered, ports, regions) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (folder, faults, figures) = (folder.to_path_buf(), 0, Vec::new());
        let mut cluster = Self {
            folder,
            queen,
            hives,
            ledger,
            plan,
            other,
            faults,
            figures,
            mark,
            asked,
            registered,
            regions,
            ports,
        };
        for hive in &cluster.hives {
            let reply = cluster.register(&hive.registration()).await?;
            ensure!(reply.status.is_success(), "hive {} was not registered: {}", hive.id, reply.text());
        }
        for number in 0..cluster.plan.launched {
            let home = launched_home(&data_dir, number);
            cluster.hives.push(FakeHive::launched(&launched_id(number), &home).await?);
        }
        if let Some(other) = &cluster.other {
            cluster.hives.extend(other.fake().await?);
        }
        cluster.until_online().await?;
        Ok(cluster)
    }

    /// Waits until every hive that the fleet started with is online.
    pub(crate) async fn until_online(&self) -> anyhow::Result<()> {
        self.until_online_within(SOON).await
    }

    /// The same with a bound of its own.
    pub(crate) async fn until_online_within(&self, bound: Duration) -> anyhow::Result<()> {
        let due = self.plan.hives
            + self.plan.launched
            + self.plan.real_hives
            + usize::from(self.plan.network.is_some());
        self.wait_until("all hives are online", bound, async || {
            let hives = self.hives_list().await?;
            // Scenarios may have registered more, behind which nobody is.
            Ok(hives.iter().filter(|hive| hive["phase"] == "online").count() == due)
        })
        .await
    }

    /// The other machine.
    pub(crate) fn other(&self) -> anyhow::Result<&OtherMachine> {
        self.other.as_ref().context("this fleet has one machine")
    }

    /// Ends what the harness itself started of the other machine.
    pub(crate) async fn end_other(&mut self) -> anyhow::Result<()> {
        match &mut self.other {
            Some(other) => other.end().await,
            None => Ok(()),
        }
    }

    /// How many of something: few in the everyday run, the real number in the long form.
    pub(crate) const fn amount(&self, short: usize, full: usize) -> usize {
        if self.plan.long { full } else { short }
    }

    /// A moment below the bound that the seed decides, another one for each turn.
    pub(crate) fn moment(&self, turn: u64, below: Duration) -> Duration {
        let part = mixed(self.plan.seed ^ (turn << 32)) >> 40;
        below.mul_f64(part as f64 / f64::from(1 << 24))
    }

    /// A request of its own name, whose prompt holds the run's canary.
    pub(crate) fn ask(&self, model: &str) -> Ask {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        Ask {
            id: format!("r-{number}"),
            model: model.to_owned(),
            prompt: format!("Tell me a story ({}-{number}).", self.mark),
            tokens: 24,
            stream: true,
            region: None,
        }
    }

    /// Asks and reads the whole answer, whatever it is.
    pub(crate) async fn infer(&self, ask: &Ask) -> anyhow::Result<Outcome> {
        answer::infer(&self.queen.server, ask, &self.ledger).await
    }

    /// Asks and reads as the scenario likes.
    pub(crate) async fn open(&self, ask: &Ask) -> anyhow::Result<Stream> {
        Stream::open(&self.queen.server, ask, &self.ledger).await
    }

    /// Asks many at once.
    pub(crate) async fn infer_all(&self, asks: &[Ask]) -> anyhow::Result<Vec<Outcome>> {
        future::try_join_all(asks.iter().map(|ask| self.infer(ask))).await
    }

    /// Brings a worker of the model up by asking it something.
    pub(crate) async fn warm(&self, model: &str) -> anyhow::Result<Outcome> {
        self.infer(&self.ask(model).tokens(2)).await?.complete()
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.queen.server.get(path).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.queen.server.post(path, body).await
    }

    /// Registers a hive. One that was acknowledged has to be there in the end.
    pub(crate) async fn register(&self, body: &Value) -> anyhow::Result<Reply> {
        let port = body["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).extend(port);
        let reply = self.post("/v1/hives/register", body).await?;
        if let Some(id) = body["id"].as_str().filter(|_| reply.status.is_success()) {
            self.registrations().insert(id.to_owned());
            if let Some(region) = body["region"].as_str() {
                let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
                regions.insert(id.to_owned(), region.to_owned());
            }
        }
        Ok(reply)
    }

    /// Removes a hive.
    pub(crate) async fn remove(&self, id: &str) -> anyhow::Result<Reply> {
        self.registrations().remove(id);
        self.queen.server.delete(&format!("/v1/hives/{id}")).await
    }

    /// Every hive that has to be there.
    /// Where hives stand that were said to stand somewhere.
    pub(crate) fn regions(&self) -> BTreeMap<String, String> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn registered(&self) -> BTreeSet<String> {
        self.registrations().clone()
    }

    /// Every port that the queen may connect to.
    pub(crate) fn ports(&self) -> BTreeSet<u16> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ports.extend(self.hives.iter().map(|hive| hive.port));
        ports
    }

    fn registrations(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queen's configuration file, and what stands in it.
    pub(crate) fn config(&self) -> anyhow::Result<(PathBuf, String)> {
        let file = self.folder.join("queen.toml");
        let text = std::fs::read_to_string(&file)?;
        Ok((file, text))
    }

    /// The hives, as the queen lists them.
    pub(crate) async fn hives_list(&self) -> anyhow::Result<Vec<Value>> {
        let reply = self.get("/v1/hives/list").await?.expect(200)?;
        Ok(reply.json()["hives"].as_array().cloned().unwrap_or_default())
    }

    /// The workers, as the queen lists them.
    pub(crate) async fn workers_list(&self) -> anyhow::Result<Vec<Value>> {
        let reply = self.get("/v1/workers/list").await?.expect(200)?;
        Ok(reply.json()["workers"].as_array().cloned().unwrap_or_default())
    }

    /// The phase of a hive, as the queen sees it.
    pub(crate) async fn phase(&self, hive: &str) -> anyhow::Result<String> {
        let hives = self.hives_list().await?;
        let found = hives.iter().find(|found| found["id"] == hive);
        Ok(found.map_or("absent", |found| found["phase"].as_str().unwrap_or_default()).to_owned())
    }

    /// Where a hive stands among the fakes.
    pub(crate) fn index(&self, hive: &str) -> anyhow::Result<usize> {
        self.hives
            .iter()
            .position(|found| found.id == hive)
            .with_context(|| format!("there is no hive {hive}"))
    }

    /// How often all fakes together were asked for a call, and did it.
    pub(crate) async fn count(&self, call: &str) -> anyhow::Result<usize> {
        let counts = future::try_join_all(self.hives.iter().map(|hive| hive.count(call))).await?;
        Ok(counts.into_iter().sum())
    }

    /// How many workers the queen has asked for.
    pub(crate) fn queen_spawns(&self) -> usize {
        let events = self.queen.events.all();
        events.iter().filter(|event| matches!(event.kind, fleet::EventKind::Spawn { .. })).count()
    }

    /// Orders the same fault of every fake.
    pub(crate) async fn script_all(&mut self, patch: Value) -> anyhow::Result<()> {
        for hive in &mut self.hives {
            hive.script(patch.clone()).await?;
        }
        Ok(())
    }

    /// Waits for a state, and says which one did not come.
    pub(crate) async fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let last = match is_so().await {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(error) => format!(": {error:#}"),
            };
            if began.elapsed() > within {
                bail!("{what}: not within {within:?}{last}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn launched_id(number: usize) -> String {
    format!("hive-{number}")
}

/// The data directory that the queen gives to a hive that it starts.
fn launched_home(queen: &Path, number: usize) -> PathBuf {
    queen.join("hives").join(launched_id(number))
}

/// A machine with room for so many workers of the usual size.
fn machine(workers: usize) -> Value {
    let memory = workers as u64 * (GIB + GIB / 4);
    let device = json!({
        "kind": "cuda", "index": 0, "name": "Fake GPU", "memory_total": memory, "memory_free": memory,
    });
    json!({ "machine": { "devices": [device] } })
}

async fn start_queen(
    folder: &Path,
    logs: &Path,
    plan: &Plan,
    other: Option<&OtherMachine>,
) -> anyhow::Result<Queen> {
    let port = ports::free()?;
    let token = format!("{:016x}{:016x}", mixed(plan.seed ^ 1), mixed(u64::from(std::process::id())));
    let data_dir = folder.join("queen");
    let config_file = folder.join("queen.toml");
    std::fs::write(&config_file, config(port, &data_dir, plan, other)?)?;
    let mut start = plan
        .kit
        .program("queen-rbee", logs.join("queen.log"))
        .args(["--config".as_ref(), config_file.as_os_str()])
        .env("QUEEN_RBEE_TOKEN", &token)
        // Nobody listens there, so a queen that heeded them would reach no hive.
        .env("http_proxy", "http://127.0.0.1:9")
        .env("ALL_PROXY", "http://127.0.0.1:9");
    if plan.real_hives > 0 {
        let models = folder.join("models");
        std::fs::create_dir_all(&models)?;
        tiny_model::write(&models.join("tiny.gguf"))?;
        let path = std::env::var("PATH").unwrap_or_default();
        start = start
            .env("RBEE_HIVE_MODELS_DIR", models.display().to_string())
            // Whoever runs this may have a cache of their own.
            .env("RBEE_HIVE_HF_CACHE", folder.join("hf").display().to_string())
            .env("PATH", format!("{}:{path}", Profile::Engine.folder().display()));
    }
    let server =
        Server { client: api::client()?, base: format!("http://127.0.0.1:{port}"), token: Some(token) };
    Queen::start(start, server, &data_dir).await
}

fn config(port: u16, data_dir: &Path, plan: &Plan, other: Option<&OtherMachine>) -> anyhow::Result<String> {
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let given: Vec<_> = plan.config.iter().map(|line| key(line)).collect();
    let usual = CONFIG.iter().filter(|line| !given.contains(&key(line)));
    let mut lines = vec![format!("listen = \"127.0.0.1:{port}\""), format!("data_dir = {data_dir:?}")];
    lines.extend(plan.config.iter().chain(usual).map(|line| (*line).to_owned()));
    if plan.real_hives + plan.launched == 0 && other.is_none() {
        lines.push("hive = []".to_owned());
    }
    if plan.launched > 0 {
        lines.insert(0, format!("hive_binary = {:?}", plan.kit.profile.program("fake-hive")));
    }
    if let Some(other) = other {
        lines.insert(0, format!("hive_binary = {:?}", other.program(plan.kit.profile)));
        lines.push(other.entry()?);
    }
    for number in 0..plan.launched {
        lines.push(format!("[[hive]]\nid = \"{}\"\nport = {}", launched_id(number), ports::free()?));
    }
    for number in 0..plan.real_hives {
        lines.push(format!("[[hive]]\nid = \"real-{number}\"\nport = {}", ports::free()?));
    }
    Ok(lines.join("\n") + "\n")
}

/// Spreads a seed over all bits (the finaliser of SplitMix64).
pub(crate) fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

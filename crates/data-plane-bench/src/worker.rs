//! A worker that answers at once, behind a hive that has many of them.
//!
//! It takes the same requests twice: as a hive does (`/v1/workers/…/proxy/…`), which is how a queen asks, and as a worker
//! does, which is how a bare proxy asks. The answers are the same bytes.

use std::{fmt::Write as _, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use fleet::{
    Capabilities, Device, DeviceKind, Engine, HiveId, LaunchId, ModelRef, StoredModel, WorkerRecord,
    WorkerState,
};
use hive_api::{Beat, Health, Snapshot, WatchEvent};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::{MissedTickBehavior, interval},
};

use crate::wire::{Inbox, find};

const HIVE: &str = "bench";
const LAUNCH: &str = "bench-launch-0001";
const GIB: u64 = 1 << 30;

/// What it pretends to be.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
    /// Workers that the hive says it has
    #[arg(long, default_value_t = 1)]
    workers: u32,
    /// Slots of each
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// The model that they have
    #[arg(long, default_value = "hf:bench/model")]
    model: ModelRef,
    /// Tokens of a streamed answer
    #[arg(long, default_value_t = 50)]
    tokens: u32,
    /// Time between two of them, in milliseconds
    #[arg(long, default_value_t = 20)]
    gap_ms: u64,
    /// Ends when whoever started it has
    #[arg(long)]
    with_parent: bool,
}

struct Worker {
    snapshot: String,
    beat: String,
    health: String,
    whole: String,
    token: Vec<u8>,
    tokens: u32,
    gap: Duration,
}

/// Serves until it is ended.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let listen = options.listen;
    let worker = Rc::new(Worker::new(&options)?);
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("could not listen on {listen}"))?;
    println!("ready");
    let local = tokio::task::LocalSet::new();
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let worker = Rc::clone(&worker);
            // Whoever leaves in the middle of a stream has had enough.
            tokio::task::spawn_local(async move { worker.serve(stream).await });
        }
    };
    if !options.with_parent {
        return local.run_until(accepting).await;
    }
    tokio::select! {
        ended = local.run_until(accepting) => ended,
        () = orphaned() => Ok(()),
    }
}

/// Waits until the process has another parent than at first.
async fn orphaned() {
    let parent = std::os::unix::process::parent_id();
    let mut now_and_then = interval(Duration::from_millis(200));
    while std::os::unix::process::parent_id() == parent {
        now_and_then.tick().await;
    }
}

impl Worker {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let (hive_id, launch_id): (HiveId, LaunchId) = (HIVE.parse()?, LAUNCH.parse()?);
        let snapshot = WatchEvent::Snapshot(Box::new(snapshot(options, &hive_id, &launch_id)?));
        let beat = WatchEvent::Beat(Beat { launch_id: launch_id.clone(), rev: 1 });
        let health = Health {
            status: "ok".to_owned(),
            version: "0.1.0".to_owned(),
            api_version: 1,
            hive_id,
            launch_id,
            uptime_ms: 1,
        };
        let text = "a piece of an answer that is as long as answers are ".repeat(8);
        let whole = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "bench",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 200, "completion_tokens": 80, "total_tokens": 280 },
        });
        let frame = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "bench",
            "choices": [{ "index": 0, "delta": { "content": " token" }, "finish_reason": null }],
        });
        Ok(Self {
            snapshot: format!("event: snapshot\ndata: {}\n\n", snapshot.to_json()),
            beat: format!("event: beat\ndata: {}\n\n", beat.to_json()),
            health: serde_json::to_string(&health)?,
            whole: whole.to_string(),
            token: chunk(&format!("data: {frame}\n\n")).into_bytes(),
            tokens: options.tokens,
            gap: Duration::from_millis(options.gap_ms),
        })
    }

    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        let mut inbox = Inbox::default();
        while let Some(head) = inbox.head(&mut stream).await? {
            let Some(body) = head.body else { bail!("a chunked body") };
            inbox.until(head.length + body, &mut stream).await?;
            let (top, body) = inbox.rest().split_at(head.length);
            let target = target(top)?;
            let streamed = find(body, br#""stream":true"#).is_some();
            let asked = match target {
                "/v1/health" | "/health" => Asked::Health,
                "/v1/watch" => Asked::Watch,
                _ if target.ends_with("/completions") => {
                    Asked::Answer { streamed, by: named(target).to_owned() }
                }
                _ => Asked::Nothing,
            };
            inbox.take(head.length + body.len());
            self.answer(asked, &mut stream).await?;
        }
        Ok(())
    }

    async fn answer(&self, asked: Asked, stream: &mut TcpStream) -> anyhow::Result<()> {
        match asked {
            Asked::Health => stream.write_all(whole(200, "", &self.health).as_bytes()).await?,
            Asked::Watch => self.watched(stream).await?,
            Asked::Answer { streamed: false, by } => {
                let by = format!("x-rbee-worker: {by}\r\n");
                stream.write_all(whole(200, &by, &self.whole).as_bytes()).await?;
            }
            Asked::Answer { streamed: true, by } => self.streamed(&by, stream).await?,
            Asked::Nothing => {
                let error = json!({ "error": { "code": "not_found", "message": "nothing is here" } });
                stream.write_all(whole(404, "", &error.to_string()).as_bytes()).await?;
            }
        }
        Ok(())
    }

    async fn watched(&self, stream: &mut TcpStream) -> anyhow::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{}", chunk(&self.snapshot)).as_bytes()).await?;
        let beat = chunk(&self.beat);
        let mut second = interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            stream.write_all(beat.as_bytes()).await?;
        }
    }

    async fn streamed(&self, by: &str, stream: &mut TcpStream) -> anyhow::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-rbee-worker: {by}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let mut first = head.into_bytes();
        first.extend_from_slice(&self.token);
        stream.write_all(&first).await?;
        let mut gap = interval(self.gap);
        gap.set_missed_tick_behavior(MissedTickBehavior::Burst);
        gap.tick().await;
        for _ in 1..self.tokens {
            gap.tick().await;
            stream.write_all(&self.token).await?;
        }
        let end = format!("{}0\r\n\r\n", chunk("data: [DONE]\n\n"));
        stream.write_all(end.as_bytes()).await?;
        Ok(())
    }
}

enum Asked {
    Health,
    Watch,
    Answer { streamed: bool, by: String },
    Nothing,
}

fn target(head: &[u8]) -> anyhow::Result<&str> {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    str::from_utf8(line)?.split(' ').nth(1).context("a request line without a path")
}

/// The worker that a hive's proxy path names.
fn named(target: &str) -> &str {
    let rest = target.strip_prefix("/v1/workers/");
    rest.and_then(|rest| rest.split('/').next()).unwrap_or("w-0")
}

fn whole(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

fn chunk(text: &str) -> String {
    let mut chunk = String::with_capacity(text.len() + 16);
    let _ = write!(chunk, "{:x}\r\n{text}\r\n", text.len());
    chunk
}

fn snapshot(options: &Options, hive_id: &HiveId, launch_id: &LaunchId) -> anyhow::Result<Snapshot> {
    let cpu = Device {
        kind: DeviceKind::Cpu,
        index: 0,
        name: "a machine that costs nothing".to_owned(),
        memory_total: 1024 * GIB,
        memory_free: 512 * GIB,
    };
    let engine = Engine {
        name: "bench".to_owned(),
        version: None,
        devices: vec![DeviceKind::Cpu],
        running_usage: None,
        chat_prefill: None,
    };
    let capabilities = Capabilities {
        devices: vec![cpu],
        ram_total: 1024 * GIB,
        ram_free: 512 * GIB,
        disk_free: 512 * GIB,
        store_id: "bench-store".parse()?,
        engines: vec![engine],
        notices: Vec::new(),
    };
    let port = options.listen.port();
    let resolved = options.model.to_string().parse()?;
    let worker = |number: u32| -> anyhow::Result<WorkerRecord> {
        Ok(WorkerRecord {
            worker_id: format!("w-{number}").parse()?,
            launch_id: launch_id.clone(),
            rev: 1,
            model_ref: options.model.clone(),
            resolved: options.model.to_string().parse()?,
            digest: None,
            engine: "bench".to_owned(),
            device: "cpu:0".parse()?,
            context: 16_384,
            slots: options.slots,
            slots_busy: 0,
            prompt_tokens_total: 0,
            output_tokens_total: 0,
            memory_bytes: GIB / 16,
            pid: None,
            url: format!("http://127.0.0.1:{port}/v1/workers/w-{number}/proxy"),
            state: WorkerState::Ready,
        })
    };
    let workers = (0..options.workers).map(worker).collect::<anyhow::Result<_>>()?;
    let model = StoredModel { resolved, digest: None, bytes: GIB, files: vec!["bench.gguf".to_owned()] };
    Ok(Snapshot {
        hive_id: hive_id.clone(),
        launch_id: launch_id.clone(),
        rev: 1,
        capabilities,
        workers,
        models: vec![model],
        downloads: Vec::new(),
    })
}

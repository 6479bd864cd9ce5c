//! Asks and measures. Times are of the client: from the first byte that it sends to what it waits for.

use std::{cell::RefCell, fs, net::SocketAddr, path::PathBuf, rc::Rc, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, sleep_until},
};

use crate::wire::{Inbox, find};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The next request as soon as the answer is there
    Closed,
    /// A request at each moment that is due, answered or not
    Open,
    /// Streams, one after the other on each connection
    Streams,
}

/// What to ask, and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How it asks
    kind: Kind,
    /// Who is asked
    #[arg(long)]
    to: SocketAddr,
    /// The model
    #[arg(long, default_value = "hf:bench/model")]
    model: String,
    /// The path
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// A file with further lines of each request's head
    #[arg(long)]
    head: Option<PathBuf>,
    /// Connections at a time
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Requests a second of `open`
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Length of a body, in bytes
    #[arg(long, default_value_t = 1100)]
    body: usize,
    /// How long it measures, in milliseconds
    #[arg(long, default_value_t = 3000)]
    for_ms: u64,
    /// How long it asks before it measures, in milliseconds
    #[arg(long, default_value_t = 500)]
    warm_up_ms: u64,
}

/// What came of it. Times are microseconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    requests: usize,
    errors: usize,
    last_error: Option<String>,
    per_second: f64,
    p50: f64,
    p99: f64,
    gap_p50: f64,
    gap_p99: f64,
}

#[derive(Default)]
struct Seen {
    took: Vec<Duration>,
    gaps: Vec<Duration>,
    errors: usize,
    last_error: Option<String>,
}

#[derive(Clone, Copy)]
struct Span {
    begin: Instant,
    end: Instant,
}

/// Asks for as long as it should, and waits for the last answers.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let request: Rc<[u8]> = request(options)?.into();
    let seen = Rc::new(RefCell::new(Seen::default()));
    let begin = Instant::now() + Duration::from_millis(options.warm_up_ms);
    let span = Span { begin, end: begin + Duration::from_millis(options.for_ms) };
    let local = tokio::task::LocalSet::new();
    for number in 0..options.connections {
        let (request, seen, to) = (Rc::clone(&request), Rc::clone(&seen), options.to);
        let pace = Pace::of(options, number);
        local.spawn_local(async move {
            if let Err(error) = connection(to, &request, pace, span, &seen).await {
                let mut seen = seen.borrow_mut();
                seen.errors += 1;
                seen.last_error = Some(format!("{error:#}"));
            }
        });
    }
    local.await;
    let Seen { mut took, mut gaps, errors, last_error } = seen.take();
    took.sort_unstable();
    gaps.sort_unstable();
    let seconds = Duration::from_millis(options.for_ms).as_secs_f64();
    let requests = took.len();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 requests are made")]
    let per_second = requests as f64 / seconds;
    let of = |all: &[Duration], percent: usize| {
        let rank = (all.len() * percent).div_ceil(100).max(1);
        all.get(rank - 1).map_or(0.0, |took| took.as_secs_f64() * 1e6)
    };
    Ok(Report {
        requests,
        errors,
        last_error,
        per_second,
        p50: of(&took, 50),
        p99: of(&took, 99),
        gap_p50: of(&gaps, 50),
        gap_p99: of(&gaps, 99),
    })
}

/// When a connection sends.
#[derive(Clone, Copy)]
struct Pace {
    first: Duration,
    /// From one request to the next, answered or not; at once if there is none.
    every: Option<Duration>,
    streamed: bool,
}

impl Pace {
    fn of(options: &Options, number: u32) -> Self {
        match options.kind {
            Kind::Closed => Self { first: Duration::ZERO, every: None, streamed: false },
            Kind::Open => {
                let every = Duration::from_secs(1) * options.connections / options.rate.max(1);
                Self {
                    first: every * number / options.connections.max(1),
                    every: Some(every),
                    streamed: false,
                }
            }
            Kind::Streams => {
                // Begun one after the other over the time before it is measured, so that not all begin at once for ever.
                let spread = Duration::from_millis(options.warm_up_ms);
                Self { first: spread * number / options.connections.max(1), every: None, streamed: true }
            }
        }
    }
}

async fn connection(
    to: SocketAddr,
    request: &[u8],
    pace: Pace,
    span: Span,
    seen: &RefCell<Seen>,
) -> anyhow::Result<()> {
    let mut due = Instant::now() + pace.first;
    sleep_until(due).await;
    let mut stream = TcpStream::connect(to).await.with_context(|| format!("could not connect to {to}"))?;
    stream.set_nodelay(true)?;
    let mut inbox = Inbox::default();
    while Instant::now() < span.end {
        if let Some(every) = pace.every {
            sleep_until(due).await;
            due += every;
        }
        // Not when it was due: timers are a millisecond late, which is no fault of who is asked.
        let began = Instant::now();
        stream.write_all(request).await?;
        let measured = began >= span.begin;
        let answer = answer(&mut stream, &mut inbox, pace.streamed.then_some(seen).filter(|_| measured));
        let first = tokio::time::timeout(PATIENCE, answer).await.context("no answer within a minute")??;
        if measured {
            let end = if pace.streamed { first } else { Instant::now() };
            seen.borrow_mut().took.push(end - began);
        }
    }
    Ok(())
}

/// Reads one answer to its end; returns when its first event, or its head, was there.
async fn answer(
    stream: &mut TcpStream,
    inbox: &mut Inbox,
    gaps: Option<&RefCell<Seen>>,
) -> anyhow::Result<Instant> {
    let head = inbox.head(stream).await?.context("the connection ended")?;
    let status = inbox.rest().get(9..12).unwrap_or_default();
    if status != b"200" {
        let _ = inbox.until(head.length + head.body.unwrap_or_default(), stream).await;
        bail!("{}", String::from_utf8_lossy(inbox.rest()).lines().last().unwrap_or_default());
    }
    if let Some(length) = head.body {
        let first = Instant::now();
        inbox.until(head.length + length, stream).await?;
        inbox.take(head.length + length);
        return Ok(first);
    }
    inbox.take(head.length);
    let mut first = None;
    let mut last: Option<Instant> = None;
    loop {
        let rest = inbox.rest();
        if find(rest, b"data:").is_some() {
            let now = Instant::now();
            first.get_or_insert(now);
            if let (Some(last), Some(seen)) = (last, gaps) {
                seen.borrow_mut().gaps.push(now - last);
            }
            last = Some(now);
        }
        let over = rest.ends_with(b"0\r\n\r\n") && (rest.len() == 5 || rest.ends_with(b"\r\n0\r\n\r\n"));
        let length = rest.len();
        inbox.take(length);
        if over {
            return first.context("an answer without an event");
        }
        if !inbox.more(stream).await? {
            bail!("the stream breaks off");
        }
    }
}

fn request(options: &Options) -> anyhow::Result<Vec<u8>> {
    let (model, streamed) = (&options.model, options.kind == Kind::Streams);
    let flag = if streamed { r#""stream":true,"# } else { "" };
    let start =
        format!(r#"{{"model":"{model}",{flag}"max_tokens":80,"messages":[{{"role":"user","content":""#);
    let end = r#""}]}"#;
    let filler = options.body.saturating_sub(start.len() + end.len());
    let text = "Tell me what a bee does all day. ".repeat(filler / 33 + 1);
    let body = format!("{start}{}{end}", text.get(..filler).unwrap_or_default());
    let (to, path, length) = (options.to, &options.path, body.len());
    let more = match &options.head {
        Some(file) => fs::read_to_string(file).with_context(|| format!("{}", file.display()))?,
        None => String::new(),
    };
    let more: String = more.lines().map(|line| format!("{line}\r\n")).collect();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\n{more}content-length: {length}\r\n\r\n"
    );
    Ok((head + &body).into_bytes())
}

//! The real worker as a child process, and a client that sees every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Far beyond what anything here takes; only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The name under which the model is served.
pub(crate) const NAME: &str = "file:/models/bees.gguf";

/// A running worker, killed when the test ends in whatever way.
pub(crate) struct Worker {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    _files: Folder,
}

/// A folder of its own among cargo's for tests, gone when dropped.
///
/// Not one of `tempfile`: that switches a feature of a crate on which the engine stands too, and the tests would then build
/// the whole engine a second time.
pub(crate) struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("recite-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The command line that serves `model` on a port that the system chooses.
pub(crate) fn command(model: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"));
    command.arg("--model").arg(model).args(["--served-name", NAME, "--port", "0"]).args(more);
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The tiny model in a directory of its own.
pub(crate) fn model() -> (Folder, PathBuf) {
    let files = Folder::new();
    let path = files.path().join("bees.gguf");
    tiny_model::write(&path).unwrap();
    (files, path)
}

impl Worker {
    /// Starts a worker and waits until it serves.
    pub(crate) fn start(more: &[&str]) -> Self {
        let (files, path) = model();
        let mut child = command(&path, more).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it listened");
            if let Some((_, address)) = line.split_once("listening address=") {
                break address.trim().parse().unwrap();
            }
        };
        // Read on, or the worker would block once the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let worker = Self { child, address, _files: files };
        worker.until("it serves", |worker| worker.get("/health").0 == 200);
        worker
    }

    /// Asks until the answer is yes.
    pub(crate) fn until(&self, what: &str, yes: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !yes(self) {
            assert!(Instant::now() < deadline, "waited too long until {what}");
        }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, None).whole()
    }

    pub(crate) fn status(&self, field: &str) -> u64 {
        self.get("/rbee/status").1[field].as_u64().unwrap()
    }

    /// Posts and gives the answer to be read.
    pub(crate) fn post(&self, path: &str, mut body: Value) -> Answer {
        if body.get("model").is_none() {
            body["model"] = json!(NAME);
        }
        self.send("POST", path, Some(&body))
    }

    pub(crate) fn complete(&self, body: Value) -> Value {
        let (status, answer) = self.post("/v1/completions", body).whole();
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The text of a greedy completion.
    pub(crate) fn text(&self, prompt: &str, max_tokens: usize) -> String {
        let body = json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0});
        self.complete(body)["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: worker\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        Answer { reader: BufReader::new(stream) }
    }

    pub(crate) fn terminate(&self) {
        let line = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
    }

    /// How it ended, and after how long.
    pub(crate) fn ended(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer as it arrives. Dropping it is what a client does that leaves.
pub(crate) struct Answer {
    reader: BufReader<TcpStream>,
}

impl Answer {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    /// Status and headers.
    fn head(&mut self) -> (u16, String) {
        let status = self.line().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = String::new();
        loop {
            let line = self.line();
            if line.trim().is_empty() {
                return (status, headers);
            }
            headers.push_str(&line.to_lowercase());
        }
    }

    /// The answer that is one JSON object.
    pub(crate) fn whole(mut self) -> (u16, Value) {
        let (status, _) = self.head();
        let mut body = String::new();
        self.reader.read_to_string(&mut body).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The data of server-sent events, one by one.
    pub(crate) fn events(mut self) -> Events {
        let (status, headers) = self.head();
        assert_eq!(status, 200);
        assert!(headers.contains("content-type: text/event-stream"), "{headers}");
        assert!(headers.contains("transfer-encoding: chunked"), "{headers}");
        Events { answer: self, text: String::new() }
    }
}

pub(crate) struct Events {
    answer: Answer,
    text: String,
}

impl Iterator for Events {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.strip_prefix("data: ").expect("every event is one data line").to_owned();
                self.text = rest.to_owned();
                return Some(event);
            }
            let size = usize::from_str_radix(self.answer.line().trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            self.answer.reader.read_exact(&mut chunk).unwrap();
            self.text.push_str(std::str::from_utf8(&chunk[..size]).expect("no chunk cuts a character"));
            if size == 0 {
                assert!(self.text.is_empty(), "it ended within an event: {}", self.text);
                return None;
            }
        }
    }
}

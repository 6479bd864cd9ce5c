//! A server of one file, on loopback, and a store that asks it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use engine_store::{Bounds, EngineError, EngineStore, Progress};
use fleet::{Digest, EngineName, EngineUrl};
use sha2::Digest as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Gives the range that was asked for.
    Give,
    /// Gives the whole file whatever was asked for.
    GiveAll,
    /// Closes the connection after so many bytes of the body.
    CutAfter(usize),
    /// Sends so many bytes of the body and then nothing.
    HangAfter(usize),
    /// Answers this status with an empty body.
    Status(u16),
    /// Sends elsewhere.
    To(String),
}

pub(crate) struct Server {
    address: std::net::SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    /// The ranges that were asked for.
    pub(crate) ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    /// Acts in this order; the last one again and again.
    pub(crate) async fn start(file: Vec<u8>, acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, ranges) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, asked, file) = (Arc::clone(&requests), Arc::clone(&ranges), Arc::new(file));
        tokio::runtime::Handle::current().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, asked, file, acts) =
                    (Arc::clone(&count), Arc::clone(&asked), Arc::clone(&file), acts.clone());
                tokio::runtime::Handle::current().spawn(async move {
                    serve(stream, &file, &acts, &count, &asked).await;
                });
            }
        });
        Self { address, requests, ranges }
    }

    pub(crate) fn url(&self) -> EngineUrl {
        format!("http://{}/llama?key=secret", self.address).parse().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: TcpStream,
    file: &[u8],
    acts: &[Act],
    count: &AtomicUsize,
    asked: &Mutex<Vec<Option<usize>>>,
) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
    let range = range.map(|range| range.trim_end_matches('-').parse::<usize>().unwrap());
    asked.lock().unwrap().push(range);
    let act = acts[count.fetch_add(1, Ordering::SeqCst).min(acts.len() - 1)].clone();
    let from = if matches!(act, Act::GiveAll) { 0 } else { range.unwrap_or(0) };
    let body = file.get(from..).unwrap_or_default();
    let length = format!("content-length: {}\r\nconnection: close\r\n", body.len());
    let ok = match from {
        0 => format!("HTTP/1.1 200 OK\r\n{length}\r\n"),
        _ if from >= file.len() => "HTTP/1.1 416 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into(),
        from => {
            let (last, all) = (file.len() - 1, file.len());
            format!("HTTP/1.1 206 Part\r\ncontent-range: bytes {from}-{last}/{all}\r\n{length}\r\n")
        }
    };
    let (head, body, hang) = match act {
        Act::Give | Act::GiveAll => (ok, body, false),
        Act::CutAfter(bytes) => (ok, &body[..bytes.min(body.len())], false),
        Act::HangAfter(bytes) => (ok, &body[..bytes.min(body.len())], true),
        Act::Status(status) => (
            format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            &[][..],
            false,
        ),
        Act::To(target) => (
            format!(
                "HTTP/1.1 302 There\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            ),
            &[][..],
            false,
        ),
    };
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.flush().await
    };
    if sent.await.is_ok() && hang {
        // Until the other side has enough.
        let _ = stream.read(&mut byte).await;
    }
    let _ = stream.shutdown().await;
}

/// A store in a directory of its own.
pub(crate) struct Kept {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: EngineStore,
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    /// The store of a later queen.
    pub(crate) fn over(dir: tempfile::TempDir) -> Self {
        let bounds = Bounds {
            stall: Duration::from_millis(400),
            resumes: 2,
            pause: Duration::from_millis(5),
            ..Bounds::default()
        };
        let store = EngineStore::new(dir.path().join("engines"), bounds).unwrap();
        Self { dir, store }
    }

    pub(crate) async fn get(
        &self,
        url: &EngineUrl,
        sha256: Digest,
    ) -> Result<std::path::PathBuf, Arc<EngineError>> {
        self.told(url, sha256).await.0
    }

    /// The result, and what was told on the way.
    pub(crate) async fn told(
        &self,
        url: &EngineUrl,
        sha256: Digest,
    ) -> (Result<std::path::PathBuf, Arc<EngineError>>, Vec<Progress>) {
        let (told, name) = (Mutex::new(Vec::new()), "llama-server".parse::<EngineName>().unwrap());
        let getting = self.store.get(url, sha256, &name, |progress| told.lock().unwrap().push(progress));
        let got = tokio::time::timeout(PATIENCE, getting).await.expect("it ends");
        (got, told.into_inner().unwrap())
    }

    /// The names of what is in the store's directory.
    pub(crate) fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("engines")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

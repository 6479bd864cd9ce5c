//! One file from its sources, resumed where it broke off.

use std::{path::Path, time::Duration};

use fleet::Token;
use http::{StatusCode, Uri, header};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
};

use super::{Failed, Transfer};
use crate::{
    hub::RemoteFile,
    web::{Answer, Ask, Whom},
};

/// Pause before a resume, times the number of failures.
const PAUSE: Duration = Duration::from_millis(200);

/// What a connection has to bring so that its breaking off is not held against the source, in bytes. A source that gives
/// a byte at a time would otherwise be resumed for ever.
const GOOD: u64 = 1024 * 1024;

/// Where a file can be had.
struct Origin<'a> {
    name: String,
    url: &'a Uri,
    token: Option<&'a Token>,
    whom: Whom,
}

/// Why an attempt did not bring the whole file.
enum Attempt {
    /// Another attempt may.
    Again(String),
    /// This source will not.
    Never(String),
    /// No source can help.
    Failed(Failed),
}

impl Transfer<'_> {
    /// The whole file into `part`, from the first source that has it; answers its size.
    pub(super) async fn fetch(&self, file: &RemoteFile, part: &Path) -> Result<u64, Failed> {
        let mut reasons = Vec::new();
        for origin in self.origins(file) {
            match self.get_from(&origin, file, part).await {
                Ok(bytes) => return Ok(bytes),
                Err(Attempt::Again(reason) | Attempt::Never(reason)) => {
                    tracing::warn!(source = origin.name, file = file.path, reason, "a source failed");
                    reasons.push(format!("{}: {reason}", origin.name));
                }
                Err(Attempt::Failed(failed)) => return Err(failed),
            }
        }
        // Only who offered other hives as sources can be expected to bring what this machine cannot reach.
        if !self.peers.is_empty() {
            match self.relayed(file, part).await? {
                Some(bytes) => return Ok(bytes),
                None => reasons.push("the queen brought nothing".to_owned()),
            }
        }
        let tried = if reasons.is_empty() { "it has no source".to_owned() } else { reasons.join("; ") };
        Err(Failed::new("source_unreachable", format!("could not get {}: {tried}", file.path)))
    }

    fn origins<'a>(&'a self, file: &'a RemoteFile) -> Vec<Origin<'a>> {
        let peers = self.peers.iter().filter(|peer| peer.digest == file.sha256).map(|peer| Origin {
            name: format!("hive {}", peer.url.authority().map_or("?", |authority| authority.as_str())),
            url: &peer.url,
            token: Some(&peer.token),
            whom: Whom::Peer(peer.pin),
        });
        let hub = file.url.as_ref().map(|url| Origin {
            name: format!("hub {}", url.authority().map_or("?", |authority| authority.as_str())),
            url,
            token: self.hub_token,
            whom: Whom::Hub,
        });
        peers.chain(hub).collect()
    }

    async fn get_from(&self, origin: &Origin<'_>, file: &RemoteFile, part: &Path) -> Result<u64, Attempt> {
        let mut failures = 0;
        loop {
            let before = length(part).await;
            let reason = match self.attempt(origin, file, part).await {
                Ok(bytes) => return Ok(bytes),
                Err(Attempt::Again(reason)) => reason,
                Err(other) => return Err(other),
            };
            let brought = length(part).await.saturating_sub(before);
            failures = if brought >= GOOD { 1 } else { failures + 1 };
            if failures > self.settings.resumes {
                return Err(Attempt::Again(reason));
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE * failures) => {}
                () = self.closing.cancelled() => return Err(Attempt::Failed(Failed::closing())),
            }
        }
    }

    /// One connection: asks for what is missing and writes what comes.
    async fn attempt(&self, origin: &Origin<'_>, file: &RemoteFile, part: &Path) -> Result<u64, Attempt> {
        let have = length(part).await;
        if file.bytes == Some(have) {
            return Ok(have);
        }
        let ask = Ask { bearer: origin.token, from: Some(have), to: None, whom: origin.whom };
        let answer = tokio::select! {
            answer = self.web.get(origin.url, ask) => answer.map_err(Attempt::Again)?,
            () = self.closing.cancelled() => return Err(Attempt::Failed(Failed::closing())),
        };
        let (start, total) = match answer.status {
            StatusCode::PARTIAL_CONTENT => content_range(&answer).ok_or_else(|| unclear("Content-Range"))?,
            StatusCode::OK => (0, content_length(&answer).or(file.bytes).ok_or_else(|| unclear("length"))?),
            // More is here than there: nothing of it can be trusted.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.begin_anew(part).await?;
                return Err(Attempt::Again("it has less than what came before".to_owned()));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Attempt::Again(format!("it answered {status}")));
            }
            status => return Err(Attempt::Never(format!("it answered {status}"))),
        };
        if file.bytes.is_some_and(|bytes| bytes != total) {
            return Err(Attempt::Never(format!("its file has {total} bytes, not {:?}", file.bytes)));
        }
        if start != 0 && start != have {
            return Err(Attempt::Again(format!("it began at byte {start}, not at {have}")));
        }
        if file.bytes.is_none() {
            self.flight.set_total(total);
        }
        self.receive(answer, part, start, total).await
    }

    async fn begin_anew(&self, part: &Path) -> Result<(), Attempt> {
        self.flight.set_current(0);
        match tokio::fs::remove_file(part).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Attempt::Failed(Failed::io("remove", part, &error)))
            }
            _ => Ok(()),
        }
    }

    async fn receive(&self, mut answer: Answer, part: &Path, start: u64, total: u64) -> Result<u64, Attempt> {
        let failed = |error: &std::io::Error| Attempt::Failed(Failed::io("write", part, error));
        let mut to = open(part, start).await.map_err(|error| failed(&error))?;
        let mut have = start;
        self.flight.set_current(have);
        let ended = loop {
            let piece = tokio::select! {
                piece = answer.piece() => piece,
                () = self.closing.cancelled() => break Err(Attempt::Failed(Failed::closing())),
            };
            match piece {
                Ok(Some(piece)) => {
                    have += piece.len() as u64;
                    if have > total {
                        break Err(Attempt::Never(format!(
                            "it sent more than the {total} bytes it announced"
                        )));
                    }
                    to.write_all(&piece).await.map_err(|error| failed(&error))?;
                    self.flight.set_current(have);
                }
                Ok(None) if have == total => break Ok(have),
                Ok(None) => break Err(Attempt::Again(format!("it ended at byte {have} of {total}"))),
                Err(reason) => break Err(Attempt::Again(reason)),
            }
        };
        // What came is kept for the next attempt, however this one ended.
        to.flush().await.map_err(|error| failed(&error))?;
        ended
    }
}

fn unclear(what: &str) -> Attempt {
    Attempt::Never(format!("its answer has no usable {what}"))
}

pub(super) async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(path).await.map_or(0, |metadata| metadata.len())
}

/// Opens the part for writing at `at`; what was behind it is gone.
pub(super) async fn open(part: &Path, at: u64) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let mut file = options.open(part).await?;
    file.set_len(at).await?;
    tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::Start(at)).await?;
    Ok(file)
}

fn content_length(answer: &Answer) -> Option<u64> {
    answer.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `bytes first-last/total` (RFC 9110, 14.4): the first byte and the size of the whole.
fn content_range(answer: &Answer) -> Option<(u64, u64)> {
    let text = answer.headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()?))
}

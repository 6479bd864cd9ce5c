//! One file from its sources, resumed where it broke off.

use std::{fmt, path::Path, time::Duration};

use fleet::Token;
use http::{StatusCode, Uri, header};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
};

use super::{Failed, Peer, Transfer};
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
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// Another hive.
    Peer(&'a Peer),
    /// The queen brings it.
    Queen,
    /// The hub.
    Hub { url: &'a Uri, token: Option<&'a Token> },
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |url: &Uri| url.authority().map_or_else(|| "?".to_owned(), ToString::to_string);
        match self {
            Self::Peer(peer) => write!(f, "hive {}", host(&peer.url)),
            Self::Queen => f.write_str("the queen"),
            Self::Hub { url, .. } => write!(f, "hub {}", host(url)),
        }
    }
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
    /// Where the file can be had, in the order in which it is tried.
    pub(super) fn origins<'a>(&'a self, file: &'a RemoteFile) -> Vec<Origin<'a>> {
        let peers = self.order.peers.iter().filter(|peer| peer.digest == file.sha256).map(Origin::Peer);
        let queen = self.order.relayed.then_some(Origin::Queen);
        peers.chain(queen).chain([Origin::Hub { url: &file.url, token: self.hub_token }]).collect()
    }

    /// The whole file into `part`, from one origin; answers its size, or why it did not come.
    pub(super) async fn fetch(
        &self,
        origin: &Origin<'_>,
        file: &RemoteFile,
        part: &Path,
    ) -> Result<Result<u64, String>, Failed> {
        let (url, ask) = match *origin {
            Origin::Queen => {
                let brought = self.relayed(file, part).await?;
                return Ok(brought.ok_or_else(|| "it brought nothing".to_owned()));
            }
            Origin::Peer(peer) => (&peer.url, (Some(&peer.token), Whom::Peer(peer.pin))),
            Origin::Hub { url, token } => (url, (token, Whom::Hub)),
        };
        match self.get_from(url, ask, file, part).await {
            Ok(bytes) => Ok(Ok(bytes)),
            Err(Attempt::Again(reason) | Attempt::Never(reason)) => Ok(Err(reason)),
            Err(Attempt::Failed(failed)) => Err(failed),
        }
    }

    async fn get_from(
        &self,
        url: &Uri,
        whom: (Option<&Token>, Whom),
        file: &RemoteFile,
        part: &Path,
    ) -> Result<u64, Attempt> {
        let mut failures = 0;
        loop {
            let before = length(part).await;
            let reason = match self.attempt(url, whom, file, part).await {
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
    async fn attempt(
        &self,
        url: &Uri,
        (bearer, whom): (Option<&Token>, Whom),
        file: &RemoteFile,
        part: &Path,
    ) -> Result<u64, Attempt> {
        let have = length(part).await;
        if file.bytes == Some(have) {
            return Ok(have);
        }
        let ask = Ask { bearer, from: Some(have), to: None, whom };
        let answer = tokio::select! {
            answer = self.web.get(url, ask) => answer.map_err(Attempt::Again)?,
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

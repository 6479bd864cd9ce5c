//! Getting the files of one model here: from other hives, from the hub, or relayed by the queen.
//!
//! ```text
//!  for each file:  peers ─▶ wait for the queen ─▶ hub        each: fetch ─▶ verify ─▶ rename
//!                  └── what came is kept in `<file>.part` and resumed ──┘
//! ```

mod file;
mod relay;

use std::path::{Path, PathBuf};

use fleet::{Digest, DownloadState, TlsFingerprint, Token};
use http::Uri;
use tokio_util::sync::CancellationToken;

use crate::{
    Order, StoreSettings, digest,
    flight::Flight,
    hub::{RemoteFile, Resolution},
    index::FileEntry,
    web::Web,
};

use file::Origin;

pub(crate) use relay::write;

/// Another hive that offers one file.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its blob's URL.
    pub url: Uri,
    /// The file, by its SHA-256.
    pub digest: Digest,
    /// What it asks for there.
    pub token: Token,
    /// The only certificate that it may show; over plain HTTP without one.
    pub pin: Option<TlsFingerprint>,
}

/// Why a transfer ended without a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Failed {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn closing() -> Self {
        Self::new("draining", "the hive is stopping; what came is kept for the next attempt")
    }

    fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let is_full = error.kind() == std::io::ErrorKind::StorageFull;
        let code = if is_full { "storage_full" } else { "internal" };
        Self::new(code, format!("could not {action} {}: {error}", path.display()))
    }
}

/// What came from one origin.
enum Brought {
    /// The file, of this size.
    Whole(u64),
    /// Other bytes than it should have.
    Damaged,
    /// Not the whole file, and why.
    Nothing(String),
}

/// Everything that one transfer works with.
pub(crate) struct Transfer<'a> {
    pub(crate) settings: &'a StoreSettings,
    pub(crate) web: &'a Web,
    pub(crate) hub_token: Option<&'a Token>,
    pub(crate) flight: &'a Flight,
    pub(crate) resolution: &'a Resolution,
    pub(crate) order: &'a Order,
    pub(crate) closing: &'a CancellationToken,
    /// Files that need not come: they lie in the Hugging Face cache.
    pub(crate) cached: Vec<FileEntry>,
}

impl Transfer<'_> {
    /// Brings all files here and tells what they are.
    pub(crate) async fn run(&self) -> Result<Vec<FileEntry>, Failed> {
        self.flight.go(DownloadState::Downloading);
        let below = Path::new("hub").join(&self.resolution.dir);
        let mut entries = Vec::new();
        for file in &self.resolution.files {
            let is_it = |entry: &&FileEntry| entry.cached.as_ref().is_some_and(|c| c.name == file.path);
            if let Some(entry) = self.cached.iter().find(is_it) {
                self.flight.pass(entry.bytes);
                entries.push(entry.clone());
                continue;
            }
            let path = below.join(&file.path);
            let whole = self.settings.dir.join(&path);
            let bytes = self.bring(file, &whole).await?;
            self.flight.pass(bytes);
            entries.push(FileEntry { path, bytes, sha256: Some(file.sha256), modified: None, cached: None });
        }
        Ok(entries)
    }

    /// One file, whole and verified; answers its size.
    async fn bring(&self, file: &RemoteFile, whole: &Path) -> Result<u64, Failed> {
        // It was verified before it got this name.
        if let Ok(metadata) = tokio::fs::metadata(whole).await
            && file.bytes.is_none_or(|bytes| bytes == metadata.len())
        {
            return Ok(metadata.len());
        }
        let dir = whole.parent().unwrap_or(whole);
        durable_file::create_private_directory(dir).map_err(|error| Failed::io("create", dir, &error))?;
        let part = with_suffix(whole, ".part");
        self.check_headroom(file, &part).await?;
        let mut reasons = Vec::new();
        let mut damaged = false;
        for origin in self.origins(file) {
            // The queen would bring what the other hive gave.
            if damaged && matches!(origin, Origin::Queen) {
                continue;
            }
            match self.bring_from(&origin, file, &part, whole).await? {
                Brought::Whole(bytes) => return Ok(bytes),
                Brought::Damaged => damaged = true,
                Brought::Nothing(reason) => reasons.push(format!("{origin}: {reason}")),
            }
        }
        if damaged {
            let message = format!("{} only came with a digest other than {}", file.path, file.sha256);
            return Err(Failed::new("digest_mismatch", message));
        }
        let tried = if reasons.is_empty() { "it has no source".to_owned() } else { reasons.join("; ") };
        Err(Failed::new("source_unreachable", format!("could not get {}: {tried}", file.path)))
    }

    /// Tries one origin. What was damaged may have been so by what an earlier attempt left, or on the way from the hub, so it is
    /// fetched anew, once.
    async fn bring_from(
        &self,
        origin: &Origin<'_>,
        file: &RemoteFile,
        part: &Path,
        whole: &Path,
    ) -> Result<Brought, Failed> {
        let mut again = matches!(origin, Origin::Hub { .. }) || file::length(part).await > 0;
        loop {
            let bytes = match self.fetch(origin, file, part).await? {
                Ok(bytes) => bytes,
                Err(reason) => {
                    tracing::warn!(source = %origin, file = file.path, reason, "a source failed");
                    return Ok(Brought::Nothing(reason));
                }
            };
            self.flight.go(DownloadState::Verifying);
            let is_whole = self.digest(part).await? == file.sha256;
            if is_whole {
                self.keep(part, whole).await?;
                self.flight.go(DownloadState::Downloading);
                return Ok(Brought::Whole(bytes));
            }
            tracing::warn!(source = %origin, file = file.path, "what came has another digest");
            tokio::fs::remove_file(part).await.map_err(|error| Failed::io("remove", part, &error))?;
            self.flight.set_current(0);
            self.flight.go(DownloadState::Downloading);
            if !std::mem::take(&mut again) {
                return Ok(Brought::Damaged);
            }
        }
    }

    async fn check_headroom(&self, file: &RemoteFile, part: &Path) -> Result<(), Failed> {
        let Some(bytes) = file.bytes else { return Ok(()) };
        let have = tokio::fs::metadata(part).await.map_or(0, |metadata| metadata.len());
        let needed = bytes.saturating_sub(have).saturating_add(self.settings.headroom);
        let dir = part.parent().unwrap_or(part);
        let found = rustix::fs::statvfs(dir).map_err(|error| Failed::io("look at", dir, &error.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free >= needed {
            return Ok(());
        }
        let message = format!(
            "{} needs {needed} bytes with the {} that stay free, and {} has {free}",
            file.path,
            self.settings.headroom,
            dir.display()
        );
        Err(Failed::new("storage_full", message))
    }

    async fn digest(&self, part: &Path) -> Result<Digest, Failed> {
        let (path, closing) = (part.to_owned(), self.closing.clone());
        let hashing = tokio::task::spawn_blocking(move || digest::of_file(&path, &closing, |_| ()));
        match hashing.await {
            Ok(Ok(digest)) => Ok(digest),
            Ok(Err(error)) if !self.closing.is_cancelled() => Err(Failed::new("internal", error.to_string())),
            Ok(Err(_)) | Err(_) => Err(Failed::closing()),
        }
    }

    /// Gives a verified file its name, durably.
    async fn keep(&self, part: &Path, whole: &Path) -> Result<(), Failed> {
        let (from, to): (PathBuf, PathBuf) = (part.to_owned(), whole.to_owned());
        let renaming = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&from)?.sync_all()?;
            std::fs::rename(&from, &to)?;
            std::fs::File::open(to.parent().unwrap_or(&to))?.sync_all()
        });
        let renamed = renaming.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        renamed.map_err(|error| Failed::io("keep", whole, &error))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

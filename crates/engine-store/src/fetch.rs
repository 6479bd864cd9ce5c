//! One transfer, from nothing to a directory.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fleet::{Digest, EngineName, EngineUrl};
use sha2::{Digest as _, Sha256};

use crate::{
    Bounds, EngineError, Progress,
    unpack::{self, Unpacked},
    web::{self, Cut},
};

/// No engine is larger; the largest builds with CUDA's libraries are near one gigabyte.
const LARGEST: u64 = 8 << 30;

/// How many bytes more are worth telling.
const TELL_EVERY: u64 = 512 * 1024;

pub(crate) struct Flight {
    pub(crate) dir: PathBuf,
    pub(crate) http: reqwest::Client,
    pub(crate) bounds: Bounds,
    pub(crate) url: EngineUrl,
    pub(crate) sha256: Digest,
    pub(crate) program: EngineName,
}

impl Flight {
    pub(crate) async fn run(&self, tell: impl Fn(Progress)) -> Result<PathBuf, EngineError> {
        let folder = self.dir.join(self.sha256.to_string());
        if folder.is_dir() {
            return Ok(folder);
        }
        let private = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        private.map_err(|source| self.disk(&self.dir, source))?;
        let part = self.dir.join(format!("{}.part", self.sha256));
        tracing::info!(url = %self.url, "an engine is fetched");
        let resumed = size(&part) > 0;
        if !(resumed && self.is_whole(&part).await) {
            self.transfer(&part, &tell).await?;
        }
        match self.finish(&part, &folder).await {
            // Perhaps it is what an earlier try left that is damaged.
            Err(EngineError::Digest { .. }) if resumed => {
                self.transfer(&part, &tell).await?;
                self.finish(&part, &folder).await
            }
            finished => finished,
        }
    }

    /// Whether an earlier queen had all of it and ended before it was unpacked.
    async fn is_whole(&self, part: &Path) -> bool {
        let (part, expected) = (part.to_owned(), self.sha256);
        let looking = tokio::task::spawn_blocking(move || digest(&part).is_ok_and(|found| found == expected));
        looking.await.unwrap_or(false)
    }

    fn disk(&self, path: &Path, source: io::Error) -> EngineError {
        EngineError::Disk { path: path.to_owned(), source }
    }

    /// Brings all bytes into the partial file, over several connections if one is not enough.
    async fn transfer(&self, part: &Path, tell: &impl Fn(Progress)) -> Result<(), EngineError> {
        let mut pause = self.bounds.pause;
        let mut resumes = 0;
        loop {
            match self.attempt(part, tell).await {
                Ok(()) => return Ok(()),
                Err(Cut::Broke(reason)) if resumes < self.bounds.resumes => {
                    tracing::info!(url = %self.url, %reason, "the transfer of an engine was cut");
                    resumes += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(cut) => return Err(self.told(cut)),
            }
        }
    }

    fn told(&self, cut: Cut) -> EngineError {
        let url = self.url.clone();
        match cut {
            Cut::Broke(reason) => EngineError::Broke { url, reason },
            Cut::Refused(status) => EngineError::Refused { url, status },
            Cut::Redirect(reason) => EngineError::Redirect { url, reason },
            Cut::Told(error) => error,
        }
    }

    /// One connection: from what is there to the end.
    async fn attempt(&self, part: &Path, tell: &impl Fn(Progress)) -> Result<(), Cut> {
        let mut answer = web::open(&self.http, &self.url, size(part), self.bounds.stall).await?;
        let disk = |source| Cut::Told(self.disk(part, source));
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        let mut file = match answer.from {
            0 => options.truncate(true).open(part),
            _ => options.append(true).open(part),
        }
        .map_err(disk)?;
        let mut bytes = answer.from;
        let mut told = None;
        loop {
            if told.is_none_or(|told| bytes >= told + TELL_EVERY) {
                tell(Progress { bytes, total: answer.total });
                told = Some(bytes);
            }
            let Some(piece) = answer.piece().await? else { break };
            bytes += piece.len() as u64;
            if bytes > LARGEST {
                drop(fs::remove_file(part));
                return Err(Cut::Told(EngineError::Large { url: self.url.clone(), most: LARGEST }));
            }
            file.write_all(&piece).map_err(disk)?;
        }
        tell(Progress { bytes, total: answer.total });
        Ok(())
    }

    /// Checks the digest of the partial file and makes the directory of it. A file with another digest is removed.
    async fn finish(&self, part: &Path, folder: &Path) -> Result<PathBuf, EngineError> {
        let (part, folder, expected) = (part.to_owned(), folder.to_owned(), self.sha256);
        let (url, program) = (self.url.clone(), self.program.clone());
        let lost = || EngineError::Lost { url: self.url.clone() };
        let finishing = tokio::task::spawn_blocking(move || {
            let disk = |path: &Path, source| EngineError::Disk { path: path.to_owned(), source };
            let found = digest(&part).map_err(|source| disk(&part, source))?;
            if found != expected {
                drop(fs::remove_file(&part));
                return Err(EngineError::Digest { url, expected, found });
            }
            let temporary = folder.with_extension("tmp");
            match fs::remove_dir_all(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(&temporary, error)),
                _ => {}
            }
            DirBuilder::new().mode(0o700).create(&temporary).map_err(|source| disk(&temporary, source))?;
            match unpack::unpack(&part, &temporary, program.as_str()) {
                Ok(Unpacked::Whole) => {}
                Ok(Unpacked::NoProgram) => return Err(EngineError::NoProgram { url, program }),
                Ok(Unpacked::NotAnArchive(reason)) => return Err(EngineError::Archive { url, reason }),
                Err(source) => return Err(disk(&temporary, source)),
            }
            let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
            let named = sync(&temporary).and_then(|()| fs::rename(&temporary, &folder));
            named.map_err(|source| disk(&folder, source))?;
            folder.parent().map_or(Ok(()), sync).map_err(|source| disk(&folder, source))?;
            // It is of no more use; one that stays takes room and nothing else.
            drop(fs::remove_file(&part));
            Ok(folder)
        });
        finishing.await.map_err(|_| lost())?
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn digest(path: &Path) -> io::Result<Digest> {
    let (mut file, mut digest, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(digest.finalize().into())),
            count => digest.update(&buffer[..count]),
        }
    }
}

//! Models of the Hugging Face cache, used where they lie.
//!
//! A file of the cache is the model's only when its size and its SHA-256 are those that the hub, the fleet or its own blob's
//! name say. The digest of a file that did not change since is not computed again, also by a later process: the index
//! remembers what each file was like.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fleet::{Digest, DownloadState, Resolved};

use crate::{
    Header, ModelStore, StoreError, digest,
    flight::Flight,
    header,
    hf_cache::{CacheFile, HfCache},
    hub::{RemoteFile, Resolution, is_projector},
    index::{Cached, Entry, FileEntry},
    store::Inner,
};

/// Pause between two looks at what the cache has and has no more. A look opens directories and no files.
const LOOK: Duration = Duration::from_secs(15);

/// Digests of files, of those too that are not what they should be.
pub(crate) type Proofs = HashMap<CacheFile, Digest>;

impl ModelStore {
    /// Takes up the models of the cache, those that come later too, and lets go of those that left. Never ends.
    pub async fn keep_up(&self) {
        let Some(cache) = self.inner.cache.clone() else { return std::future::pending().await };
        loop {
            if let Err(error) = self.inner.look_through(&cache).await {
                tracing::warn!(cache = %cache.root().display(), %error, "could not look through the Hugging Face cache");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Inner {
    async fn look_through(self: &Arc<Self>, cache: &HfCache) -> Result<(), StoreError> {
        let (inner, all) = (Arc::clone(self), cache.clone());
        let looking = self.tasks.spawn_blocking(move || {
            inner.forget_gone()?;
            Ok(all.models())
        });
        for pinned in looking.await.map_err(|_| StoreError::Closing)?? {
            if !self.is_open(&pinned.resolved) {
                continue;
            }
            let Ok(resolution) = self.hub.pinned(&pinned) else { continue };
            let files = self.from_cache(&resolution, None).await;
            if files.len() == resolution.files.len() && self.is_open(&pinned.resolved) {
                tracing::info!(model = %pinned.resolved, "a model of the Hugging Face cache is used where it lies");
                let inner = Arc::clone(self);
                let entry = Entry { resolved: pinned.resolved, refs: Vec::new(), files };
                let keeping = self.tasks.spawn_blocking(move || inner.keep(entry));
                keeping.await.map_err(|_| StoreError::Closing)??;
            }
        }
        Ok(())
    }

    /// Whether a model of the cache is neither listed nor on its way.
    fn is_open(&self, resolved: &Resolved) -> bool {
        !self.entries().contains_key(resolved)
            && !self.downloads.is_under_way(resolved)
            && !self.partial().contains(resolved)
    }

    /// Lets go of a model that the cache has without its projector, now that the hub says that there is one: whoever asks for it
    /// gets that too.
    pub(crate) fn let_go_of_parts(&self, resolution: &Resolution) -> Result<(), StoreError> {
        let entry = self.entries().get(&resolution.resolved).cloned();
        match entry.filter(|entry| entry.is_cached() && entry.files.len() < resolution.files.len()) {
            Some(entry) => {
                self.partial().insert(entry.resolved.clone());
                self.forget(&entry)
            }
            None => Ok(()),
        }
    }

    /// The header of a model that lies in the cache, which is not proven yet; it decides nothing but what the model may need.
    pub(crate) async fn cached_header(self: &Arc<Self>, resolution: &Resolution) -> Option<Header> {
        let cache = self.cache.clone()?;
        let resolution = resolution.clone();
        let reading = self.tasks.spawn_blocking(move || {
            let first = cache.find(&resolution.resolved, resolution.files.get(..1)?)?;
            let (info, _) = header::read(&first.first()?.path).ok()?;
            Some(Header {
                bytes: resolution.bytes().unwrap_or(0),
                files: resolution.files.iter().map(RemoteFile::described).collect(),
                resolved: resolution.resolved,
                info,
            })
        });
        reading.await.ok()?
    }

    /// Those of a model's files that lie in the cache and are proven to be what they should be. Shards come all from there or
    /// not at all, as engines look for them beside each other.
    pub(crate) async fn from_cache(
        self: &Arc<Self>,
        resolution: &Resolution,
        flight: Option<&Arc<Flight>>,
    ) -> Vec<FileEntry> {
        let Some(cache) = self.cache.clone() else { return Vec::new() };
        let (inner, resolution, flight) = (Arc::clone(self), resolution.clone(), flight.cloned());
        let proving = self.tasks.spawn_blocking(move || {
            let files = resolution.files.iter().cloned();
            let (projectors, model): (Vec<_>, Vec<_>) = files.partition(|file| is_projector(&file.path));
            let groups = [model].into_iter().chain(projectors.into_iter().map(|projector| vec![projector]));
            let proven = groups.filter_map(|group| {
                let found = cache.find(&resolution.resolved, &group)?;
                inner.proven(&cache, group.iter().zip(found), flight.as_deref())
            });
            proven.flatten().collect()
        });
        proving.await.unwrap_or_default()
    }

    fn proven<'a>(
        &self,
        cache: &HfCache,
        files: impl Iterator<Item = (&'a RemoteFile, CacheFile)>,
        flight: Option<&Flight>,
    ) -> Option<Vec<FileEntry>> {
        let mut entries: Vec<FileEntry> = Vec::new();
        let mut before = 0;
        if let Some(flight) = flight {
            flight.go(DownloadState::Verifying);
        }
        for (file, found) in files {
            let read = |bytes| {
                if let Some(flight) = flight {
                    flight.set_current(before + bytes);
                }
            };
            let path = found.path.display();
            let digest = match self.digest_of(&found, read) {
                Ok(digest) => digest,
                Err(error) => {
                    tracing::warn!(%path, %error, "a file of the Hugging Face cache could not be checked");
                    return None;
                }
            };
            // The file may have been replaced while it was read.
            if digest != file.sha256 || cache.look(&found.path).as_ref() != Some(&found) {
                let wanted = &file.sha256;
                tracing::warn!(%path, %digest, %wanted, "a file of the Hugging Face cache is damaged and not used");
                return None;
            }
            before += found.bytes;
            entries.push(FileEntry {
                path: found.path,
                bytes: found.bytes,
                sha256: Some(file.sha256),
                modified: Some(found.modified),
                cached: Some(Cached { name: file.path.clone(), inode: found.inode }),
            });
        }
        Some(entries)
    }

    /// What is remembered of a file that is as it was then, else what is computed now.
    fn digest_of(&self, found: &CacheFile, read: impl FnMut(u64)) -> Result<Digest, StoreError> {
        let is_same = |file: &&FileEntry| {
            let inode = file.cached.as_ref().map(|cached| cached.inode);
            (file.bytes, file.modified, inode) == (found.bytes, Some(found.modified), Some(found.inode))
        };
        let noted =
            self.entries().values().flat_map(|entry| &entry.files).find(is_same).and_then(|f| f.sha256);
        let noted = noted.or_else(|| self.proofs().get(found).copied());
        if let Some(digest) = noted {
            return Ok(digest);
        }
        let digest = digest::of_file(&found.path, &self.closing, read)?;
        self.proofs().insert(found.clone(), digest);
        Ok(digest)
    }
}

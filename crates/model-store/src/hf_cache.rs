//! The cache that Hugging Face's own tools fill, read only: `hf download`, transformers, vLLM and llama.cpp keep there what
//! somebody fetched before.
//!
//! ```text
//!  ROOT/models--OWNER--NAME/refs/REVISION            the commit, as text
//!                          /snapshots/COMMIT/FILE ─▶ ../../blobs/SHA-256
//! ```
//!
//! The layout is described by <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>. A large file's blob is called
//! by its SHA-256, which is what the owner's tools were promised and no proof: whoever uses a file computes it. Where links
//! cannot be made, snapshots hold the files themselves, and only somebody who knows their digests can ask for those.
//!
//! Invariant: no link is followed out of the cache, and nothing is written in it.

use std::{
    fs::{self, Metadata},
    io::Read,
    path::{Path, PathBuf},
    slice,
};

use fleet::{Digest, ModelFile, ModelRef, Pinned, Resolved};

use crate::{
    StoreError,
    hub::{NoChoice, RemoteFile, all_models, choose, is_commit},
    local,
};

/// Longest text of a reference that is read, in bytes: a commit has 40.
const REFERENCE_MAX: u64 = 256;

/// Most files of one snapshot, and how deep below it, that are looked at.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 4;

/// Most repositories, and snapshots of one, that are looked at.
const REPOSITORIES_MAX: usize = 10_000;
const SNAPSHOTS_MAX: usize = 64;

/// One cache.
#[derive(Debug, Clone)]
pub(crate) struct HfCache {
    root: PathBuf,
}

/// A file of the cache as it was when it was looked at. Equal to another look, it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CacheFile {
    /// In the snapshot: engines look for further shards beside the first by name.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) modified: i128,
    pub(crate) inode: u64,
    /// What its blob is called by.
    named: Option<Digest>,
}

impl HfCache {
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What lies at a path of the cache, if it is a file of the cache; blocks.
    pub(crate) fn look(&self, path: &Path) -> Option<CacheFile> {
        let real = local::allowed(path, slice::from_ref(&self.root)).ok()?;
        let metadata = real.metadata().ok().filter(Metadata::is_file)?;
        let is_blob = real.parent().and_then(Path::file_name).is_some_and(|dir| dir == "blobs");
        let named = real.file_name().and_then(|name| name.to_str()?.parse().ok()).filter(|_| is_blob);
        let (modified, inode) = (local::modified(&metadata), local::inode(&metadata));
        Some(CacheFile { path: path.to_owned(), bytes: metadata.len(), modified, inode, named })
    }

    /// Files that may be these ones of a model, all from one snapshot, the model's own first: other revisions often have the
    /// same files. Blocks.
    pub(crate) fn find(&self, resolved: &Resolved, files: &[RemoteFile]) -> Option<Vec<CacheFile>> {
        let ModelRef::Hub { owner, name, revision: Some(commit), .. } = ModelRef::from(resolved) else {
            return None;
        };
        let repository = self.repository(&owner, &name);
        let own = repository.join("snapshots").join(&*commit);
        let others = snapshots(&repository).into_iter().filter(|snapshot| *snapshot != own);
        let all_of = |snapshot: &Path| -> Option<Vec<CacheFile>> {
            let found = files.iter().map(|file| {
                let found = self.look(&snapshot.join(&file.path))?;
                let has_size = file.bytes.is_none_or(|bytes| bytes == found.bytes);
                let has_name = found.named.is_none_or(|named| named == file.sha256);
                (has_size && has_name).then_some(found)
            });
            found.collect()
        };
        [own.clone()].into_iter().chain(others).find_map(|snapshot| all_of(&snapshot))
    }

    /// What the cache's own reference of that name led to, without asking a hub; none if it has no such model. Blocks.
    ///
    /// # Errors
    /// When there are several models that are meant as well.
    pub(crate) fn resolve(&self, model: &ModelRef) -> Result<Option<Pinned>, StoreError> {
        let ModelRef::Hub { owner, name, revision, file } = model else { return Ok(None) };
        let repository = self.repository(owner, name);
        let revision = revision.as_deref().unwrap_or("main");
        let commit = self.commit(&repository.join("refs").join(revision));
        let commit = commit.unwrap_or_else(|| revision.to_owned());
        if !is_commit(&commit) {
            return Ok(None);
        }
        let names = self.names(&repository.join("snapshots").join(&commit));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match choose(&names, file.as_deref()) {
            Ok(files) => Ok(self.described(&repository, (owner, name, &commit), &files)),
            Err(NoChoice::None) => Ok(None),
            Err(NoChoice::Ambiguous(choices)) => Err(StoreError::Ambiguous { model: model.clone(), choices }),
        }
    }

    /// Every model whose files say by their names what they are; blocks.
    pub(crate) fn models(&self) -> Vec<Pinned> {
        let Ok(repositories) = fs::read_dir(&self.root) else { return Vec::new() };
        let mut models = Vec::new();
        for repository in repositories.flatten().take(REPOSITORIES_MAX).map(|entry| entry.path()) {
            let Some((owner, name)) = owner_and_name(&repository) else { continue };
            for snapshot in snapshots(&repository) {
                let Some(commit) = snapshot.file_name().and_then(|name| name.to_str()) else { continue };
                let names = self.names(&snapshot);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let found = all_models(&names);
                let found =
                    found.iter().filter_map(|f| self.described(&repository, (&owner, &name, commit), f));
                models.extend(found);
            }
        }
        models
    }

    fn repository(&self, owner: &str, name: &str) -> PathBuf {
        self.root.join(format!("models--{owner}--{name}"))
    }

    fn commit(&self, reference: &Path) -> Option<String> {
        let found = self.look(reference)?;
        let mut text = String::new();
        fs::File::open(&found.path).ok()?.take(REFERENCE_MAX).read_to_string(&mut text).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// The GGUF files of a snapshot, as paths in the repository.
    fn names(&self, snapshot: &Path) -> Vec<String> {
        let mut names = Vec::new();
        let mut below = vec![(snapshot.to_owned(), String::new(), 0)];
        let mut seen = 0;
        while let Some((dir, prefix, depth)) = below.pop() {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                seen += 1;
                if seen > FILES_MAX {
                    return names;
                }
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = format!("{prefix}{name}");
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if depth < DEPTH_MAX {
                        below.push((entry.path(), format!("{path}/"), depth + 1));
                    }
                } else if name.ends_with(".gguf") && self.look(&entry.path()).is_some() {
                    names.push(path);
                }
            }
        }
        names
    }

    fn described(
        &self,
        repository: &Path,
        (owner, name, commit): (&str, &str, &str),
        files: &[String],
    ) -> Option<Pinned> {
        let snapshot = repository.join("snapshots").join(commit);
        let described = files.iter().map(|path| {
            let found = self.look(&snapshot.join(path))?;
            Some(ModelFile { path: path.clone(), bytes: found.bytes, digest: found.named? })
        });
        let files = described.collect::<Option<Vec<_>>>()?;
        let resolved = format!("hf:{owner}/{name}@{commit}:{}", files.first()?.path).parse().ok()?;
        Some(Pinned { resolved, files })
    }
}

/// The directory of a model's repository, wherever the cache is: what its owner would remove.
pub(crate) fn repository_of(path: &Path) -> Option<&Path> {
    path.ancestors().find(|dir| owner_and_name(dir).is_some())
}

fn owner_and_name(repository: &Path) -> Option<(String, String)> {
    let (owner, name) = repository.file_name()?.to_str()?.strip_prefix("models--")?.split_once("--")?;
    Some((owner.to_owned(), name.to_owned()))
}

fn snapshots(repository: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(repository.join("snapshots")) else { return Vec::new() };
    let is_snapshot = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(is_commit);
    entries.flatten().map(|entry| entry.path()).filter(is_snapshot).take(SNAPSHOTS_MAX).collect()
}

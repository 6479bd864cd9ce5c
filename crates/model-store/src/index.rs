//! What the store knows of its models, kept beside them: one small file per model.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fleet::{Digest, ModelRef, Resolved, StoredModel};
use serde::{Deserialize, Serialize};

use crate::{HeaderFile, StoreError, digest};

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// Below the store, or absolute for a `file:` model and in the Hugging Face cache.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// Absent while it is being computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<Digest>,
    /// When the file was last changed, in nanoseconds since 1970; a digest of a file of the owner's is good only as long
    /// as this and the size stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) modified: Option<i128>,
    /// Present for a file of the Hugging Face cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cached: Option<Cached>,
}

/// What else is known of a file of the Hugging Face cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cached {
    /// Its path in the repository.
    pub(crate) name: String,
    /// A file that was put in its place has another one.
    pub(crate) inode: u64,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) resolved: Resolved,
    /// Every reference that was resolved to it.
    pub(crate) refs: Vec<ModelRef>,
    /// The first one is what an engine opens.
    pub(crate) files: Vec<FileEntry>,
}

impl Entry {
    pub(crate) fn stored(&self) -> StoredModel {
        StoredModel {
            resolved: self.resolved.clone(),
            digest: self.files.first().and_then(|file| file.sha256),
            bytes: self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes)),
            files: self.files.iter().map(|file| file.path.display().to_string()).collect(),
        }
    }

    /// The files as their source has them.
    pub(crate) fn sources(&self) -> Vec<HeaderFile> {
        let below = hub_dir(&self.resolved);
        let file = |file: &FileEntry| {
            let path = below.as_ref().and_then(|dir| file.path.strip_prefix(dir).ok()).unwrap_or(&file.path);
            let path = file.cached.as_ref().map_or_else(|| path.display().to_string(), |c| c.name.clone());
            HeaderFile { path, bytes: Some(file.bytes), digest: file.sha256 }
        };
        self.files.iter().map(file).collect()
    }

    /// Drops these names; false if it has none of them.
    pub(crate) fn lose(&mut self, names: &[ModelRef]) -> bool {
        let before = self.refs.len();
        self.refs.retain(|name| !names.contains(name));
        self.refs.len() < before
    }

    /// Whether a file of it belongs to the Hugging Face cache.
    pub(crate) fn is_cached(&self) -> bool {
        self.files.iter().any(|file| file.cached.is_some())
    }

    pub(crate) fn is_named(&self, model: &ModelRef) -> bool {
        self.refs.contains(model) || self.resolved.as_str() == model.to_string()
    }
}

/// Where the files of a hub's model lie, below the store.
fn hub_dir(resolved: &Resolved) -> Option<PathBuf> {
    let ModelRef::Hub { owner, name, revision: Some(commit), .. } = ModelRef::from(resolved) else {
        return None;
    };
    Some(Path::new("hub").join(&*owner).join(&*name).join(&*commit))
}

/// The directory of entries.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    dir: PathBuf,
}

impl Index {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, StoreError> {
        durable_file::create_private_directory(&dir).map_err(StoreError::io("create", &dir))?;
        Ok(Self { dir })
    }

    /// All entries that can be read. One that cannot is reported and left alone: its model is fetched anew.
    pub(crate) fn load(&self) -> Result<Vec<Entry>, StoreError> {
        let files = fs::read_dir(&self.dir).map_err(StoreError::io("list", &self.dir))?;
        let paths = files.flatten().map(|file| file.path());
        let entries = paths.filter(|path| path.extension().is_some_and(|e| e == "json"));
        Ok(entries.filter_map(|path| read(&path)).collect())
    }

    /// Writes one entry, durably.
    pub(crate) fn save(&self, entry: &Entry) -> Result<(), StoreError> {
        let path = self.path(&entry.resolved);
        let text = serde_json::to_string_pretty(entry)
            .map_err(|error| StoreError::io("write", &path)(error.into()))?;
        durable_file::replace(&path, text.as_bytes()).map_err(StoreError::io("write", &path))
    }

    pub(crate) fn remove(&self, resolved: &Resolved) -> Result<(), StoreError> {
        let path = self.path(resolved);
        durable_file::remove(&path).map_err(StoreError::io("remove", &path))
    }

    /// A resolution holds separators and may be long, so its hash names the file.
    fn path(&self, resolved: &Resolved) -> PathBuf {
        let name = digest::of_text(resolved.as_str()).to_string();
        self.dir.join(format!("{}.json", &name[..32]))
    }
}

fn read(path: &Path) -> Option<Entry> {
    let text = fs::read(path).ok()?;
    match serde_json::from_slice::<Entry>(&text) {
        Ok(entry) if !entry.files.is_empty() => Some(entry),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an entry of the model index cannot be read");
            None
        }
    }
}

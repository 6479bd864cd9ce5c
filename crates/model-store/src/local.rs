//! Files that somebody else put on this machine: `file:` references.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fleet::{ModelRef, Resolved};

use crate::{
    StoreError, header,
    index::{Entry, FileEntry},
};

/// The file with every symbolic link followed, if it lies below one of the directories; blocks.
pub(crate) fn allowed(path: &Path, directories: &[PathBuf]) -> Result<PathBuf, StoreError> {
    let real = path.canonicalize().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => StoreError::NoFile { path: path.to_owned() },
        _ => StoreError::Io { action: "open", path: path.to_owned(), source },
    })?;
    let is_below =
        |directory: &PathBuf| directory.canonicalize().is_ok_and(|real_dir| real.starts_with(real_dir));
    if directories.iter().any(is_below) {
        Ok(real)
    } else {
        Err(StoreError::NotAllowed { path: path.to_owned(), allowed: directories.to_vec() })
    }
}

/// Reads the file's header and makes an entry of it and of its shards, without digests; blocks.
pub(crate) fn describe(path: &Path, directories: &[PathBuf]) -> Result<Entry, StoreError> {
    allowed(path, directories)?;
    let (info, _) = header::read(path)?;
    let shards = info.split.and_then(|split| gguf::shard_paths(path, split.count));
    let paths = shards.unwrap_or_else(|| vec![path.to_owned()]);
    let files = paths.into_iter().map(|path| {
        let real = allowed(&path, directories)?;
        let metadata = real.metadata().map_err(StoreError::io("open", &path))?;
        Ok(FileEntry {
            bytes: metadata.len(),
            modified: Some(modified(&metadata)),
            sha256: None,
            cached: None,
            path,
        })
    });
    let model = ModelRef::File(path.display().to_string().into());
    Ok(Entry {
        resolved: Resolved::from(&model),
        refs: vec![model],
        files: files.collect::<Result<_, StoreError>>()?,
    })
}

/// Whether the files are still those that the entry describes; blocks.
pub(crate) fn is_current(entry: &Entry, root: &Path) -> bool {
    entry.files.iter().all(|file| is_same(file, root))
}

/// Whether the file is still the one that the entry describes; blocks.
pub(crate) fn is_same(file: &FileEntry, root: &Path) -> bool {
    std::fs::metadata(root.join(&file.path)).is_ok_and(|metadata| {
        metadata.len() == file.bytes
            && file.modified.is_none_or(|time| time == modified(&metadata))
            && file.cached.as_ref().is_none_or(|cached| cached.inode == inode(&metadata))
    })
}

pub(crate) fn inode(metadata: &Metadata) -> u64 {
    metadata.ino()
}

pub(crate) fn modified(metadata: &Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// The models that lie directly in the store's directory, as somebody copied them there; blocks.
pub(crate) fn scan(dir: &Path) -> Vec<PathBuf> {
    let Ok(files) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = files.flatten().map(|file| file.path());
    let is_model = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Of a model in shards only the first one is opened; projectors are parts of other models.
        let later_shard = name.contains("-of-") && !name.contains("-00001-of-");
        name.ends_with(".gguf") && !later_shard && !name.starts_with("mmproj")
    };
    paths.filter(is_model).collect()
}

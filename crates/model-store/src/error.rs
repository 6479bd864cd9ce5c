//! Why the store did not do what it was asked.

use std::{io, path::PathBuf};

use fleet::{Digest, ModelRef, Resolved};

/// A failed call: what was attempted, on which model or file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The model is not in the store.
    #[error("{model} is not in the model store {}", store.display())]
    NotStored {
        /// The reference.
        model: ModelRef,
        /// The store's directory.
        store: PathBuf,
    },
    /// No such file.
    #[error("there is no file {}", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// The file lies where the owner did not allow models to lie.
    #[error(
        "{} is not below a directory that models may lie in ({}); name its directory in `file_dirs` of hive.toml",
        path.display(),
        list(.allowed)
    )]
    NotAllowed {
        /// The file.
        path: PathBuf,
        /// Where models may lie.
        allowed: Vec<PathBuf>,
    },
    /// The file is no model that could be served.
    #[error("{} is not a usable GGUF model", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: gguf::Error,
    },
    /// The source has no such model.
    #[error("{model} was not found: {reason}")]
    NotFound {
        /// The reference.
        model: ModelRef,
        /// What the source said.
        reason: String,
    },
    /// The reference fits several models, or none of those that are there.
    #[error("{model} does not name one model; there are {}", .choices.join(", "))]
    Ambiguous {
        /// The reference.
        model: ModelRef,
        /// The first file of each model there.
        choices: Vec<String>,
    },
    /// What a reference was said to stand for cannot be.
    #[error("{resolved} cannot be fetched: {reason}")]
    Pin {
        /// The resolution.
        resolved: Resolved,
        /// What is wrong with it.
        reason: String,
    },
    /// The source did not answer, or not as it should.
    #[error("model source {source_name}: {reason}")]
    Source {
        /// The source.
        source_name: String,
        /// What happened.
        reason: String,
    },
    /// No file of this digest is here.
    #[error("no file with the digest {digest} is in the store")]
    NoBlob {
        /// The digest.
        digest: Digest,
    },
    /// The range is not within the file.
    #[error("the file {digest} has {total} bytes")]
    Range {
        /// The file.
        digest: Digest,
        /// Its size.
        total: u64,
    },
    /// No transfer waits for this file, or somebody else is writing it.
    #[error("no transfer waits for the file {digest}")]
    NotAwaited {
        /// The file.
        digest: Digest,
    },
    /// What was sent does not join what is here.
    #[error("the file {digest} has {have} bytes so far, so it cannot be written up to or from byte {offset}")]
    Offset {
        /// The file.
        digest: Digest,
        /// How much of it is here.
        have: u64,
        /// Where the sender wanted to write.
        offset: u64,
    },
    /// A transfer writes the model's files.
    #[error("{model} is being downloaded")]
    BeingDownloaded {
        /// The reference.
        model: ModelRef,
    },
    /// A worker runs from the model's files.
    #[error("{model} is in use by a worker; stop it first")]
    InUse {
        /// The reference.
        model: ModelRef,
    },
    /// The model's file belongs to the Hugging Face cache.
    #[error(
        "{model} lies in the Hugging Face cache of the machine, which is its owner's and is only read: it stays there, and is \
         removed on that machine with `hf cache rm model/{repository}`, or with the directory {}",
        dir.display()
    )]
    NotOurs {
        /// The reference.
        model: ModelRef,
        /// Owner and name.
        repository: String,
        /// Where the cache has all files of the repository.
        dir: PathBuf,
    },
    /// A file or directory could not be read or written.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The store is being closed.
    #[error("the model store is closing")]
    Closing,
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

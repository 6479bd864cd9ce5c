//! Why the store did not do what it was asked.

use std::{io, path::PathBuf};

use fleet::ModelRef;

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
    /// A worker runs from the model's files.
    #[error("{model} is in use by a worker; stop it first")]
    InUse {
        /// The reference.
        model: ModelRef,
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

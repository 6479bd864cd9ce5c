//! Why a database could not be opened, and how the errors of SQLite become those of the ports.

use std::{io, path::PathBuf};

use fleet::StoreError;
use rusqlite::{ErrorCode, ffi};

/// Why a data directory could not be opened. Nothing in it was changed, unless a variant says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is something else, is damaged, or cannot be read. Belongs to exit code 65.
    #[error(
        "{} cannot be used as the database of queen-rbee: {reason}. It was left as it is; move it away or restore a \
         backup, or choose another data directory",
        path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer version wrote it. Belongs to exit code 65.
    #[error(
        "{} was written by a newer queen-rbee (schema {found}, this one knows {known}). It was left as it is; use \
         that version, or choose another data directory",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// Another queen uses the data directory. Belongs to exit code 73.
    #[error("another queen-rbee{} uses {}", pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), data_dir.display())]
    Locked {
        /// The directory.
        data_dir: PathBuf,
        /// The other process, unless it has not written its pid yet.
        pid: Option<u32>,
    },
    /// Another program, not a queen, holds the database. Belongs to exit code 73.
    #[error("another program holds a lock on {}; close it and try again", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The directory or a file in it cannot be made or written. Belongs to exit code 73.
    #[error(
        "could not {action} {}; make it writable for this user, or choose another data directory",
        path.display()
    )]
    NotWritable {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted, as a verb.
        action: &'static str,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No space is left on the disk. Belongs to exit code 73.
    #[error("the disk of {} is full", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A thread could not be started.
    #[error("could not start the thread {name}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// What an error of SQLite means while a file is being opened. Whatever is not about locks, space or permissions says
    /// that the content is not what it should be.
    pub(crate) fn of_sqlite(path: PathBuf, action: &'static str, error: rusqlite::Error) -> Self {
        if is_full(&error) {
            return Self::Full { path };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::NotWritable { path, action, source: Box::new(error) }
            }
            _ => Self::NotOurs { path, reason: format!("could not {action} it: {error}") },
        }
    }

    pub(crate) fn not_writable(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        let path = path.into();
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::Full { path };
        }
        Self::NotWritable { path, action, source: Box::new(source) }
    }
}

/// The database file is not the one that was opened: it was deleted, moved or replaced while the queen ran.
#[derive(Debug, thiserror::Error)]
#[error("{} was deleted or replaced while it was in use; nothing was written, restart to use what is there now", path.display())]
pub struct DatabaseReplaced {
    /// The file.
    pub path: PathBuf,
}

/// More calls wait than the database works off.
#[derive(Debug, thiserror::Error)]
#[error("{capacity} calls are waiting for the database already")]
pub struct QueueFull {
    /// How many may wait.
    pub capacity: usize,
}

/// What went wrong inside a job, before the name of the action is added.
#[derive(Debug)]
pub(crate) enum Failure {
    /// SQLite said so.
    Sqlite(rusqlite::Error),
    /// The port's own error.
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// The port's error for it.
    pub(crate) fn into_store_error(self, action: &'static str) -> StoreError {
        let error = match self {
            Self::Store(error) => return error,
            Self::Sqlite(error) => error,
        };
        if is_full(&error) {
            return StoreError::Full { action };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { action },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                StoreError::ReadOnly { action }
            }
            _ => StoreError::Other { action, source: Box::new(error) },
        }
    }

    /// Whether the disk failed or the file is damaged, so that the connection is not to be trusted any more.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        if is_full(error) {
            return false;
        }
        let code = error.sqlite_error_code();
        matches!(
            code,
            Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    }
}

/// Whether no space is left. A shared-memory file that cannot grow is how WAL mode meets a full disk first.
fn is_full(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|e| e.extended_code);
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || extended == Some(ffi::SQLITE_IOERR_SHMSIZE)
}

/// Refuses a value that the database cannot hold.
pub(crate) fn unstorable(action: &'static str, why: impl Into<String>) -> StoreError {
    StoreError::Other { action, source: why.into().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: std::ffi::c_int) -> Failure {
        Failure::Sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn each_kind_of_trouble_has_its_own_error() {
        let error = |code| failure(code).into_store_error("test");
        assert!(matches!(error(ffi::SQLITE_FULL), StoreError::Full { .. }));
        assert!(matches!(error(ffi::SQLITE_IOERR_SHMSIZE), StoreError::Full { .. }));
        assert!(matches!(error(ffi::SQLITE_BUSY), StoreError::Locked { .. }));
        assert!(matches!(error(ffi::SQLITE_BUSY_SNAPSHOT), StoreError::Locked { .. }));
        assert!(matches!(error(ffi::SQLITE_READONLY), StoreError::ReadOnly { .. }));
        assert!(matches!(error(ffi::SQLITE_CANTOPEN), StoreError::ReadOnly { .. }));
        assert!(matches!(error(ffi::SQLITE_IOERR_FSYNC), StoreError::Other { .. }));
        assert!(failure(ffi::SQLITE_IOERR_FSYNC).is_of_the_disk());
        assert!(failure(ffi::SQLITE_CORRUPT).is_of_the_disk());
        assert!(!failure(ffi::SQLITE_FULL).is_of_the_disk());
        assert!(!failure(ffi::SQLITE_IOERR_SHMSIZE).is_of_the_disk());
    }
}

//! The store itself: a lock, a writer and a reader.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use fleet::StoreError;
use rusqlite::{Connection, Transaction};

use crate::{
    error::{Failure, OpenError},
    lane::Lane,
    lock::LockFile,
    open,
};

/// The database of one data directory, held by this process.
///
/// It implements [`fleet::HiveRegistry`], [`fleet::LaunchJournal`], [`fleet::ModelCatalog`], [`fleet::ObservationStore`]
/// and [`fleet::KeyStore`]. Some of them have methods of the same name: hand it on as `Arc<dyn …>` of the port that is
/// meant.
///
/// Dropping it finishes the calls that wait, closes the database and frees the directory; that takes as long as the last
/// commit does.
pub struct SqliteStore {
    // In this order: the connection that may write closes last, because the last one tidies the log away, and the
    // directory is free only after that.
    reader: Lane,
    writer: Lane,
    _lock: LockFile,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the database of a data directory, and makes both if there is nothing. Blocks; meant for the start.
    ///
    /// # Errors
    /// See [`OpenError`]. A file that is not ours, damaged or of a newer version is never changed.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let opened = open::open(data_dir)?;
        Ok(Self {
            reader: Lane::start("registry-reader", opened.reader)?,
            writer: Lane::start("registry-writer", opened.writer)?,
            _lock: opened.lock,
            path: opened.path,
        })
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn write<T: Send + 'static>(
        &self,
        action: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let since = Instant::now();
        self.writer.call(action, move |session| session.write(action, since, change)).await
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        action: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let lane = if planted::bug("ack-before-commit") { &self.writer } else { &self.reader };
        lane.call(action, move |session| session.read(action, query)).await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

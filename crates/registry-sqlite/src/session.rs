//! One connection, and the conditions under which it may still be used.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fleet::StoreError;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{DatabaseReplaced, Failure};

/// How long a write waits for a lock that another program holds, counted from the call.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Write,
    /// Queries.
    Read,
}

/// A connection to the database of a data directory.
pub(crate) struct Session {
    connection: Connection,
    path: PathBuf,
    access: Access,
    files: Files,
    /// The disk failed or a page was damaged: the connection is replaced by a checked one before the next write.
    suspect: bool,
}

/// Device and inode of the database and its write-ahead log. The log holds acknowledged changes too, so losing its name
/// is as bad as losing the database's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Files {
    database: (u64, u64),
    log: (u64, u64),
}

impl Files {
    fn of(path: &Path) -> io::Result<Self> {
        let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
        Ok(Self { database: identity(path)?, log: identity(&beside(path, "-wal"))? })
    }
}

/// The path of a file that SQLite keeps beside the database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Session {
    /// Connects to a database that is there, is ours and is whole. Never creates one.
    pub(crate) fn connect(path: &Path, access: Access) -> rusqlite::Result<Self> {
        let mode = match access {
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // The schema of a foreign file must not run code; ours has none.
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        if access == Access::Write {
            make_durable(&connection)?;
        }
        // The first read opens the write-ahead log, so that its inode can be noted.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        let files = Files::of(path).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(Self { connection, path: path.to_owned(), access, files, suspect: false })
    }

    /// Runs a change that was called for at `since`, and commits it durably.
    pub(crate) fn write<T>(
        &mut self,
        action: &'static str,
        since: Instant,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        if self.suspect {
            self.reconnect(action)?;
        }
        self.refuse_replaced(action)?;
        let outcome = self.transact(since, change);
        self.suspect |= outcome.as_ref().is_err_and(Failure::is_of_the_disk);
        outcome.map_err(|failure| failure.into_store_error(action))
    }

    fn transact<T>(
        &mut self,
        since: Instant,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if planted::bug("ack-before-commit") && !self.connection.is_autocommit() {
            self.connection.execute_batch("COMMIT")?;
        }
        // One lock must not cost each of the calls that queue behind it two seconds more.
        self.connection.busy_timeout(BUSY_TIMEOUT.saturating_sub(since.elapsed()))?;
        // A deferred transaction that reads and then writes fails at the write when another one came between, and
        // no timeout helps against that.
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = change(&transaction)?;
        if planted::bug("ack-before-commit") {
            // The next change commits it too.
            std::mem::forget(transaction);
            return Ok(value);
        }
        transaction.commit()?;
        Ok(value)
    }

    /// Runs a query.
    pub(crate) fn read<T>(
        &self,
        action: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        query(&self.connection).map_err(|failure| failure.into_store_error(action))
    }

    /// An fsync that failed is not to be repeated on the same connection as if nothing had been: the file is opened anew
    /// and checked. As long as that fails, reads go on and nothing is written.
    fn reconnect(&mut self, action: &'static str) -> Result<(), StoreError> {
        self.refuse_replaced(action)?;
        let read_only = |reason: &dyn std::fmt::Display| {
            tracing::error!(path = %self.path.display(), %reason, "database stays read-only after a disk error");
            StoreError::ReadOnly { action }
        };
        let fresh = Self::connect(&self.path, self.access).map_err(|error| read_only(&error))?;
        match damage(&fresh.connection) {
            Ok(None) => {}
            Ok(Some(reason)) => return Err(read_only(&reason)),
            Err(error) => return Err(read_only(&error)),
        }
        tracing::warn!(path = %self.path.display(), "database reopened after a disk error");
        *self = fresh;
        Ok(())
    }

    fn refuse_replaced(&self, action: &'static str) -> Result<(), StoreError> {
        if Files::of(&self.path).is_ok_and(|now| now == self.files) {
            return Ok(());
        }
        Err(StoreError::Other { action, source: Box::new(DatabaseReplaced { path: self.path.clone() }) })
    }
}

fn make_durable(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let reason = format!("its file system has no write-ahead log (journal mode stays {mode})");
        return Err(rusqlite::Error::ToSqlConversionFailure(reason.into()));
    }
    connection.pragma_update(None, "synchronous", "full")?;
    // On macOS a plain fsync leaves the data in the drive's cache. Elsewhere these two do nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    // The log is cut back to this after a checkpoint, so a burst does not stay on the disk.
    connection.pragma_update_and_check(None, "journal_size_limit", 4 << 20, |_| Ok(()))
}

/// What SQLite finds wrong with the pages, indexes and constraints of a database.
pub(crate) fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let finding: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    Ok((finding != "ok").then_some(finding))
}

#[cfg(test)]
impl Session {
    /// Treats the connection as if a disk error had been seen on it.
    pub(crate) fn suspect_now(&mut self) {
        self.suspect = true;
    }

    /// The connection itself.
    pub(crate) fn raw(&self) -> &Connection {
        &self.connection
    }
}

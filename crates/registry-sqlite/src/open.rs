//! From a directory name to a checked database.
//!
//! ```text
//! directory ──▶ lock ──▶ nothing there ──▶ made under another name, synced, renamed ─┐
//!                  └───▶ a file ──▶ header ──▶ pages, schema ──▶ newer steps ────────┴─▶ open
//!                                     └─ refused, untouched ◀──┘
//! ```
//! A new database appears under its own name only when it is complete. So a file of that name that is empty or half
//! written was never ours in that state: something cut it, and it is refused like any other damage rather than taken for
//! a fresh start, which would forget every hive without a word.

mod directory;
mod header;

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::{
    error::OpenError,
    lock::LockFile,
    schema,
    session::{Access, BUSY_TIMEOUT, Session, beside, damage},
};

/// Name of the database in the data directory.
pub(crate) const NAME: &str = "queen.db";

/// Name of a database that is being made. Whatever has it is left from a start that was cut off, and worthless.
const UNFINISHED: &str = "queen.db.new";

/// What SQLite may keep beside a database.
pub(crate) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A data directory that this process holds.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) writer: Session,
    pub(crate) reader: Session,
    pub(crate) lock: LockFile,
}

/// Opens the database of a data directory, making both if there is nothing.
pub(crate) fn open(data_dir: &Path) -> Result<Opened, OpenError> {
    directory::prepare(data_dir, NAME)?;
    let lock = LockFile::acquire(data_dir)?;
    let path = data_dir.join(NAME);
    match fs::symlink_metadata(&path) {
        Ok(_) => check_file(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(data_dir, &path)?,
        Err(error) => return Err(OpenError::not_writable(&path, "look at", error)),
    }
    check_content(&path)?;
    let writer = connect(&path, Access::Write)?;
    let reader = connect(&path, Access::Read)?;
    Ok(Opened { path, writer, reader, lock })
}

fn connect(path: &Path, access: Access) -> Result<Session, OpenError> {
    Session::connect(path, access).map_err(|error| OpenError::of_sqlite(path.to_owned(), "open", error))
}

/// Makes a database where none is.
fn create(data_dir: &Path, path: &Path) -> Result<(), OpenError> {
    for suffix in COMPANIONS {
        // SQLite would replay such a log into the new file, and it may hold what was acknowledged.
        if fs::metadata(beside(path, suffix)).is_ok_and(|m| m.len() > 0) {
            let reason = format!("it is missing, while {NAME}{suffix} beside it still holds changes to it");
            return Err(OpenError::NotOurs { path: path.to_owned(), reason });
        }
    }
    let unfinished = data_dir.join(UNFINISHED);
    remove_unfinished(&unfinished)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(|source| OpenError::not_writable(&unfinished, "create", source))?;
    fill(&unfinished).map_err(|error| OpenError::of_sqlite(unfinished.clone(), "create", error))?;
    let publish = || {
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(data_dir)?.sync_all()
    };
    publish().map_err(|source| OpenError::not_writable(path, "create", source))
}

fn remove_unfinished(unfinished: &Path) -> Result<(), OpenError> {
    for path in COMPANIONS.map(|suffix| beside(unfinished, suffix)).iter().chain([&unfinished.to_owned()]) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::not_writable(path, "remove", error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn fill(path: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
    schema::migrate(&mut connection).map_err(migration_error)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

fn migration_error(error: rusqlite_migration::Error) -> rusqlite::Error {
    match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => err,
        other => rusqlite::Error::ToSqlConversionFailure(other.into()),
    }
}

/// Refuses what is not a database of ours by its first bytes, before SQLite may touch it.
fn check_file(path: &Path) -> Result<(), OpenError> {
    let refused = |reason: String| OpenError::NotOurs { path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(|error| refused(format!("it cannot be looked at: {error}")))?;
    if !metadata.is_file() {
        return Err(refused("it is not a file".to_owned()));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| OpenError::not_writable(path, "open", source))?;
    header::check(&mut file).map_err(refused)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(|source| OpenError::not_writable(path, "close to others", source))?;
    }
    Ok(())
}

/// Refuses a damaged or newer database, and brings an older one up to date.
fn check_content(path: &Path) -> Result<(), OpenError> {
    let failed = |action| move |error| OpenError::of_sqlite(path.to_owned(), action, error);
    let refused = |reason: String| OpenError::NotOurs { path: path.to_owned(), reason };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed("open"))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed("open"))?;
    // Closing would otherwise move a log into a file that was just refused.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed("open"))?;
    connection.pragma_update(None, "trusted_schema", false).map_err(failed("open"))?;
    connection.pragma_update(None, "synchronous", "full").map_err(failed("open"))?;
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed("read"))?;
    if version > schema::VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known: schema::VERSION });
    }
    if version < 1 {
        return Err(refused(format!("its schema version is {version}")));
    }
    if let Some(finding) = damage(&connection).map_err(failed("check"))? {
        return Err(refused(format!("it is damaged: {finding}")));
    }
    if version < schema::VERSION {
        planted::step("migration-not-begun");
        schema::migrate(&mut connection).map_err(migration_error).map_err(failed("upgrade"))?;
        planted::step("migration-over");
    }
    if let Some(difference) = schema::difference(&connection).map_err(failed("read"))? {
        return Err(refused(difference));
    }
    connection.close().map_err(|(_, error)| failed("close")(error))
}

#[cfg(test)]
mod tests;

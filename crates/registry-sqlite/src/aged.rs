//! Databases as older versions would have left them, for tests of the way up.

use std::{collections::BTreeSet, error::Error, fs, path::Path};

use rusqlite::Connection;

use crate::{
    open::{COMPANIONS, NAME},
    schema,
    session::beside,
};

/// The newest schema version.
pub const NEWEST: usize = schema::VERSION as usize;

/// Puts a database of an older schema version in place of the one in a data directory, which nobody has open. It has every
/// row that a program of that version could have written.
///
/// # Errors
/// A version that there never was, or a database or directory that cannot be read or written.
pub fn age(data_dir: &Path, version: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (now, old) = (data_dir.join(NAME), data_dir.join("aged.db"));
    let mut db = Connection::open(&old)?;
    db.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
    db.pragma_update(None, "foreign_keys", false)?;
    schema::migrations().to_version(&mut db, version)?;
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    db.execute("ATTACH ?1 AS now", [now.to_str().ok_or("the path is not UTF-8")?])?;
    for table in tables(&db)? {
        let columns =
            names(&db, &format!("SELECT name FROM pragma_table_info('{table}', 'main')"))?.join(", ");
        db.execute_batch(&format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}"))?;
    }
    db.execute_batch("DETACH now")?;
    db.close().map_err(|(_, error)| error)?;
    for suffix in COMPANIONS {
        drop(fs::remove_file(beside(&now, suffix)));
    }
    Ok(fs::rename(old, now)?)
}

/// The schema version of the database in a data directory, and of every row of it the table and the primary key.
///
/// # Errors
/// A database that cannot be read.
pub fn content(data_dir: &Path) -> Result<(usize, BTreeSet<String>), Box<dyn Error + Send + Sync>> {
    let db = Connection::open(data_dir.join(NAME))?;
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut rows = BTreeSet::new();
    for table in tables(&db)? {
        let key =
            names(&db, &format!("SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk"))?;
        let key = key.iter().map(|column| format!(" || ' ' || quote({column})")).collect::<String>();
        rows.extend(names(&db, &format!("SELECT '{table}'{key} FROM {table}"))?);
    }
    Ok((version.try_into()?, rows))
}

fn tables(db: &Connection) -> rusqlite::Result<Vec<String>> {
    names(db, "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
}

fn names(db: &Connection, query: &str) -> rusqlite::Result<Vec<String>> {
    db.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

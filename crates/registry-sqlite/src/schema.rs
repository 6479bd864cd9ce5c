//! The schema, its versions, and whether a file has it.

use std::collections::BTreeMap;

use rusqlite::{Connection, Transaction};
use rusqlite_migration::{M, Migrations};

/// What SQLite's `application_id` holds in our files: "rbee" in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x7262_6565;

/// The versions in order, each with the step at which its changes are made and not committed. One that was ever released is
/// never edited: what changes comes as a new one behind it.
const STEPS: [(&str, &str); 5] = [
    ("migrated-to-1", include_str!("../migrations/0001_first.sql")),
    ("migrated-to-2", include_str!("../migrations/0002_network.sql")),
    ("migrated-to-3", include_str!("../migrations/0003_leaving.sql")),
    ("migrated-to-4", include_str!("../migrations/0004_paused.sql")),
    ("migrated-to-5", include_str!("../migrations/0005_pins.sql")),
];

/// The newest version, as `user_version` holds it.
pub(crate) const VERSION: i64 = STEPS.len() as i64;

/// The ways from each version to the next.
pub(crate) fn migrations() -> Migrations<'static> {
    let up = |(step, sql)| {
        M::up_with_hook(sql, move |_: &Transaction<'_>| {
            planted::step(step);
            Ok(())
        })
    };
    Migrations::new(STEPS.map(up).into())
}

/// Brings a database to the newest version, in one transaction.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), rusqlite_migration::Error> {
    migrations().to_latest(connection)
}

/// What differs between a database's tables and indexes and those it should have. Others that somebody added are his.
pub(crate) fn difference(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut expected = Connection::open_in_memory()?;
    if let Err(error) = migrate(&mut expected) {
        return Ok(Some(error.to_string()));
    }
    let found = objects(connection)?;
    let differs = |(name, sql): (String, String)| (found.get(&name) != Some(&sql)).then_some(name);
    Ok(objects(&expected)?.into_iter().find_map(differs).map(|name| format!("its {name} is another one")))
}

fn objects(connection: &Connection) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut statement =
        connection.prepare("SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_valid() {
        assert_eq!(migrations().validate(), Ok(()));
    }

    #[test]
    fn the_first_eight_columns_of_hives_are_the_documented_ones() {
        let mut connection = Connection::open_in_memory().expect("memory");
        migrate(&mut connection).expect("the schema");
        let columns: Vec<(String, String, bool, bool)> = connection
            .prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_info('hives') LIMIT 8")
            .expect("a statement")
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .expect("rows")
            .collect::<Result<_, _>>()
            .expect("columns");
        let text = columns.iter().map(|(name, kind, not_null, key)| {
            let suffix = if *key {
                " PRIMARY KEY"
            } else if *not_null {
                " NOT NULL"
            } else {
                ""
            };
            format!("{name} {kind}{suffix}")
        });
        assert_eq!(
            text.collect::<Vec<_>>(),
            [
                "id TEXT PRIMARY KEY",
                "hostname TEXT NOT NULL",
                "port INTEGER NOT NULL",
                "mode TEXT NOT NULL",
                "ssh_key_path TEXT",
                "capabilities JSON",
                "last_seen TIMESTAMP",
                "status TEXT",
            ]
        );
    }
}

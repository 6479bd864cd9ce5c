//! Reading a row cell by cell: whatever does not fit becomes an error that names table, row and column.

use std::{fmt::Display, str::FromStr};

use fleet::StoreError;
use rusqlite::{
    Row,
    types::{FromSql, Value},
};
use serde::de::DeserializeOwned;

use crate::words::Word;

/// The cells of one row.
pub(crate) struct Cells<'a> {
    row: &'a Row<'a>,
    table: &'static str,
    key: String,
}

impl<'a> Cells<'a> {
    /// The row of a table, known in errors by the content of its key columns.
    pub(crate) fn new(table: &'static str, key_columns: &[&str], row: &'a Row<'a>) -> Self {
        let part = |column: &&str| match row.get::<_, Value>(*column) {
            Ok(Value::Text(text)) => text,
            Ok(other) => format!("{other:?}"),
            Err(_) => "?".to_owned(),
        };
        Self { row, table, key: key_columns.iter().map(part).collect::<Vec<_>>().join(" ") }
    }

    fn fault(&self, column: &str, reason: impl Display) -> StoreError {
        StoreError::Row { table: self.table, key: self.key.clone(), reason: format!("{column}: {reason}") }
    }

    /// A cell as it is.
    pub(crate) fn get<T: FromSql>(&self, column: &str) -> Result<T, StoreError> {
        self.row.get(column).map_err(|error| self.fault(column, error))
    }

    /// A text that parses.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&self, column: &str) -> Result<T, StoreError> {
        self.get::<String>(column)?.parse().map_err(|error| self.fault(column, error))
    }

    /// A text that parses, or nothing.
    pub(crate) fn parse_optional<T: FromStr<Err: Display>>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|t| t.parse().map_err(|error| self.fault(column, error))).transpose()
    }

    /// One of an enum's words.
    pub(crate) fn word<T: Word>(&self, column: &str) -> Result<T, StoreError> {
        let text: String = self.get(column)?;
        T::of_word(&text).ok_or_else(|| self.fault(column, format_args!("unknown word {text:?}")))
    }

    /// A JSON text, or nothing.
    pub(crate) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|t| serde_json::from_str(&t).map_err(|error| self.fault(column, error))).transpose()
    }

    /// An error about the row as a whole.
    pub(crate) fn broken(&self, reason: impl Display) -> StoreError {
        StoreError::Row { table: self.table, key: self.key.clone(), reason: reason.to_string() }
    }
}

/// A size as SQLite holds it; what exceeds 8 EiB is stored as that.
pub(crate) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A stored size; a negative one, which the schema forbids, reads as none.
pub(crate) fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

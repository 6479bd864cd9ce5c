//! The first 100 bytes of a file (<https://www.sqlite.org/fileformat2.html#the_database_header>).

use std::{fs::File, io::Read};

use crate::schema::APPLICATION_ID;

const LENGTH: usize = 100;
const MAGIC: &[u8] = b"SQLite format 3\0";
const APPLICATION_ID_AT: usize = 68;

/// Says why a file is not one of our databases.
pub(super) fn check(file: &mut File) -> Result<(), String> {
    let mut bytes = Vec::with_capacity(LENGTH);
    let limit = u64::try_from(LENGTH).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if !bytes.starts_with(MAGIC) || bytes.len() < LENGTH {
        return Err("it is not an SQLite database".to_owned());
    }
    let id = bytes.get(APPLICATION_ID_AT..).and_then(|rest| rest.first_chunk()).copied();
    match id.map(i32::from_be_bytes) {
        Some(APPLICATION_ID) => Ok(()),
        _ => Err("it is the SQLite database of another program".to_owned()),
    }
}

//! Uses the registry alone, as a command-line tool would: registers a hive in a data directory and lists what is there.
//!
//! `cargo run -p registry-sqlite --example standalone -- /tmp/some-directory box 192.168.1.100`

use std::{
    env,
    error::Error,
    io::{self, Write},
    path::Path,
};

use fleet::{HiveMode, HiveRegistry, HiveSource, HiveSpec, Hostname};
use registry_sqlite::SqliteStore;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [data_dir, id, hostname] = &arguments[..] else {
        return Err("usage: standalone DATA-DIR HIVE-ID HOSTNAME".into());
    };
    let hostname: Hostname = hostname.parse()?;
    let mode = HiveMode::detect(&hostname);
    let spec = HiveSpec { mode, source: HiveSource::Api, ..HiveSpec::local(id.parse()?, hostname, 7835) };

    let store = SqliteStore::open(Path::new(data_dir))?;
    // The store needs no particular runtime: its threads are its own.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{:?}", runtime.block_on(store.register(spec))?)?;
    for row in runtime.block_on(store.list())? {
        match row {
            Ok(row) => writeln!(out, "{} {} {:?}", row.spec.id, row.spec.hostname, row.status)?,
            Err(error) => writeln!(out, "{error}")?,
        }
    }
    Ok(())
}

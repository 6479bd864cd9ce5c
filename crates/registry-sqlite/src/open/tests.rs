use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use fleet::{HiveRegistry, LaunchJournal};
use tempfile::TempDir;

use super::*;
use crate::{SqliteStore, aged, conformance};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn refusal(data_dir: &Path) -> OpenError {
    SqliteStore::open(data_dir).expect_err("refused")
}

/// A data directory with some hives in it, closed.
async fn filled() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(dir.path()).expect("a new database");
    for n in 0..40 {
        store.register(conformance::network(&format!("hive-{n}"))).await.expect("registered");
        let launch = format!("launch-{n}").parse().expect("an id");
        store.intend(launch, format!("hive-{n}").parse().expect("an id")).await.expect("noted");
    }
    dir
}

#[test]
fn a_new_database_is_for_its_owner_only() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("deep").join("data");
    let store = SqliteStore::open(&dir).expect("a new database");
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(store.path()), 0o600);
    for name in ["queen.lock", "queen.db-wal", "queen.db-shm"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
}

#[test]
fn an_open_data_directory_and_database_are_closed_to_others() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(SqliteStore::open(dir.path()).expect("a new database"));
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    open(dir.path(), 0o755);
    open(&dir.path().join(NAME), 0o644);
    let store = SqliteStore::open(dir.path()).expect("our database");
    assert_eq!((mode(dir.path()), mode(store.path())), (0o700, 0o600));
}

#[test]
fn a_directory_that_holds_other_things_keeps_its_mode() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("letter.txt"), "dear").expect("written");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("chmod");
    SqliteStore::open(dir.path()).expect("a new database");
    assert_eq!(mode(dir.path()), 0o755);
}

#[test]
fn the_second_opener_is_told_the_pid_and_may_open_after_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = SqliteStore::open(dir.path()).expect("a new database");
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::Locked { pid, .. } if pid == Some(std::process::id())), "{error}");
    drop(first);
    SqliteStore::open(dir.path()).expect("free after the first is dropped");
}

#[test]
fn what_is_no_database_is_refused_and_left_as_it_is() {
    let foreign = {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("other.db");
        let db = Connection::open(&path).expect("another database");
        db.execute_batch(
            "CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine'); PRAGMA user_version = 7",
        )
        .expect("filled");
        db.close().expect("closed");
        fs::read(path).expect("read")
    };
    let noise: Vec<u8> = (0..8192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let cases: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("one byte", b"S"),
        ("a text", b"[[hive]]\nmode = \"local\"\n"),
        ("the magic alone", b"SQLite format 3\0"),
        ("noise", &noise),
        ("the database of another program", &foreign),
    ];
    for (what, bytes) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(NAME), bytes).expect("written");
        let error = refusal(dir.path());
        assert!(matches!(error, OpenError::NotOurs { .. }), "{what}: {error}");
        assert_eq!(fs::read(dir.path().join(NAME)).expect("still there"), bytes, "{what}");
        for suffix in COMPANIONS {
            assert!(!beside(&dir.path().join(NAME), suffix).exists(), "{what} got a {suffix}");
        }
    }
}

#[test]
fn a_directory_in_the_place_of_the_database_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join(NAME)).expect("made");
    assert!(matches!(refusal(dir.path()), OpenError::NotOurs { .. }));
}

#[test]
fn a_log_without_its_database_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("queen.db-wal"), b"frames").expect("written");
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
    assert!(!dir.path().join(NAME).exists(), "nothing was made beside it");
}

#[test]
fn a_start_that_was_cut_off_leaves_nothing_that_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join(UNFINISHED), b"").expect("written");
    fs::write(dir.path().join("queen.db.new-journal"), b"half").expect("written");
    SqliteStore::open(dir.path()).expect("a new database");
    assert!(!dir.path().join(UNFINISHED).exists());
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(SqliteStore::open(dir.path()).expect("a new database"));
    let path = dir.path().join(NAME);
    let db = Connection::open(&path).expect("our database");
    db.pragma_update(None, "user_version", schema::VERSION + 1).expect("raised");
    db.close().expect("closed");
    let before = fs::read(&path).expect("read");
    let error = refusal(dir.path());
    let OpenError::Newer { found, known, .. } = error else { panic!("{error}") };
    assert_eq!((found, known), (schema::VERSION + 1, schema::VERSION));
    assert_eq!(fs::read(&path).expect("read"), before);
}

#[tokio::test]
async fn an_older_database_is_brought_up_to_date_with_all_its_rows() {
    for version in 1..=aged::NEWEST {
        let dir = filled().await;
        let store = SqliteStore::open(dir.path()).expect("our database");
        let before = HiveRegistry::list(&store).await.expect("a list");
        drop(store);
        aged::age(dir.path(), version).expect("aged");
        let (found, rows) = aged::content(dir.path()).expect("readable");
        assert_eq!((found, rows.len()), (version, 80), "40 hives and 40 launches");
        let store = SqliteStore::open(dir.path()).expect("an older database");
        let after = HiveRegistry::list(&store).await.expect("a list");
        assert_eq!(format!("{after:?}"), format!("{before:?}"), "from {version}");
        drop(store);
        assert_eq!(aged::content(dir.path()).expect("readable"), (aged::NEWEST, rows), "from {version}");
    }
}

#[test]
fn a_refused_database_keeps_its_log_too() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(SqliteStore::open(dir.path()).expect("a new database"));
    let path = dir.path().join(NAME);
    let db = Connection::open(&path).expect("our database");
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    db.pragma_update(None, "user_version", schema::VERSION + 1).expect("raised, in the log");
    db.close().expect("closed");
    let files = || [&path, &beside(&path, "-wal")].map(|file| fs::read(file).expect("read"));
    let before = files();
    assert!(matches!(refusal(dir.path()), OpenError::Newer { .. }));
    assert_eq!(files(), before);
}

#[test]
fn a_database_whose_tables_are_other_ones_is_refused() {
    for change in
        ["DROP TABLE observations", "ALTER TABLE hives ADD COLUMN colour", "PRAGMA user_version = 0"]
    {
        let dir = tempfile::tempdir().expect("a directory");
        drop(SqliteStore::open(dir.path()).expect("a new database"));
        let db = Connection::open(dir.path().join(NAME)).expect("our database");
        db.execute_batch(change).expect("changed");
        db.close().expect("closed");
        let error = refusal(dir.path());
        assert!(matches!(error, OpenError::NotOurs { .. }), "{change}: {error}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    drop(SqliteStore::open(dir.path()).expect("a new database"));
    let db = Connection::open(dir.path().join(NAME)).expect("our database");
    db.execute_batch("CREATE VIEW busy AS SELECT id FROM hives").expect("a view of somebody's own");
    db.close().expect("closed");
    SqliteStore::open(dir.path()).expect("what somebody added is his");
}

/// Opens a damaged copy: either it is refused and untouched, or it is whole.
async fn survives(what: &str, damaged: &[u8]) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(NAME);
    fs::write(&path, damaged).expect("written");
    let inode = fs::metadata(&path).expect("there").ino();
    match SqliteStore::open(dir.path()) {
        Err(OpenError::NotOurs { .. } | OpenError::Newer { .. }) => {
            assert_eq!(fs::read(&path).expect("still there"), damaged, "{what}: a refused file was changed");
            false
        }
        Err(other) => unreachable!("{what}: {other}"),
        Ok(store) => {
            assert_eq!(store.list().await.expect("a list").len(), 40, "{what}: hives were lost silently");
            drop(store);
            let db = Connection::open(&path).expect("it opens");
            assert_eq!(damage(&db).expect("checked"), None, "{what}");
            assert_eq!(fs::metadata(&path).expect("there").ino(), inode, "{what}: it was made anew");
            true
        }
    }
}

#[tokio::test]
async fn damage_is_refused_or_harmless_and_never_overwritten() {
    let dir = filled().await;
    let whole = fs::read(dir.path().join(NAME)).expect("the database");
    assert!(survives("whole", &whole).await);
    let mut refused = 0;
    for n in 0..100_usize {
        // The header and the schema are hit as often as all pages together.
        let range = if n % 2 == 0 { whole.len() } else { 4096 };
        let at = (n * 7919 + 13) % range;
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (n % 8);
        refused += usize::from(!survives(&format!("bit {} of byte {at}", n % 8), &damaged).await);
    }
    assert!(refused > 10, "the damage was never seen ({refused})");
    for n in 0..30_usize {
        let length = whole.len() * n / 30;
        assert!(
            !survives(&format!("cut to {length}"), &whole[..length]).await,
            "cut to {length} was accepted"
        );
    }
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..][..4096].fill(0);
        survives(&format!("page {page} zeroed"), &damaged).await;
    }
}

#[test]
fn a_database_that_another_program_holds_is_said_to_be_busy() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(SqliteStore::open(dir.path()).expect("a new database"));
    let other = Connection::open(dir.path().join(NAME)).expect("our database");
    other.pragma_update(None, "locking_mode", "exclusive").expect("set");
    other.execute_batch("BEGIN EXCLUSIVE").expect("held");
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::Busy { .. }), "{error}");
}

#[test]
fn every_refusal_says_what_to_do() {
    let path = || "/data/queen.db".into();
    let errors = [
        OpenError::NotOurs { path: path(), reason: "it is empty".to_owned() },
        OpenError::Newer { path: path(), found: 9, known: 1 },
        OpenError::Locked { data_dir: "/data".into(), pid: Some(4711) },
        OpenError::Locked { data_dir: "/data".into(), pid: None },
        OpenError::Busy { path: path() },
        OpenError::not_writable("/data", "create", io::Error::from(io::ErrorKind::PermissionDenied)),
        OpenError::Full { path: path() },
    ];
    let text = errors.iter().map(|e| format!("{e}\n")).collect::<String>();
    insta::assert_snapshot!(text, @r"
    /data/queen.db cannot be used as the database of queen-rbee: it is empty. It was left as it is; move it away or restore a backup, or choose another data directory
    /data/queen.db was written by a newer queen-rbee (schema 9, this one knows 1). It was left as it is; use that version, or choose another data directory
    another queen-rbee (pid 4711) uses /data
    another queen-rbee uses /data
    another program holds a lock on /data/queen.db; close it and try again
    could not create /data; make it writable for this user, or choose another data directory
    the disk of /data/queen.db is full
    ");
}

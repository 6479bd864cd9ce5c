use std::{
    cell::Cell,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet::{
    Desired, DesiredBy, HiveId, HiveRegistry, HiveSource, HiveSpec, KeyStore, ObservedHive, Registration,
    StartPolicy, StoreError, Timestamp,
};
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::SqliteStore;
use crate::{conformance, error::DatabaseReplaced, memory::MemoryStore};

fn new() -> (TempDir, SqliteStore) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(dir.path()).expect("a new database");
    (dir, store)
}

/// Empty stores, each in a directory of its own below one.
fn factory(parent: &TempDir) -> impl Fn() -> Arc<SqliteStore> {
    let made = Cell::new(0);
    let parent = parent.path().to_owned();
    move || {
        made.set(made.get() + 1);
        let dir = parent.join(format!("{}", made.get()));
        Arc::new(SqliteStore::open(&dir).expect("a new database"))
    }
}

fn id(text: &str) -> HiveId {
    text.parse().expect("an id")
}

#[tokio::test]
async fn the_hive_registry_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::hive_registry(factory(&dir)).await;
}

#[tokio::test]
async fn the_launch_journal_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::launch_journal(factory(&dir)).await;
}

#[tokio::test]
async fn the_model_catalog_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::model_catalog(factory(&dir)).await;
}

#[tokio::test]
async fn the_observation_store_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::observation_store(factory(&dir)).await;
}

#[tokio::test]
async fn the_key_store_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::key_store(factory(&dir)).await;
}

#[tokio::test]
async fn what_was_stored_is_there_after_reopening() {
    let (dir, store) = new();
    store.register(conformance::attached("a")).await.expect("registered");
    let seen = ObservedHive {
        status: fleet::HiveStatus::Online,
        last_seen: Some(Timestamp::from_millis(7)),
        capabilities: Some(conformance::capabilities()),
    };
    store.observe(&id("a"), seen).await.expect("observed");
    let before = store.get(&id("a")).await.expect("readable");
    drop(store);
    let store = SqliteStore::open(dir.path()).expect("our database");
    assert_eq!(store.get(&id("a")).await.expect("readable"), before);
    assert!(before.is_some());
}

#[tokio::test]
async fn an_answer_waits_for_the_disk() {
    let (_dir, store) = new();
    let settings = store.writer.call("look at the settings", |session| {
        let value = |name| {
            session.raw().pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
        };
        Ok((value("journal_mode"), value("synchronous")))
    });
    let (journal, synchronous) = settings.await.expect("answered");
    assert_eq!(journal, Ok("wal".to_owned().into()));
    assert_eq!(synchronous, Ok(2.into()), "2 is FULL: each commit is synced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_register_one_hive_once() {
    let (_dir, store) = new();
    let store = Arc::new(store);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..100_u16 {
        let store = Arc::clone(&store);
        // Every tenth one disagrees about the port.
        let spec = HiveSpec { port: if n % 10 == 9 { 1 } else { 7835 }, ..conformance::local("a") };
        calls.spawn(async move { store.register(spec).await.expect("an answer") });
    }
    let answers = calls.join_all().await;
    let count = |wanted: fn(&Registration) -> bool| answers.iter().filter(|a| wanted(a)).count();
    assert_eq!(count(|a| *a == Registration::Created), 1);
    let conflicts = count(|a| matches!(a, Registration::Conflict { .. }));
    assert!(conflicts == 10 || conflicts == 90, "{conflicts}");
    assert_eq!(HiveRegistry::list(&*store).await.expect("a list").len(), 1);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_hide_the_others() {
    let (_dir, store) = new();
    for name in ["a", "b", "c"] {
        store.register(conformance::local(name)).await.expect("registered");
    }
    let other = Connection::open(store.path()).expect("the database");
    other.execute_batch("UPDATE hives SET capabilities = '{\"devices\": [' WHERE id = 'b'").expect("broken");
    let rows = HiveRegistry::list(&store).await.expect("a list");
    let read: Vec<_> = rows.iter().map(|row| row.as_ref().map(|r| r.spec.id.as_str().to_owned())).collect();
    assert!(matches!(&read[..], [Ok(_), Err(StoreError::Row { key, .. }), Ok(_)] if key == "b"), "{read:?}");
    assert!(matches!(store.get(&id("b")).await, Err(StoreError::Row { .. })));
    let again = store.register(conformance::local("b")).await.expect("an answer");
    assert_eq!(again, Registration::Unchanged, "the description is readable");
    let seen = ObservedHive {
        status: fleet::HiveStatus::Online,
        last_seen: None,
        capabilities: Some(conformance::capabilities()),
    };
    store.observe(&id("b"), seen).await.expect("observed");
    store.get(&id("b")).await.expect("a new report heals the row");
}

#[tokio::test]
async fn an_unreadable_row_does_not_stop_the_configuration() {
    let (_dir, store) = new();
    let entry = || HiveSpec { source: HiveSource::Config, ..conformance::local("a") };
    let gone = || HiveSpec { id: id("gone"), ..entry() };
    let unreadable = || HiveSpec { id: id("unreadable"), ..entry() };
    store.sync_config(vec![entry(), gone(), unreadable()]).await.expect("synced");
    let other = Connection::open(store.path()).expect("the database");
    other
        .execute_batch(
            "UPDATE hives SET hostname = 'a b' WHERE id IN ('a', 'unreadable'); \
             UPDATE hives SET capabilities = '[' WHERE id = 'gone'",
        )
        .expect("broken");
    let removed = store.sync_config(vec![entry()]).await.expect("synced");
    assert_eq!(removed.iter().map(|r| r.spec.id.as_str()).collect::<Vec<_>>(), ["gone"]);
    assert_eq!(store.get(&id("a")).await.expect("readable").expect("a row").spec, entry());
    assert!(store.get(&id("unreadable")).await.is_err(), "what nobody could stop is kept in sight");
    assert!(store.remove(&id("unreadable")).await.expect("removed"));
}

#[tokio::test]
async fn a_row_of_the_first_eight_columns_alone_is_a_hive() {
    let (_dir, store) = new();
    let other = Connection::open(store.path()).expect("the database");
    other
        .execute_batch(
            "INSERT INTO hives (id, hostname, port, mode, ssh_key_path, capabilities, last_seen, status) \
             VALUES ('box', '192.168.1.100', 8080, 'network', '/home/user/.ssh/id_rsa', NULL, NULL, NULL)",
        )
        .expect("inserted");
    let row = store.get(&id("box")).await.expect("readable").expect("a row");
    assert_eq!((row.spec.port, row.spec.start), (8080, StartPolicy::Always));
    assert_eq!((row.desired, row.status), (Desired::Running, fleet::HiveStatus::Offline));
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_never_taken_for_no_key() {
    let (_dir, store) = new();
    let other = Connection::open(store.path()).expect("the database");
    other
        .execute_batch(
            "INSERT INTO api_keys (id, name, sha256, scope, limits, created_at) \
             VALUES ('k', 'n', 'junk', 'admin', '{}', 1)",
        )
        .expect("inserted");
    assert!(matches!(KeyStore::list(&store).await, Err(StoreError::Row { .. })));
}

#[tokio::test]
async fn a_lock_of_another_program_delays_writes_by_two_seconds_in_all_and_reads_not_at_all() {
    let (_dir, store) = new();
    store.register(conformance::local("a")).await.expect("registered");
    let other = Connection::open(store.path()).expect("the database");
    other.execute_batch("BEGIN EXCLUSIVE").expect("held");
    let started = Instant::now();
    let store = Arc::new(store);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        calls.spawn(async move { store.register(conformance::local("b")).await });
    }
    tokio::task::yield_now().await;
    store.get(&id("a")).await.expect("readable");
    assert!(calls.try_join_next().is_none(), "a read waited for a writer");
    for answer in calls.join_all().await {
        assert!(matches!(answer, Err(StoreError::Locked { .. })), "{answer:?}");
    }
    // One after the other they would take 40 s.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    other.execute_batch("ROLLBACK").expect("released");
    store.register(conformance::local("b")).await.expect("registered");
}

#[tokio::test]
async fn a_full_disk_is_said_and_recovered_from() {
    let (_dir, store) = new();
    let limit = |pages: i64| {
        store.writer.call("limit the file", move |session| {
            let set = session.raw().pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()));
            set.map_err(|e| StoreError::Other { action: "limit the file", source: Box::new(e) })
        })
    };
    limit(1).await.expect("limited");
    let mut registered = 0;
    let error = loop {
        let spec =
            HiveSpec { labels: vec!["x".repeat(500)], ..conformance::local(&format!("h{registered}")) };
        match store.register(spec).await {
            Ok(_) => registered += 1,
            Err(error) => break error,
        }
        assert!(registered < 1000, "the disk never became full");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let rows = HiveRegistry::list(&store).await.expect("reads go on");
    assert_eq!(rows.len(), registered);
    limit(100_000).await.expect("space again");
    store.register(conformance::local("next")).await.expect("registered");
}

#[tokio::test]
async fn nothing_is_written_to_a_file_that_was_taken_away() {
    for name in ["queen.db", "queen.db-wal"] {
        let (dir, store) = new();
        store.register(conformance::local("a")).await.expect("registered");
        fs::rename(dir.path().join(name), dir.path().join("taken")).expect("moved");
        let error = store.register(conformance::local("b")).await.expect_err("refused");
        let StoreError::Other { source, .. } = &error else { unreachable!("{name}: {error:?}") };
        assert!(source.is::<DatabaseReplaced>(), "{name}: {source}");
        fs::copy(dir.path().join("taken"), dir.path().join(name)).expect("another file of that name");
        store.register(conformance::local("b")).await.expect_err("refused");
        fs::remove_file(dir.path().join(name)).expect("removed");
        fs::rename(dir.path().join("taken"), dir.path().join(name)).expect("put back");
        store.register(conformance::local("b")).await.expect("the same file is welcome again");
    }
}

#[tokio::test]
async fn after_a_disk_error_the_file_is_checked_before_it_is_written() {
    let (_dir, store) = new();
    store.register(conformance::local("a")).await.expect("registered");
    let suspect = || {
        store.writer.call("suspect", |session| {
            session.suspect_now();
            Ok(())
        })
    };
    suspect().await.expect("marked");
    store.register(conformance::local("b")).await.expect("the file is whole");

    // Damage that the check sees: a row that its constraints forbid.
    let other = Connection::open(store.path()).expect("the database");
    other
        .execute_batch("PRAGMA ignore_check_constraints = ON; UPDATE hives SET mode = 'odd' WHERE id = 'a'")
        .expect("damaged");
    suspect().await.expect("marked");
    for _ in 0..2 {
        let error = store.register(conformance::local("c")).await.expect_err("refused");
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    }
    assert_eq!(HiveRegistry::list(&store).await.expect("reads go on").len(), 2);
    other.execute_batch("UPDATE hives SET mode = 'local' WHERE id = 'a'").expect("mended");
    store.register(conformance::local("c")).await.expect("the file is whole again");
}

#[tokio::test]
async fn calls_that_nobody_waits_for_are_bounded() {
    let (_dir, store) = new();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let block = store.writer.call("block", move |_| {
        let _released = wait.recv();
        Ok(())
    });
    let mut calls = vec![Box::pin(block) as std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>>>>];
    for _ in 0..1100 {
        calls.push(Box::pin(store.writer.call("wait", |_| Ok(()))));
    }
    let mut answers = Vec::new();
    let mut waiting = Vec::new();
    for mut call in calls {
        match futures_poll(call.as_mut()) {
            Some(answer) => answers.push(answer),
            None => waiting.push(call),
        }
    }
    assert!(
        !answers.is_empty() && answers.iter().all(Result::is_err),
        "more than the queue holds were taken"
    );
    release.send(()).expect("it waits");
    for call in waiting {
        call.await.expect("those that were taken are answered");
    }
}

fn futures_poll<T>(call: std::pin::Pin<&mut dyn Future<Output = T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match call.poll(&mut context) {
        std::task::Poll::Ready(answer) => Some(answer),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn the_stored_form_of_a_hive_stays_as_it_is() {
    let (_dir, store) = new();
    store.register(conformance::network("a")).await.expect("registered");
    store.register(conformance::attached("b")).await.expect("registered");
    let seen = ObservedHive {
        status: fleet::HiveStatus::Error,
        last_seen: Some(Timestamp::from_millis(1_760_000_000_123)),
        capabilities: Some(conformance::capabilities()),
    };
    store.observe(&id("a"), seen).await.expect("observed");
    let other = Connection::open(store.path()).expect("the database");
    let mut statement = other.prepare("SELECT * FROM hives ORDER BY id").expect("a statement");
    let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut text = String::new();
    let mut rows = statement.query([]).expect("rows");
    while let Some(row) = rows.next().expect("a row") {
        for name in &names {
            let cell: rusqlite::types::Value = row.get(name.as_str()).expect("a cell");
            text.push_str(&format!("{name} = {cell:?}\n"));
        }
    }
    insta::assert_snapshot!(text, @r#"
    id = Text("a")
    hostname = Text("192.168.1.100")
    port = Integer(8080)
    mode = Text("network")
    ssh_key_path = Text("/home/user/.ssh/id_ed25519")
    capabilities = Text("{\"devices\":[{\"kind\":\"cuda\",\"index\":0,\"name\":\"NVIDIA GeForce RTX 3090\",\"memory_total\":25769803776,\"memory_free\":12884901888},{\"kind\":\"cpu\",\"index\":0,\"name\":\"AMD Ryzen 9\",\"memory_total\":68719476736,\"memory_free\":34359738368}],\"ram_total\":68719476736,\"ram_free\":51539607552,\"disk_free\":536870912000,\"store_id\":\"store-1\",\"engines\":[{\"name\":\"llama-server\",\"version\":\"b4000\",\"devices\":[\"cuda\",\"cpu\"],\"running_usage\":\"timings_per_token\"}],\"notices\":[{\"code\":\"gpu_unused\",\"message\":\"install a driver\"}]}")
    last_seen = Integer(1760000000123)
    status = Text("error")
    ssh_user = Text("rbee")
    ssh_port = Integer(2222)
    host_key = Text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA")
    region = Text("cellar")
    labels = Text("[\"gpu\",\"loud, and \\\"quoted\\\"\"]")
    desired = Text("stopped")
    desired_by = Text("placement")
    source = Text("api")
    kind = Text("managed")
    token = Null
    start = Text("on_demand")
    tls_fingerprint = Null
    leaving = Integer(0)
    paused = Integer(0)
    id = Text("b")
    hostname = Text("localhost")
    port = Integer(7835)
    mode = Text("local")
    ssh_key_path = Null
    capabilities = Null
    last_seen = Null
    status = Text("offline")
    ssh_user = Null
    ssh_port = Null
    host_key = Null
    region = Null
    labels = Text("[]")
    desired = Text("running")
    desired_by = Text("person")
    source = Text("api")
    kind = Text("attached")
    token = Text("0123456789abcdef-token")
    start = Text("always")
    tls_fingerprint = Text("5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a")
    leaving = Integer(0)
    paused = Integer(0)
    "#);
}

/// One call to a hive registry.
#[derive(Debug, Clone)]
enum Call {
    Register(HiveSpec),
    Sync(Vec<HiveSpec>),
    Desire(HiveId, Desired, DesiredBy),
    Observe(HiveId, ObservedHive),
    Leave(HiveId),
    Remove(HiveId),
}

fn any_id() -> impl Strategy<Value = HiveId> {
    prop_oneof!["a", "b", "c"].prop_map(|text| id(&text))
}

fn any_spec() -> impl Strategy<Value = HiveSpec> {
    let kinds = prop_oneof![
        Just(conformance::local("x")),
        Just(conformance::network("x")),
        Just(conformance::attached("x"))
    ];
    (any_id(), kinds, 1..3_u16, any::<bool>(), any::<bool>()).prop_map(
        |(id, spec, port, on_demand, labelled)| HiveSpec {
            id,
            port,
            start: if on_demand { StartPolicy::OnDemand } else { StartPolicy::Always },
            labels: labelled.then(|| "label".to_owned()).into_iter().collect(),
            ..spec
        },
    )
}

fn any_call() -> impl Strategy<Value = Call> {
    let desired = prop_oneof![
        Just(Desired::Running),
        Just(Desired::Stopped),
        Just(Desired::Drained),
        Just(Desired::Paused)
    ];
    let by = prop_oneof![Just(DesiredBy::Person), Just(DesiredBy::Placement)];
    let observed =
        (any::<bool>(), any::<Option<i64>>(), any::<bool>()).prop_map(|(online, seen, reported)| {
            ObservedHive {
                status: if online { fleet::HiveStatus::Online } else { fleet::HiveStatus::Error },
                last_seen: seen.map(Timestamp::from_millis),
                capabilities: reported.then(conformance::capabilities),
            }
        });
    prop_oneof![
        4 => any_spec().prop_map(Call::Register),
        2 => prop::collection::vec(any_spec(), 0..3).prop_map(|specs| {
            let mut entries: Vec<HiveSpec> = Vec::new();
            for spec in specs {
                if entries.iter().all(|entry| entry.id != spec.id) {
                    entries.push(HiveSpec { source: HiveSource::Config, ..spec });
                }
            }
            Call::Sync(entries)
        }),
        3 => (any_id(), desired, by).prop_map(|(id, desired, by)| Call::Desire(id, desired, by)),
        2 => (any_id(), observed).prop_map(|(id, seen)| Call::Observe(id, seen)),
        1 => any_id().prop_map(Call::Leave),
        1 => any_id().prop_map(Call::Remove),
    ]
}

async fn run(store: &dyn HiveRegistry, call: Call) -> String {
    match call {
        Call::Register(spec) => format!("{:?}", store.register(spec).await),
        Call::Sync(specs) => format!("{:?}", store.sync_config(specs).await),
        Call::Desire(id, desired, by) => format!("{:?}", store.set_desired(&id, desired, by).await),
        Call::Observe(id, seen) => format!("{:?}", store.observe(&id, seen).await),
        Call::Leave(id) => format!("{:?}", store.leave(&id).await),
        Call::Remove(id) => format!("{:?}", store.remove(&id).await),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_database_and_its_twin_answer_alike_and_keep_the_rules(calls in prop::collection::vec(any_call(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (_dir, sqlite) = new();
            let memory = MemoryStore::new();
            for call in calls {
                let before = HiveRegistry::list(&memory).await.expect("a list");
                let answer = run(&memory, call.clone()).await;
                prop_assert_eq!(run(&sqlite, call.clone()).await, answer);
                let after = HiveRegistry::list(&memory).await.expect("a list");
                let found = HiveRegistry::list(&sqlite).await.expect("a list");
                prop_assert_eq!(format!("{:?}", found), format!("{:?}", after));
                let leaving = [memory.leaving().await, sqlite.leaving().await].map(|rows| format!("{rows:?}"));
                prop_assert_eq!(&leaving[0], &leaving[1]);
                check_rules(&call, &before, &after)?;
            }
            Ok(())
        })?;
    }
}

type Rows = [Result<fleet::HiveRecord, StoreError>];

fn check_rules(call: &Call, before: &Rows, after: &Rows) -> Result<(), TestCaseError> {
    let row = |rows: &Rows, id: &HiveId| rows.iter().flatten().find(|row| row.spec.id == *id).cloned();
    if let Call::Sync(entries) = call {
        let of_config = |row: &&fleet::HiveRecord| row.spec.source == HiveSource::Config;
        let listed: Vec<_> = after.iter().flatten().filter(of_config).map(|row| row.spec.clone()).collect();
        let mut wanted = entries.clone();
        wanted.sort_by(|a, b| a.id.cmp(&b.id));
        prop_assert_eq!(listed, wanted, "the rows of the configuration are its entries");
    }
    for old in before.iter().flatten() {
        let Some(new) = row(after, &old.spec.id) else { continue };
        let by_person = matches!(call, Call::Desire(_, _, DesiredBy::Person));
        let stopped = old.desired != Desired::Running && old.desired_by == DesiredBy::Person;
        if stopped && !by_person {
            prop_assert_eq!((new.desired, new.desired_by), (old.desired, old.desired_by));
        }
        if matches!(call, Call::Register(_)) {
            prop_assert!(new.spec.same_connection(&old.spec), "a registration changed a connection");
            prop_assert_eq!(new.spec.source, old.spec.source);
        }
    }
    Ok(())
}

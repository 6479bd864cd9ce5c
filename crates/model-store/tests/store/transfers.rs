//! Models that come from elsewhere.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use fleet::{DownloadState, ModelFile, ModelRef, Pinned};
use futures_util::stream;
use model_store::{Download, ModelStore, Order, Peer, StoreChange, StoreError, StoreSettings};

use crate::hub::{COMMIT, Fault, Hub, sha256};

const BOUND: Duration = Duration::from_secs(20);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(value) => value,
        Err(_) => panic!("never happened: {what}"),
    }
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) fn model(text: &str) -> ModelRef {
    text.parse().unwrap()
}

/// A small model; of two seeds, two models.
pub(crate) fn gguf(seed: u16) -> Vec<u8> {
    let weights = (0..20_000_u16).map(|i| f32::from(i ^ seed)).collect();
    gguf::Writer::new()
        .with("general.architecture", "llama")
        .with("llama.block_count", 2_u32)
        .with("llama.context_length", 512_u32)
        .with_f32("token_embd.weight", &[20_000], weights)
        .to_bytes()
        .unwrap()
}

pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: ModelStore,
    changes: Arc<Mutex<Vec<StoreChange>>>,
}

impl Machine {
    pub(crate) async fn of(hub_url: &str, adjust: impl FnOnce(&mut StoreSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = StoreSettings::new(dir.path());
        settings.hub_url = hub_url.to_owned();
        settings.stall = Duration::from_millis(500);
        settings.headroom = 0;
        adjust(&mut settings);
        let changes: Arc<Mutex<Vec<StoreChange>>> = Arc::default();
        let told = Arc::clone(&changes);
        let store =
            ModelStore::open(settings, move |change| told.lock().unwrap().push(change)).await.unwrap();
        Self { dir, store, changes }
    }

    async fn new(hub: &Hub) -> Self {
        Self::of(&hub.url, |_| {}).await
    }

    async fn end_of(&self, download: &Download) -> Download {
        let mut records = self.store.follow(&download.id).expect("is known");
        within("the transfer ends", records.wait_for(|record| record.state.is_final())).await.unwrap().clone()
    }

    pub(crate) async fn bring(&self, wanted: &str) -> Download {
        let download = self.store.download(Order::of(model(wanted))).await.unwrap();
        self.end_of(&download).await
    }
}

fn failure(download: &Download) -> (&str, &str) {
    match &download.state {
        DownloadState::Failed { code, message } => (code, message),
        other => panic!("it is {other:?}"),
    }
}

#[tokio::test]
async fn a_model_of_the_hub_is_inspected_by_range_and_then_fetched_whole() {
    let bytes = gguf(1);
    let hub = Hub::start(vec![("a-Q8_0.gguf", gguf(2)), ("a-Q4_K_M.gguf", bytes.clone())]).await;
    let machine = Machine::new(&hub).await;
    let header = machine.store.inspect(&model("o/n")).await.unwrap();
    assert_eq!(header.resolved.as_str(), format!("hf:o/n@{COMMIT}:a-Q4_K_M.gguf"));
    let [file] = header.files.as_slice() else { panic!("{:?}", header.files) };
    assert_eq!((file.bytes, file.digest), (Some(bytes.len() as u64), Some(sha256(&bytes))));
    assert_eq!(header.info.context_length, Some(512));
    let download = machine.bring("o/n").await;
    assert_eq!((download.state, download.bytes), (DownloadState::Complete, bytes.len() as u64));
    let located = machine.store.locate(&model("o/n")).await.unwrap();
    assert_eq!(std::fs::read(&located.path).unwrap(), bytes);
    assert_eq!(located.model.digest, Some(sha256(&bytes)));
    assert_eq!(hub.seen.lock().unwrap().lists, 1, "what was inspected is what is fetched");
    let told: Vec<_> = machine.changes.lock().unwrap().clone();
    assert!(matches!(told.first(), Some(StoreChange::Download(d)) if d.state == DownloadState::Queued));
    assert!(told.contains(&StoreChange::Model(located.model)));
}

#[tokio::test]
async fn other_names_of_a_model_share_its_files_and_its_transfer() {
    let hub = Hub::start(vec![("a-Q4_K_M.gguf", gguf(1))]).await;
    let machine = Machine::new(&hub).await;
    hub.fault(&[Fault::StallsAfter(100)]);
    let id = async |name: &str| machine.store.download(Order::of(model(name))).await.unwrap().id;
    let (one, two, three) = tokio::join!(id("o/n"), id("hf:o/n:Q4_K_M"), id("hf:o/n@main:a-Q4_K_M.gguf"));
    assert!(one == two && two == three);
    let download = machine.store.download(Order::of(model("o/n"))).await.unwrap();
    assert_eq!(machine.end_of(&download).await.state, DownloadState::Complete);
    let before = hub.starts().len();
    assert_eq!(machine.bring("hf:o/n:q4_k_m").await.state, DownloadState::Complete);
    assert_eq!(hub.starts().len(), before, "what is there is not fetched again");
    machine.store.locate(&model("hf:o/n:q4_k_m")).await.unwrap();
}

#[tokio::test]
async fn a_transfer_that_breaks_or_stalls_goes_on_where_it_was() {
    let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
    let machine = Machine::new(&hub).await;
    hub.fault(&[Fault::BreaksAfter(1000), Fault::StallsAfter(500), Fault::Status(503)]);
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
    assert_eq!(hub.starts(), [0, 1000, 1500, 1500]);
}

#[tokio::test]
async fn a_source_that_never_gets_further_is_given_up() {
    let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
    let machine = Machine::new(&hub).await;
    hub.fault(&[Fault::BreaksAfter(10); 50]);
    let download = machine.bring("o/n").await;
    let (code, message) = failure(&download);
    assert_eq!(code, "source_unreachable");
    assert!(message.contains("hub 127.0.0.1"), "{message}");
    assert_eq!(hub.starts().len(), 4, "one attempt and three resumes");
    hub.fault(&[]);
    assert_eq!(
        machine.bring("o/n").await.state,
        DownloadState::Complete,
        "a failed one can be asked for again"
    );
    assert_eq!(hub.starts().last(), Some(&40), "and keeps what came");
}

#[tokio::test]
async fn damaged_bytes_are_never_taken_for_a_model() {
    let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
    let machine = Machine::new(&hub).await;
    hub.fault(&[Fault::Corrupt, Fault::Corrupt]);
    let download = machine.bring("o/n").await;
    assert_eq!(failure(&download).0, "digest_mismatch");
    assert!(machine.store.models().is_empty());
    hub.fault(&[Fault::Corrupt]);
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete, "one bad copy is fetched anew");
}

#[tokio::test]
async fn a_server_that_overlooks_the_range_is_read_from_the_start() {
    let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
    let machine = Machine::new(&hub).await;
    hub.fault(&[Fault::BreaksAfter(1000), Fault::IgnoresRange]);
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
}

#[tokio::test]
async fn the_hubs_token_stays_with_the_hub() {
    let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
    let elsewhere = Hub::start(vec![("a.gguf", gguf(1))]).await;
    hub.seen.lock().unwrap().redirects_to = Some(elsewhere.url.clone());
    let machine =
        Machine::of(&hub.url, |settings| settings.hub_token = Some("hf_0123456789abcdef".parse().unwrap()))
            .await;
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
    assert!(elsewhere.seen.lock().unwrap().files.iter().all(|(_, has_token)| !has_token));
}

#[tokio::test]
async fn what_the_hub_does_not_have_is_told_by_kind() {
    let hub = Hub::start(vec![("a-Q6_K.gguf", gguf(1)), ("a-Q8_0.gguf", gguf(2))]).await;
    let machine = Machine::new(&hub).await;
    let error = async |wanted: &str| machine.store.download(Order::of(model(wanted))).await.unwrap_err();
    let ambiguous = error("o/n").await;
    assert!(matches!(&ambiguous, StoreError::Ambiguous { choices, .. } if choices.len() == 2), "{ambiguous}");
    let private = error("private/n").await;
    assert!(matches!(private, StoreError::NotFound { .. }) && private.to_string().contains("HF_TOKEN"));
    let silent = Machine::of("http://127.0.0.1:1", |_| {}).await;
    let unreachable = silent.store.download(Order::of(model("o/n"))).await.unwrap_err();
    assert!(matches!(unreachable, StoreError::Source { .. }), "{unreachable}");
}

#[tokio::test]
async fn a_disk_without_room_is_told_before_a_byte_comes() {
    let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
    let machine = Machine::of(&hub.url, |settings| settings.headroom = u64::MAX / 2).await;
    let download = machine.bring("o/n").await;
    assert_eq!(failure(&download).0, "storage_full");
    assert_eq!(hub.starts(), Vec::<u64>::new());
}

#[tokio::test]
async fn shards_are_one_model() {
    let names = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
    let hub = Hub::start(vec![(names[1], gguf(2)), (names[0], gguf(1))]).await;
    let machine = Machine::new(&hub).await;
    let download = machine.bring("o/n").await;
    assert_eq!(download.state, DownloadState::Complete);
    let located = machine.store.locate(&model("o/n")).await.unwrap();
    assert!(located.path.ends_with(names[0]));
    assert_eq!((located.model.files.len(), located.model.bytes), (2, download.bytes));
    machine.store.delete(&model("o/n"), |_| false).await.unwrap();
    assert!(!located.path.exists());
    assert!(machine.store.models().is_empty());
}

/// What a queen would have pinned.
fn pinned(files: &[(&str, &[u8])]) -> Pinned {
    let file = |(path, bytes): &(&str, &[u8])| ModelFile {
        path: (*path).to_owned(),
        bytes: bytes.len() as u64,
        digest: sha256(bytes),
    };
    Pinned {
        resolved: format!("hf:o/n@{COMMIT}:{}", files[0].0).parse().unwrap(),
        files: files.iter().map(file).collect(),
    }
}

/// Another hive's offer of one file.
fn offer(peer: &str, bytes: &[u8]) -> Peer {
    let digest = sha256(bytes);
    let token = "grant-0123456789".parse().unwrap();
    Peer { url: format!("{peer}/blob/{digest}").parse().unwrap(), digest, token, pin: None }
}

const NOWHERE: &str = "http://127.0.0.1:1";

const SHARDS: [&str; 2] = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];

#[tokio::test]
async fn all_files_come_from_other_hives_and_need_no_hub() {
    let (one, two) = (gguf(1), gguf(2));
    let peer = Hub::start(vec![(SHARDS[0], one.clone()), (SHARDS[1], two.clone())]).await;
    let machine = Machine::of(NOWHERE, |_| {}).await;
    // It breaks off in each file, and goes on there.
    peer.fault(&[Fault::BreaksAfter(1000)]);
    let order = Order {
        pinned: Some(pinned(&[(SHARDS[0], &one), (SHARDS[1], &two)])),
        peers: vec![offer(&peer.url, &one), offer(&peer.url, &two)],
        ..Order::of(model("o/n"))
    };
    let download = machine.store.download(order).await.unwrap();
    assert_eq!(machine.end_of(&download).await.state, DownloadState::Complete);
    let located = machine.store.locate(&model("o/n")).await.unwrap();
    assert_eq!((located.model.files.len(), located.model.digest), (2, Some(sha256(&one))));
    assert_eq!(peer.starts(), [0, 1000, 0]);
    assert!(peer.seen.lock().unwrap().files.iter().all(|(_, has_token)| *has_token));
    let header = machine.store.header(&model("o/n")).await.unwrap();
    let files: Vec<_> = header.files.iter().map(|file| (file.path.as_str(), file.digest)).collect();
    assert_eq!(files, [(SHARDS[0], Some(sha256(&one))), (SHARDS[1], Some(sha256(&two)))]);
}

#[tokio::test]
async fn a_projector_comes_with_its_model_and_goes_with_it() {
    let names = ["a-Q4_K_M.gguf", "mmproj-a-F16.gguf", "mmproj-a-F32.gguf"];
    let hub = Hub::start(names.iter().zip([1, 2, 3]).map(|(name, seed)| (*name, gguf(seed))).collect()).await;
    let machine = Machine::new(&hub).await;
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
    let located = machine.store.locate(&model("o/n")).await.unwrap();
    assert!(located.path.ends_with(names[0]) && located.projector.unwrap().ends_with(names[1]));
    let header = machine.store.header(&model("o/n")).await.unwrap();
    let files: Vec<_> = header.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, names[..2], "another hive is told of both");
    machine.store.delete(&model("o/n"), |_| false).await.unwrap();
    let left = std::fs::read_dir(machine.dir.path().join(format!("hub/o/n/{COMMIT}"))).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn another_hive_with_other_bytes_is_asked_once_and_then_the_hub() {
    let (right, wrong) = (gguf(1), gguf(2));
    let peer = Hub::start(vec![("a.gguf", wrong)]).await;
    let hub = Hub::start(vec![("a.gguf", right.clone())]).await;
    let machine = Machine::new(&hub).await;
    let mut lies = offer(&peer.url, &right);
    lies.url = format!("{}/o/n/resolve/{COMMIT}/a.gguf", peer.url).parse().unwrap();
    let order = Order {
        pinned: Some(pinned(&[("a.gguf", &right)])),
        peers: vec![lies],
        // Nobody brings anything, and nobody is waited for: it would be the same file.
        relayed: true,
        ..Order::of(model("o/n"))
    };
    let download = machine.store.download(order).await.unwrap();
    assert_eq!(machine.end_of(&download).await.state, DownloadState::Complete);
    assert_eq!((peer.starts().len(), hub.starts().len()), (1, 1));
}

#[tokio::test]
async fn a_name_stands_for_what_it_was_pinned_to() {
    let (old, new) = (gguf(1), gguf(2));
    let hub = Hub::start(vec![("a.gguf", old.clone()), ("b.gguf", new.clone())]).await;
    let machine = Machine::new(&hub).await;
    let is = async |bytes: &[u8]| {
        let located = machine.store.locate(&model("o/n")).await.unwrap();
        assert_eq!(std::fs::read(&located.path).unwrap(), bytes);
    };
    for (name, bytes) in [("a.gguf", &old), ("b.gguf", &new), ("a.gguf", &old)] {
        let order = Order { pinned: Some(pinned(&[(name, bytes)])), ..Order::of(model("o/n")) };
        let download = machine.store.download(order).await.unwrap();
        assert_eq!(machine.end_of(&download).await.state, DownloadState::Complete);
        is(bytes).await;
    }
    assert_eq!((hub.starts().len(), hub.seen.lock().unwrap().lists), (2, 0), "each came once, unasked");
    let reopened = Machine::of(&hub.url, |settings| settings.dir = machine.dir.path().to_owned()).await;
    let located = reopened.store.locate(&model("o/n")).await.unwrap();
    assert_eq!(std::fs::read(&located.path).unwrap(), old, "also for the next launch");
}

#[tokio::test]
async fn a_pin_leads_nowhere_but_below_its_repository() {
    let machine = Machine::of(NOWHERE, |_| {}).await;
    let bytes = gguf(1);
    let good = pinned(&[("a.gguf", &bytes)]);
    let mut bad = vec![Pinned { files: vec![], ..good.clone() }];
    for path in ["../a.gguf", "/etc/passwd", "x/../../a.gguf", "", "-a.gguf", "a b"] {
        let file = ModelFile { path: path.to_owned(), ..good.files[0].clone() };
        bad.push(Pinned { files: vec![good.files[0].clone(), file], ..good.clone() });
    }
    for resolved in ["file:/a.gguf", "hf:o/n", "hf:o/n@main:a.gguf", "hf:o/n@0123456789:b.gguf"] {
        bad.push(Pinned { resolved: resolved.parse().unwrap(), ..good.clone() });
    }
    for pinned in bad {
        let order = Order { pinned: Some(pinned.clone()), ..Order::of(model("o/n")) };
        let error = machine.store.download(order).await.unwrap_err();
        assert!(matches!(error, StoreError::Pin { .. }), "{pinned:?}: {error}");
    }
}

#[tokio::test]
async fn the_queen_is_waited_for_before_the_hub_is_asked() {
    let (one, two) = (gguf(1), gguf(2));
    let hub = Hub::start(vec![(SHARDS[0], one.clone()), (SHARDS[1], two.clone())]).await;
    let machine = Machine::of(&hub.url, |settings| settings.stall = BOUND).await;
    let digest = sha256(&one);
    let piece = |bytes: &[u8], from: usize, to: usize| {
        stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(&bytes[from..to]))])
    };
    let early = machine.store.write(&digest, 0, piece(&one, 0, 10)).await.unwrap_err();
    assert!(matches!(early, StoreError::NotAwaited { .. }));
    let order = Order {
        pinned: Some(pinned(&[(SHARDS[0], &one), (SHARDS[1], &two)])),
        peers: vec![offer(NOWHERE, &one)],
        relayed: true,
        ..Order::of(model("o/n"))
    };
    let download = machine.store.download(order).await.unwrap();
    let mut records = machine.store.follow(&download.id).unwrap();
    let mut awaits = async |digest| {
        within("it tells what it waits for", records.wait_for(|record| record.awaits == Some(digest)))
            .await
            .map(drop)
            .unwrap();
    };
    awaits(digest).await;
    assert_eq!(machine.store.write(&digest, 0, piece(&one, 0, 1000)).await.unwrap(), 1000);
    let gap = machine.store.write(&digest, 2000, piece(&one, 2000, 3000)).await.unwrap_err();
    assert!(matches!(gap, StoreError::Offset { have: 1000, .. }), "{gap}");
    let all = machine.store.write(&digest, 1000, piece(&one, 1000, one.len())).await.unwrap();
    assert_eq!(all, one.len() as u64);
    awaits(sha256(&two)).await;
    machine.store.write(&sha256(&two), 0, piece(&two, 0, two.len())).await.unwrap();
    let ended = machine.end_of(&download).await;
    assert_eq!((ended.state, ended.awaits), (DownloadState::Complete, None));
    assert_eq!(std::fs::read(machine.store.locate(&model("o/n")).await.unwrap().path).unwrap(), one);
    assert_eq!(hub.starts(), Vec::<u64>::new(), "the hub was not asked");
}

#[tokio::test]
async fn a_queen_who_brings_nothing_does_not_keep_a_transfer_from_the_hub() {
    let bytes = gguf(1);
    let hub = Hub::start(vec![("a.gguf", bytes.clone())]).await;
    let machine = Machine::new(&hub).await;
    let order =
        Order { pinned: Some(pinned(&[("a.gguf", &bytes)])), relayed: true, ..Order::of(model("o/n")) };
    let download = machine.store.download(order).await.unwrap();
    assert_eq!(machine.end_of(&download).await.state, DownloadState::Complete);
    assert_eq!(hub.starts(), [0]);
}

#[tokio::test]
async fn a_stored_file_is_read_by_part_and_by_grant() {
    use tokio::io::AsyncReadExt;
    let bytes = gguf(1);
    let digest = sha256(&bytes);
    let hub = Hub::start(vec![("a.gguf", bytes.clone())]).await;
    let machine = Machine::new(&hub).await;
    assert!(matches!(machine.store.grant(&digest), Err(StoreError::NoBlob { .. })));
    machine.bring("o/n").await;
    let grant = machine.store.grant(&digest).unwrap();
    assert_eq!(grant.bytes, bytes.len() as u64);
    assert!(machine.store.is_granted(&digest, grant.token.reveal()));
    let part = machine.store.read(&digest, 10, Some(30)).await.unwrap();
    assert_eq!((part.start, part.end, part.total), (10, 30, bytes.len() as u64));
    let mut read = Vec::new();
    part.file.take(part.end - part.start).read_to_end(&mut read).await.unwrap();
    assert_eq!(read, bytes[10..30]);
    let behind = machine.store.read(&digest, bytes.len() as u64, None).await;
    assert!(matches!(behind, Err(StoreError::Range { .. })));
}

#[tokio::test]
async fn closing_ends_a_transfer_and_keeps_what_came() {
    let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
    let machine = Machine::of(&hub.url, |settings| settings.stall = BOUND).await;
    hub.fault(&[Fault::StallsAfter(1000)]);
    let download = machine.store.download(Order::of(model("o/n"))).await.unwrap();
    let mut records = machine.store.follow(&download.id).unwrap();
    within("bytes come", records.wait_for(|record| record.bytes == 1000)).await.unwrap();
    within("the store closes", machine.store.close()).await;
    assert_eq!(failure(&machine.end_of(&download).await).0, "draining");
    let part = machine.dir.path().join(format!("hub/o/n/{COMMIT}/a.gguf.part"));
    assert_eq!(std::fs::metadata(part).unwrap().len(), 1000);
}

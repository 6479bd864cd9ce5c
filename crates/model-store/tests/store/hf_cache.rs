//! Models that lie in a Hugging Face cache of the machine.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use fleet::{DownloadState, ModelFile, Pinned};
use model_store::{ModelStore, Order, StoreError, StoreSettings};

use crate::{
    hub::{COMMIT, Hub, sha256},
    transfers::{Machine, gguf, model, until, within},
};

/// Another revision of the same repository.
const OLDER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A hub where nobody answers.
const NO_HUB: &str = "http://127.0.0.1:1";

/// What the tools of Hugging Face leave behind.
struct Cache {
    dir: tempfile::TempDir,
}

impl Cache {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    fn repository(&self) -> PathBuf {
        self.root().join("models--o--n")
    }

    /// Where a revision's file would be, with the directory above it.
    fn place(&self, commit: &str, name: &str) -> PathBuf {
        let path = self.repository().join("snapshots").join(commit).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn blob(&self, digest: fleet::Digest) -> PathBuf {
        let blobs = self.repository().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        blobs.join(digest.to_string())
    }

    /// A file as `hf download` puts it there.
    fn with(self, commit: &str, name: &str, bytes: &[u8]) -> Self {
        let blob = self.blob(sha256(bytes));
        fs::write(&blob, bytes).unwrap();
        symlink(&blob, self.place(commit, name)).unwrap();
        self
    }

    fn refers(self, text: &[u8]) -> Self {
        let refs = self.repository().join("refs");
        fs::create_dir_all(&refs).unwrap();
        fs::write(refs.join("main"), text).unwrap();
        self
    }

    async fn machine(&self, hub_url: &str) -> Machine {
        Machine::of(hub_url, |settings| settings.hf_cache = Some(self.root())).await
    }

    /// Everything that lies in it.
    fn listing(&self) -> Vec<(PathBuf, u64)> {
        let mut all = Vec::new();
        let mut below = vec![self.root()];
        while let Some(dir) = below.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    below.push(entry.path());
                }
                all.push((entry.path(), entry.metadata().unwrap().len()));
            }
        }
        all.sort();
        all
    }
}

fn hub_files(machine: &Machine) -> PathBuf {
    machine.dir.path().join("hub")
}

/// Has the store keep up with the cache until something is so.
async fn keeping_up(store: &ModelStore, what: &str, holds: impl FnMut() -> bool) {
    tokio::select! {
        () = store.keep_up() => {}
        () = until(what, holds) => {}
    }
}

#[tokio::test]
async fn a_model_that_is_there_is_used_where_it_lies_and_never_removed() {
    let bytes = gguf(1);
    let cache = Cache::new().with(COMMIT, "a-Q4_K_M.gguf", &bytes);
    let before = cache.listing();
    let hub = Hub::start(vec![("a-Q4_K_M.gguf", bytes.clone())]).await;
    let machine = Machine::of(&hub.url, |settings| {
        settings.hf_cache = Some(cache.root());
        // No disk has so much: nothing could be transferred.
        settings.headroom = u64::MAX;
    })
    .await;
    let header = machine.store.inspect(&model("o/n")).await.unwrap();
    assert_eq!(header.info.context_length, Some(512));
    assert_eq!(
        (header.files[0].path.as_str(), header.files[0].digest),
        ("a-Q4_K_M.gguf", Some(sha256(&bytes)))
    );
    let download = machine.bring("o/n").await;
    assert_eq!((download.state, download.bytes), (DownloadState::Complete, bytes.len() as u64));
    let located = machine.store.locate(&model("o/n")).await.unwrap();
    assert_eq!(located.path, cache.place(COMMIT, "a-Q4_K_M.gguf"));
    assert_eq!((located.model.digest, located.projector), (Some(sha256(&bytes)), None));
    let again = machine.store.inspect(&model("o/n")).await.unwrap();
    assert_eq!(again.files, header.files, "it is described as its source has it");
    machine.store.grant(&sha256(&bytes)).unwrap();
    assert_eq!(machine.store.read(&sha256(&bytes), 0, None).await.unwrap().total, bytes.len() as u64);
    let error = machine.store.delete(&model("o/n"), |_| false).await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, StoreError::NotOurs { .. }), "{told}");
    assert!(told.contains("hf cache rm model/o/n"), "{told}");
    assert!(told.contains(&cache.repository().display().to_string()), "{told}");
    machine.store.locate(&model("o/n")).await.unwrap();
    assert_eq!(hub.starts(), Vec::<u64>::new(), "nothing was transferred");
    assert!(!hub_files(&machine).exists(), "nothing was copied");
    assert_eq!(cache.listing(), before);
}

#[tokio::test]
async fn models_are_listed_unasked_as_they_come_and_let_go_of_as_they_leave() {
    let cache = Cache::new().with(COMMIT, "a.gguf", &gguf(1)).with(COMMIT, "mmproj-a-f16.gguf", &gguf(2));
    let hub = Hub::start(vec![("a.gguf", gguf(1)), ("mmproj-a-f16.gguf", gguf(2))]).await;
    let machine = cache.machine(&hub.url).await;
    assert_eq!(machine.store.models(), []);
    keeping_up(&machine.store, "it is listed", || !machine.store.models().is_empty()).await;
    let [listed] = machine.store.models().try_into().unwrap();
    assert_eq!(listed.resolved.as_str(), format!("hf:o/n@{COMMIT}:a.gguf"));
    assert_eq!(
        (listed.digest, listed.bytes),
        (Some(sha256(&gguf(1))), (gguf(1).len() + gguf(2).len()) as u64)
    );
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
    let located = machine.store.locate(&model("o/n")).await.unwrap();
    assert_eq!(located.projector, Some(cache.place(COMMIT, "mmproj-a-f16.gguf")));
    assert_eq!(hub.starts(), Vec::<u64>::new());
    fs::remove_dir_all(cache.repository()).unwrap();
    assert!(machine.store.grant(&sha256(&gguf(1))).is_err(), "what is gone is not lent");
    keeping_up(&machine.store, "it is let go of", || machine.store.models().is_empty()).await;
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
    assert!(machine.store.locate(&model("o/n")).await.unwrap().path.starts_with(machine.dir.path()));
    assert_eq!(hub.starts().len(), 2, "it came from the hub");
}

#[tokio::test]
async fn what_is_gone_or_another_when_it_is_used_is_fetched() {
    for replaced in [false, true] {
        let cache = Cache::new().with(COMMIT, "a.gguf", &gguf(1));
        let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
        let machine = cache.machine(&hub.url).await;
        machine.bring("o/n").await;
        let blob = cache.blob(sha256(&gguf(1)));
        fs::remove_file(&blob).unwrap();
        if replaced {
            fs::write(&blob, gguf(7)).unwrap();
        }
        let error = machine.store.locate(&model("o/n")).await.unwrap_err();
        assert!(matches!(error, StoreError::NotStored { .. }), "{error}");
        assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
        let located = machine.store.locate(&model("o/n")).await.unwrap();
        assert_eq!(fs::read(located.path).unwrap(), gguf(1));
        assert_eq!(hub.starts(), [0]);
    }
}

#[tokio::test]
async fn a_file_is_read_for_its_digest_once_also_by_the_next_process() {
    let cache = Cache::new().with(COMMIT, "a.gguf", &gguf(1));
    let dir = tempfile::tempdir().unwrap();
    let open = async |hf_cache: Option<PathBuf>| {
        let settings =
            StoreSettings { hf_cache, hub_url: NO_HUB.to_owned(), ..StoreSettings::new(dir.path()) };
        ModelStore::open(settings, |_| {}).await.unwrap()
    };
    let store = open(Some(cache.root())).await;
    keeping_up(&store, "it is listed", || !store.models().is_empty()).await;
    store.close().await;
    // Whoever read it again would see that these are other bytes.
    let blob = fs::File::options().write(true).open(cache.blob(sha256(&gguf(1)))).unwrap();
    let modified = blob.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&blob, &gguf(7), 0).unwrap();
    blob.set_modified(modified).unwrap();
    let cache = cache.with(OLDER, "b.gguf", &gguf(2));
    let store = open(Some(cache.root())).await;
    assert_eq!(store.models().len(), 1, "it is listed before anything is read");
    keeping_up(&store, "both are listed", || store.models().len() == 2).await;
    assert!(store.models().iter().any(|model| model.digest == Some(sha256(&gguf(1)))));
    store.close().await;
    assert_eq!(open(None).await.models(), [], "an owner who turns it off has none of it");
}

/// Makes the model's file in the cache something else than it should be.
type Harm = fn(&Cache, &Path);

#[tokio::test]
async fn what_is_not_the_file_that_it_should_be_is_not_used() {
    let harms: [(&str, Harm); 7] = [
        ("a link out of the cache", |cache, place| {
            let outside = cache.dir.path().join("outside.gguf");
            fs::write(&outside, gguf(1)).unwrap();
            symlink(outside, place).unwrap();
        }),
        ("another size", |cache, place| {
            let blob = cache.blob(sha256(&gguf(1)));
            fs::write(&blob, &gguf(1)[..1000]).unwrap();
            symlink(blob, place).unwrap();
        }),
        ("another digest", |cache, place| {
            let blob = cache.blob(sha256(&gguf(1)));
            fs::write(&blob, gguf(7)).unwrap();
            symlink(blob, place).unwrap();
        }),
        ("another blob of this size", |cache, place| {
            let blob = cache.blob(sha256(&gguf(7)));
            fs::write(&blob, gguf(7)).unwrap();
            symlink(blob, place).unwrap();
        }),
        ("a plain file with other bytes", |_, place| fs::write(place, gguf(7)).unwrap()),
        ("a directory", |_, place| fs::create_dir(place).unwrap()),
        ("a link to nothing", |cache, place| {
            let blob = cache.blob(sha256(&gguf(1)));
            fs::write(blob.with_extension("incomplete"), gguf(1)).unwrap();
            symlink(blob, place).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let cache = Cache::new();
        harm(&cache, &cache.place(COMMIT, "a.gguf"));
        let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
        let machine = cache.machine(&hub.url).await;
        assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete, "{what}");
        let located = machine.store.locate(&model("o/n")).await.unwrap();
        assert!(located.path.starts_with(hub_files(&machine)), "{what}");
        assert_eq!(fs::read(located.path).unwrap(), gguf(1), "{what}");
        assert_eq!(hub.starts(), [0], "{what}");
    }
}

#[tokio::test]
async fn another_revision_and_a_plain_file_serve_if_they_are_the_same() {
    let older = Cache::new().with(OLDER, "a.gguf", &gguf(1));
    let plain = Cache::new();
    fs::write(plain.place(COMMIT, "a.gguf"), gguf(1)).unwrap();
    for cache in [older, plain] {
        let hub = Hub::start(vec![("a.gguf", gguf(1))]).await;
        let machine = cache.machine(&hub.url).await;
        assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
        let located = machine.store.locate(&model("o/n")).await.unwrap();
        assert!(located.path.starts_with(cache.root()), "{}", located.path.display());
        assert_eq!(located.model.resolved.as_str(), format!("hf:o/n@{COMMIT}:a.gguf"));
        assert_eq!(hub.starts(), Vec::<u64>::new());
    }
}

#[tokio::test]
async fn shards_come_all_from_the_cache_or_not_at_all_and_a_projector_from_wherever_it_is() {
    let shards = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
    let at_hub = || vec![(shards[0], gguf(1)), (shards[1], gguf(2)), ("mmproj-a-f16.gguf", gguf(3))];
    let half = Cache::new().with(COMMIT, shards[0], &gguf(1));
    let hub = Hub::start(at_hub()).await;
    let machine = half.machine(&hub.url).await;
    machine.bring("o/n").await;
    assert_eq!(hub.starts().len(), 3);
    assert!(machine.store.locate(&model("o/n")).await.unwrap().path.starts_with(hub_files(&machine)));

    let whole = Cache::new().with(COMMIT, shards[0], &gguf(1)).with(COMMIT, shards[1], &gguf(2));
    let hub = Hub::start(at_hub()).await;
    let machine = whole.machine(&hub.url).await;
    // Without its projector it is listed, until the hub says that there is one.
    keeping_up(&machine.store, "it is listed", || !machine.store.models().is_empty()).await;
    assert_eq!(machine.store.inspect(&model("o/n")).await.unwrap().files.len(), 3);
    assert_eq!(machine.store.models(), []);
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
    assert_eq!(hub.starts(), [0], "only the projector came");
    let located = machine.store.locate(&model("o/n")).await.unwrap();
    assert!(located.path.starts_with(whole.root()));
    assert!(located.projector.unwrap().starts_with(hub_files(&machine)));
    assert_eq!(machine.store.models()[0].files.len(), 3);
}

#[tokio::test]
async fn without_a_hub_the_caches_own_reference_decides() {
    let of = |cache: Cache, text: &[u8]| cache.refers(text).with(OLDER, "a-Q8_0.gguf", &gguf(1));
    let cache = of(Cache::new(), format!("{OLDER}\n").as_bytes()).with(COMMIT, "a-Q4_K_M.gguf", &gguf(2));
    let machine = cache.machine(NO_HUB).await;
    let header = machine.store.inspect(&model("o/n")).await.unwrap();
    assert_eq!(header.resolved.as_str(), format!("hf:o/n@{OLDER}:a-Q8_0.gguf"));
    assert_eq!(machine.bring("o/n").await.state, DownloadState::Complete);
    let pinned = Pinned {
        resolved: header.resolved.clone(),
        files: vec![ModelFile {
            path: "a-Q8_0.gguf".into(),
            bytes: gguf(1).len() as u64,
            digest: sha256(&gguf(1)),
        }],
    };
    let order = Order { pinned: Some(pinned), ..Order::of(model("o/n")) };
    machine.store.download(order).await.unwrap();
    machine.bring(&format!("hf:o/n@{COMMIT}")).await;
    machine.store.locate(&model(&format!("hf:o/n@{COMMIT}"))).await.unwrap();

    let two = of(Cache::new(), OLDER.as_bytes()).with(OLDER, "a-Q5_0.gguf", &gguf(3));
    let error = two.machine(NO_HUB).await.store.inspect(&model("o/n")).await.unwrap_err();
    assert!(matches!(error, StoreError::Ambiguous { .. }), "{error}");
    for text in [vec![b'0'; 64 << 20], b"../../../../etc".to_vec(), Vec::new()] {
        let cache = of(Cache::new(), &text);
        let asked = cache.machine(NO_HUB).await.store.inspect(&model("o/n")).await;
        assert!(matches!(asked, Err(StoreError::Source { .. })), "{asked:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_the_digest_is_no_proof() {
    let cache = Cache::new().refers(COMMIT.as_bytes());
    let blob = cache.blob(sha256(&gguf(1)));
    fs::write(&blob, gguf(7)).unwrap();
    symlink(blob, cache.place(COMMIT, "a.gguf")).unwrap();
    let machine = cache.machine(NO_HUB).await;
    let download = within("it ends", machine.bring("o/n")).await;
    assert!(matches!(download.state, DownloadState::Failed { .. }), "{:?}", download.state);
    // Whoever opened this one would wait for ever.
    let pipe = cache.blob(sha256(&gguf(3)));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink(pipe, cache.place(OLDER, "a.gguf")).unwrap();
    let other = cache.with(OLDER, "b.gguf", &gguf(2));
    keeping_up(&machine.store, "the other one is listed", || !machine.store.models().is_empty()).await;
    let listed: Vec<_> = machine.store.models().into_iter().map(|model| model.resolved).collect();
    assert_eq!(listed.iter().map(|r| r.as_str()).collect::<Vec<_>>(), [format!("hf:o/n@{OLDER}:b.gguf")]);
    drop(other);
}

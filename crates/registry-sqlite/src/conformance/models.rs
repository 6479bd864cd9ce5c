//! The suite of [`ModelCatalog`].

use std::sync::Arc;

use fleet::{CatalogEntry, CatalogState, Digest, ModelCatalog, ModelFile, ModelRef, Pinned, Timestamp};

use super::samples::legal;

type Catalog = Arc<dyn ModelCatalog>;

/// Checks a model catalog. `fresh` makes an empty one.
///
/// # Panics
/// With the claim that does not hold.
pub async fn model_catalog<S: ModelCatalog + 'static>(fresh: impl Fn() -> Arc<S>) {
    an_entry_reads_back_the_same_in_every_state(fresh()).await;
    the_catalog_is_ordered_by_reference_and_hive(fresh()).await;
    an_entry_replaces_the_one_of_the_same_hive_and_reference(fresh()).await;
    a_model_is_removed_from_one_hive_or_from_all(fresh()).await;
    what_a_reference_stands_for_is_decided_once(fresh()).await;
}

fn entry(model: &str, hive: &str) -> CatalogEntry {
    CatalogEntry {
        hive_id: legal(hive),
        model_ref: legal(model),
        resolved: Some(legal("hf:a/b@0123456789:m.gguf")),
        state: CatalogState::Complete,
        bytes: Some(4 << 30),
        digest: Some(Digest::from_bytes([0xab; 32])),
        updated_at: Timestamp::from_millis(1_760_000_000_123),
    }
}

async fn put(catalog: &Catalog, entry: CatalogEntry) {
    catalog.put(entry).await.expect("written");
}

async fn an_entry_reads_back_the_same_in_every_state(catalog: Catalog) {
    let entries = [
        entry("a/b:Q4_K_M", "h1"),
        CatalogEntry {
            resolved: None,
            bytes: None,
            digest: None,
            state: CatalogState::Downloading,
            ..entry("a/b:Q4_K_M", "h2")
        },
        CatalogEntry {
            state: CatalogState::Failed { reason: "disk full\nsecond line".to_owned() },
            ..entry("a/b:Q4_K_M", "h3")
        },
    ];
    for entry in &entries {
        put(&catalog, entry.clone()).await;
    }
    assert_eq!(catalog.of_model(&legal("hf:a/b:Q4_K_M")).await.expect("entries"), entries);
    assert_eq!(catalog.of_model(&legal("hf:a/b")).await.expect("entries"), []);
}

async fn the_catalog_is_ordered_by_reference_and_hive(catalog: Catalog) {
    for (model, hive) in
        [("b/b", "h1"), ("a/b", "h2"), ("file:/m.gguf", "h9"), ("a/b", "h1"), ("a/b:x", "h0")]
    {
        put(&catalog, entry(model, hive)).await;
    }
    let listed = catalog.entries().await.expect("entries");
    let keys: Vec<_> = listed.iter().map(|e| format!("{} {}", e.model_ref, e.hive_id)).collect();
    assert_eq!(keys, ["file:/m.gguf h9", "hf:a/b h1", "hf:a/b h2", "hf:a/b:x h0", "hf:b/b h1"]);
}

async fn an_entry_replaces_the_one_of_the_same_hive_and_reference(catalog: Catalog) {
    let failed = CatalogState::Failed { reason: "gone".to_owned() };
    put(&catalog, CatalogEntry { state: failed, ..entry("a/b", "h1") }).await;
    let newer =
        CatalogEntry { bytes: None, digest: None, state: CatalogState::Downloading, ..entry("a/b", "h1") };
    put(&catalog, newer.clone()).await;
    assert_eq!(catalog.entries().await.expect("entries"), [newer]);
}

async fn a_model_is_removed_from_one_hive_or_from_all(catalog: Catalog) {
    for (model, hive) in [("a/b", "h1"), ("a/b", "h2"), ("a/b", "h3"), ("c/d", "h1")] {
        put(&catalog, entry(model, hive)).await;
    }
    let model = legal("a/b");
    assert_eq!(catalog.remove(&model, Some(&legal("h2"))).await.expect("removed"), 1);
    assert_eq!(catalog.remove(&model, Some(&legal("h2"))).await.expect("answered"), 0);
    assert_eq!(catalog.remove(&model, None).await.expect("removed"), 2);
    assert_eq!(catalog.entries().await.expect("entries"), [entry("c/d", "h1")]);
}

fn pinned(commit: &str) -> Pinned {
    let file = |path: &str, byte| ModelFile {
        path: path.to_owned(),
        bytes: 3 << 30,
        digest: Digest::from_bytes([byte; 32]),
    };
    Pinned {
        resolved: legal(&format!("hf:a/b@{commit}:m-00001-of-00002.gguf")),
        files: vec![file("m-00001-of-00002.gguf", 1), file("m-00002-of-00002.gguf", 2)],
    }
}

async fn what_a_reference_stands_for_is_decided_once(catalog: Catalog) {
    let (model, other): (ModelRef, ModelRef) = (legal("a/b"), legal("a/b:x"));
    assert_eq!(catalog.pinned(&model).await.expect("read"), None);
    let (first, second) = (pinned("0123456789"), pinned("9876543210"));
    assert_eq!(catalog.pin(&model, first.clone()).await.expect("pinned"), first);
    assert_eq!(catalog.pin(&model, second.clone()).await.expect("answered"), first);
    assert_eq!(catalog.pin(&other, second.clone()).await.expect("pinned"), second);
    assert_eq!(catalog.pinned(&model).await.expect("read"), Some(first));
    catalog.unpin(&model).await.expect("unpinned");
    catalog.unpin(&model).await.expect("already so");
    assert_eq!(catalog.pinned(&model).await.expect("read"), None);
    assert_eq!(catalog.pin(&model, second.clone()).await.expect("pinned"), second);
    assert_eq!(catalog.pinned(&other).await.expect("read"), Some(second));
}

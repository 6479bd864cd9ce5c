//! Models that lie on this machine.

use std::path::Path;

use model_store::{ModelStore, StoreError, StoreSettings};

use crate::transfers::{gguf, model, until};

async fn open(dir: &Path, file_dirs: &[&Path]) -> ModelStore {
    let mut settings = StoreSettings::new(dir);
    settings.file_dirs = file_dirs.iter().map(|dir| dir.to_path_buf()).collect();
    ModelStore::open(settings, |_| {}).await.unwrap()
}

#[tokio::test]
async fn a_file_is_found_with_its_header_and_soon_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.gguf");
    std::fs::write(&path, gguf(3)).unwrap();
    let store = open(&dir.path().join("store"), &[dir.path()]).await;
    let wanted = model(&format!("file:{}", path.display()));
    let header = store.header(&wanted).await.unwrap();
    assert_eq!((header.info.architecture.as_str(), header.bytes), ("llama", gguf(3).len() as u64));
    until("the digest is known", || store.models()[0].digest.is_some()).await;
    assert_eq!(store.models()[0].digest, Some(crate::hub::sha256(&gguf(3))));
    store.delete(&wanted, |_| false).await.unwrap();
    assert!(path.exists() && store.models().is_empty(), "a file of somebody else's is only forgotten");
}

#[tokio::test]
async fn what_lies_outside_is_refused_also_behind_a_link() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = outside.path().join("x.gguf");
    std::fs::write(&path, gguf(1)).unwrap();
    let link = inside.path().join("link.gguf");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let store = open(&inside.path().join("store"), &[inside.path()]).await;
    for path in [path, link] {
        let error = store.locate(&model(&format!("file:{}", path.display()))).await.unwrap_err();
        assert!(matches!(error, StoreError::NotAllowed { .. }), "{error}");
        assert!(error.to_string().contains("file_dirs"), "the error names the setting: {error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_model_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, "no model").unwrap();
    let store = open(&dir.path().join("store"), &[dir.path()]).await;
    let wanted = model(&format!("file:{}", path.display()));
    assert!(matches!(store.locate(&wanted).await, Err(StoreError::Invalid { .. })));
    std::fs::remove_file(path).unwrap();
    assert!(matches!(store.locate(&wanted).await, Err(StoreError::NoFile { .. })));
}

#[tokio::test]
async fn models_put_into_the_directory_are_listed_and_lost_ones_dropped() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.gguf"), gguf(1)).unwrap();
    std::fs::write(dir.path().join("broken.gguf"), "no model").unwrap();
    let store = open(dir.path(), &[]).await;
    let wanted = model(&store.models()[0].resolved.to_string());
    assert_eq!(store.models().len(), 1);
    store.locate(&wanted).await.unwrap();
    let id = store.id().clone();
    store.close().await;
    std::fs::remove_file(dir.path().join("a.gguf")).unwrap();
    let store = open(dir.path(), &[]).await;
    assert_eq!(store.models(), []);
    assert_eq!(*store.id(), id, "the directory keeps its identity");
}

#[tokio::test]
async fn a_model_in_use_stays() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.gguf"), gguf(1)).unwrap();
    let store = open(dir.path(), &[]).await;
    let wanted = model(&store.models()[0].resolved.to_string());
    assert!(matches!(store.delete(&wanted, |_| true).await, Err(StoreError::InUse { .. })));
    assert_eq!(store.models().len(), 1);
}

//! The suite of [`KeyStore`].

use std::sync::Arc;

use fleet::{ApiKey, Digest, KeyStore, Scope, Timestamp};

use super::samples::legal;

type Store = Arc<dyn KeyStore>;

/// Checks a key store. `fresh` makes an empty one.
///
/// # Panics
/// With the claim that does not hold.
pub async fn key_store<S: KeyStore + 'static>(fresh: impl Fn() -> Arc<S>) {
    a_key_is_found_by_its_hash(fresh()).await;
    keys_are_listed_oldest_first(fresh()).await;
    a_key_is_revoked_once_and_stays_listed(fresh()).await;
    no_id_and_no_hash_is_there_twice(fresh()).await;
}

fn key(id: &str, byte: u8, created_at: i64) -> ApiKey {
    ApiKey {
        id: legal(id),
        name: "laptop of Ω".to_owned(),
        sha256: Digest::from_bytes([byte; 32]),
        scope: Scope::Infer,
        requests_per_minute: Some(60),
        created_at: Timestamp::from_millis(created_at),
        revoked_at: None,
    }
}

async fn a_key_is_found_by_its_hash(store: Store) {
    let admin = ApiKey { scope: Scope::Admin, requests_per_minute: None, ..key("k2", 2, 2) };
    store.add(key("k1", 1, 1)).await.expect("added");
    store.add(admin.clone()).await.expect("added");
    assert_eq!(store.find(&admin.sha256).await.expect("readable"), Some(admin));
    assert_eq!(store.find(&Digest::from_bytes([3; 32])).await.expect("readable"), None);
}

async fn keys_are_listed_oldest_first(store: Store) {
    for key in [key("z", 1, 5), key("b", 2, 9), key("a", 3, 9), key("c", 4, -3)] {
        store.add(key).await.expect("added");
    }
    let listed = store.list().await.expect("keys");
    assert_eq!(listed.iter().map(|k| k.id.as_str()).collect::<Vec<_>>(), ["c", "z", "b", "a"]);
}

async fn a_key_is_revoked_once_and_stays_listed(store: Store) {
    store.add(key("k1", 1, 1)).await.expect("added");
    let at = Timestamp::from_millis(7);
    assert!(store.revoke(&legal("k1"), at).await.expect("revoked"));
    assert!(!store.revoke(&legal("k1"), Timestamp::from_millis(8)).await.expect("answered"));
    assert!(!store.revoke(&legal("k2"), at).await.expect("answered"));
    let revoked = ApiKey { revoked_at: Some(at), ..key("k1", 1, 1) };
    assert_eq!(store.list().await.expect("keys"), std::slice::from_ref(&revoked));
    assert_eq!(store.find(&revoked.sha256).await.expect("readable"), Some(revoked));
}

async fn no_id_and_no_hash_is_there_twice(store: Store) {
    store.add(key("k1", 1, 1)).await.expect("added");
    store.add(key("k1", 2, 1)).await.expect_err("the id is taken");
    store.add(key("k2", 1, 1)).await.expect_err("the hash is taken");
    assert_eq!(store.list().await.expect("keys"), [key("k1", 1, 1)]);
}

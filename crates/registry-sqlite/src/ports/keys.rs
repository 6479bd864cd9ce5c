//! The table `api_keys`.

use async_trait::async_trait;
use fleet::{ApiKey, ApiKeyId, Digest, KeyStore, StoreError, Timestamp};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use crate::{cells::Cells, error::unstorable, store::SqliteStore, words::Word};

/// The column `limits`. A limit that this version does not know makes the row unreadable, rather than the key unlimited.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests_per_minute: Option<u32>,
}

#[async_trait]
impl KeyStore for SqliteStore {
    async fn add(&self, key: ApiKey) -> Result<(), StoreError> {
        const ACTION: &str = "add a key";
        let limits = serde_json::to_string(&Limits { requests_per_minute: key.requests_per_minute })
            .map_err(|error| unstorable(ACTION, error.to_string()))?;
        self.write(ACTION, move |tx| {
            tx.prepare_cached(
                "INSERT INTO api_keys (id, name, sha256, scope, limits, created_at, revoked_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                key.id.as_str(),
                key.name,
                key.sha256.to_string(),
                key.scope.word(),
                limits,
                key.created_at.as_millis(),
                key.revoked_at.map(Timestamp::as_millis),
            ])?;
            Ok(())
        })
        .await
    }

    // An unreadable key fails the whole listing: leaving it out could make a queen that has keys look like one that has
    // none, which lets everybody in.
    async fn list(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.read("list the keys", |db| {
            let mut statement = db.prepare_cached("SELECT * FROM api_keys ORDER BY created_at, seq")?;
            let mut rows = statement.query([])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                keys.push(key(row)?);
            }
            Ok(keys)
        })
        .await
    }

    async fn find(&self, sha256: &Digest) -> Result<Option<ApiKey>, StoreError> {
        let sha256 = sha256.to_string();
        self.read("look a key up", move |db| {
            let mut statement = db.prepare_cached("SELECT * FROM api_keys WHERE sha256 = ?1")?;
            let mut rows = statement.query([sha256])?;
            Ok(rows.next()?.map(key).transpose()?)
        })
        .await
    }

    async fn revoke(&self, id: &ApiKeyId, at: Timestamp) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write("revoke a key", move |tx| {
            let revoked = tx
                .prepare_cached("UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL")?
                .execute(params![id.as_str(), at.as_millis()])?;
            Ok(revoked > 0)
        })
        .await
    }
}

fn key(row: &Row<'_>) -> Result<ApiKey, StoreError> {
    let cells = Cells::new("api_keys", &["id"], row);
    let limits: Limits = cells.json("limits")?.unwrap_or_default();
    Ok(ApiKey {
        id: cells.parse("id")?,
        name: cells.get("name")?,
        sha256: cells.parse("sha256")?,
        scope: cells.word("scope")?,
        requests_per_minute: limits.requests_per_minute,
        created_at: Timestamp::from_millis(cells.get("created_at")?),
        revoked_at: cells.get::<Option<i64>>("revoked_at")?.map(Timestamp::from_millis),
    })
}

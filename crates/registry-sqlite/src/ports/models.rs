//! The tables `models` and `pins`: the central catalog.

use async_trait::async_trait;
use fleet::{CatalogEntry, CatalogState, HiveId, ModelCatalog, ModelRef, Pinned, StoreError, Timestamp};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use crate::{
    cells::{Cells, size, unsigned},
    error::{Failure, unstorable},
    store::SqliteStore,
};

#[async_trait]
impl ModelCatalog for SqliteStore {
    async fn put(&self, entry: CatalogEntry) -> Result<(), StoreError> {
        self.write("write a catalog entry", move |tx| {
            let (state, reason) = match &entry.state {
                CatalogState::Downloading => ("downloading", None),
                CatalogState::Complete => ("complete", None),
                CatalogState::Failed { reason } => ("failed", Some(reason)),
            };
            tx.prepare_cached(
                "INSERT OR REPLACE INTO models \
                 (hive_id, model_ref, resolved, state, reason, bytes, digest, updated_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                entry.hive_id.as_str(),
                entry.model_ref.to_string(),
                entry.resolved.as_ref().map(|r| r.as_str()),
                state,
                reason,
                entry.bytes.map(size),
                entry.digest.map(|d| d.to_string()),
                entry.updated_at.as_millis(),
            ])?;
            Ok(())
        })
        .await
    }

    async fn entries(&self) -> Result<Vec<CatalogEntry>, StoreError> {
        self.read("read the catalog", |db| select(db, "SELECT * FROM models ORDER BY model_ref, hive_id", []))
            .await
    }

    async fn of_model(&self, model: &ModelRef) -> Result<Vec<CatalogEntry>, StoreError> {
        let model = model.to_string();
        self.read("look a model up in the catalog", move |db| {
            select(db, "SELECT * FROM models WHERE model_ref = ?1 ORDER BY hive_id", [model])
        })
        .await
    }

    async fn remove<'a>(&self, model: &ModelRef, hive: Option<&'a HiveId>) -> Result<u32, StoreError> {
        let model = model.to_string();
        let hive = hive.cloned();
        self.write("remove a model from the catalog", move |tx| {
            let removed = tx
                .prepare_cached("DELETE FROM models WHERE model_ref = ?1 AND (?2 IS NULL OR hive_id = ?2)")?
                .execute(params![model, hive.as_ref().map(HiveId::as_str)])?;
            Ok(u32::try_from(removed).unwrap_or(u32::MAX))
        })
        .await
    }

    async fn pinned(&self, model: &ModelRef) -> Result<Option<Pinned>, StoreError> {
        let model = model.to_string();
        self.read("look up what a model is pinned to", move |db| select_pin(db, &model)).await
    }

    async fn pin(&self, model: &ModelRef, pinned: Pinned) -> Result<Pinned, StoreError> {
        const ACTION: &str = "pin a model";
        let model = model.to_string();
        let files = serde_json::to_string(&pinned.files).map_err(|e| unstorable(ACTION, e.to_string()))?;
        self.write(ACTION, move |tx| {
            if let Some(before) = select_pin(tx, &model)? {
                return Ok(before);
            }
            tx.prepare_cached(
                "INSERT OR REPLACE INTO pins (model_ref, resolved, files) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![model, pinned.resolved.as_str(), files])?;
            Ok(pinned)
        })
        .await
    }

    async fn unpin(&self, model: &ModelRef) -> Result<(), StoreError> {
        let model = model.to_string();
        self.write("unpin a model", move |tx| {
            tx.prepare_cached("DELETE FROM pins WHERE model_ref = ?1")?.execute([model])?;
            Ok(())
        })
        .await
    }
}

/// Reads one pin. One that cannot be read counts as none: the model is resolved anew.
fn select_pin(db: &Connection, model: &str) -> Result<Option<Pinned>, Failure> {
    let mut statement = db.prepare_cached("SELECT * FROM pins WHERE model_ref = ?1")?;
    let found = statement.query_row([model], |row| Ok(pin(row))).optional()?;
    Ok(found.and_then(|pin| {
        pin.inspect_err(|error| tracing::warn!(%error, "what a model is pinned to is left out")).ok()
    }))
}

fn pin(row: &Row<'_>) -> Result<Pinned, StoreError> {
    let cells = Cells::new("pins", &["model_ref"], row);
    let files = cells.json("files")?.unwrap_or_default();
    Ok(Pinned { resolved: cells.parse("resolved")?, files })
}

/// Reads entries. One that cannot be read is left out with a warning: the hive that has the model says so again, while a
/// catalog that fails as a whole stops every model.
fn select(db: &Connection, sql: &str, parameters: impl Params) -> Result<Vec<CatalogEntry>, Failure> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        match entry(row) {
            Ok(entry) => entries.push(entry),
            Err(error) => tracing::warn!(%error, "catalog entry left out"),
        }
    }
    Ok(entries)
}

fn entry(row: &Row<'_>) -> Result<CatalogEntry, StoreError> {
    let cells = Cells::new("models", &["model_ref", "hive_id"], row);
    let state = match cells.get::<String>("state")?.as_str() {
        "downloading" => CatalogState::Downloading,
        "complete" => CatalogState::Complete,
        "failed" => {
            CatalogState::Failed { reason: cells.get::<Option<String>>("reason")?.unwrap_or_default() }
        }
        other => return Err(cells.broken(format_args!("state: unknown word {other:?}"))),
    };
    Ok(CatalogEntry {
        hive_id: cells.parse("hive_id")?,
        model_ref: cells.parse("model_ref")?,
        resolved: cells.parse_optional("resolved")?,
        state,
        bytes: cells.get::<Option<i64>>("bytes")?.map(unsigned),
        digest: cells.parse_optional("digest")?,
        updated_at: Timestamp::from_millis(cells.get("updated_at")?),
    })
}

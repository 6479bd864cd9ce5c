//! The table `observations`: measurements that outlive their workers.

use async_trait::async_trait;
use fleet::{Observation, ObservationStore, Resolved, StoreError};
use rusqlite::{Row, params};

use crate::{
    cells::{Cells, size, unsigned},
    rules,
    store::SqliteStore,
};

#[async_trait]
impl ObservationStore for SqliteStore {
    async fn record(&self, observation: Observation) -> Result<(), StoreError> {
        const ACTION: &str = "write a measurement";
        let seen = rules::finite(ACTION, observation)?;
        self.write(ACTION, move |tx| {
            tx.prepare_cached(
                "INSERT INTO observations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                 ON CONFLICT DO UPDATE SET peak_memory = max(peak_memory, excluded.peak_memory), \
                 load_s = excluded.load_s, \
                 prefill_tok_s = coalesce(excluded.prefill_tok_s, prefill_tok_s), \
                 decode_tok_s = coalesce(excluded.decode_tok_s, decode_tok_s)",
            )?
            .execute(params![
                seen.resolved.as_str(),
                seen.hive_id.as_str(),
                seen.engine,
                seen.device.to_string(),
                seen.context,
                seen.slots,
                size(seen.peak_memory),
                seen.load_s,
                seen.prefill_tok_s,
                seen.decode_tok_s,
            ])?;
            Ok(())
        })
        .await
    }

    async fn of_model(&self, resolved: &Resolved) -> Result<Vec<Observation>, StoreError> {
        let resolved = resolved.clone();
        self.read("read the measurements of a model", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT * FROM observations WHERE resolved = ?1 \
                 ORDER BY hive_id, engine, device, context, slots",
            )?;
            let mut rows = statement.query([resolved.as_str()])?;
            let mut observations = Vec::new();
            while let Some(row) = rows.next()? {
                match observation(row) {
                    Ok(observation) => observations.push(observation),
                    Err(error) => tracing::warn!(%error, "measurement left out"),
                }
            }
            Ok(observations)
        })
        .await
    }
}

fn observation(row: &Row<'_>) -> Result<Observation, StoreError> {
    let cells = Cells::new("observations", &["resolved", "hive_id", "engine", "device"], row);
    Ok(Observation {
        resolved: cells.parse("resolved")?,
        hive_id: cells.parse("hive_id")?,
        engine: cells.get("engine")?,
        device: cells.parse("device")?,
        context: cells.get("context")?,
        slots: cells.get("slots")?,
        peak_memory: unsigned(cells.get("peak_memory")?),
        load_s: cells.get("load_s")?,
        prefill_tok_s: cells.get("prefill_tok_s")?,
        decode_tok_s: cells.get("decode_tok_s")?,
    })
}

//! The five ports without a file: for tests of what uses them, and for tools that keep nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use fleet::{
    ApiKey, ApiKeyId, CatalogEntry, Desired, DesiredBy, Digest, HiveId, HiveRecord, HiveRegistry, HiveSource,
    HiveSpec, HiveStatus, KeyStore, LaunchFacts, LaunchId, LaunchJournal, LaunchRecord, LaunchStep,
    ModelCatalog, ModelRef, Observation, ObservationStore, ObservedHive, Pinned, Registration, Resolved,
    StoreError, Timestamp,
};

use crate::{
    error::unstorable,
    rules::{self, ENDED_LAUNCHES_KEPT, Wanted},
};

/// All five ports in memory. They pass the same conformance suites as [`SqliteStore`](crate::SqliteStore).
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    hives: BTreeMap<HiveId, HiveRecord>,
    leaving: BTreeMap<HiveId, HiveRecord>,
    /// Oldest first.
    launches: Vec<LaunchRecord>,
    /// By reference and hive, as text, which is how the database orders them.
    models: BTreeMap<(String, HiveId), CatalogEntry>,
    pins: BTreeMap<ModelRef, Pinned>,
    observations: Vec<Observation>,
    /// In the order in which they were added.
    keys: Vec<ApiKey>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wanted(record: &HiveRecord) -> Wanted {
    Wanted { spec: record.spec.clone(), desired: record.desired, desired_by: record.desired_by }
}

fn unseen(row: Wanted) -> HiveRecord {
    HiveRecord {
        spec: row.spec,
        desired: row.desired,
        desired_by: row.desired_by,
        capabilities: None,
        last_seen: None,
        status: HiveStatus::Offline,
    }
}

fn put(State { hives, leaving, .. }: &mut State, row: Wanted) {
    leaving.remove(&row.spec.id);
    match hives.get_mut(&row.spec.id) {
        Some(record) => {
            record.desired = row.desired;
            record.desired_by = row.desired_by;
            record.spec = row.spec;
        }
        None => {
            hives.insert(row.spec.id.clone(), unseen(row));
        }
    }
}

#[async_trait]
impl HiveRegistry for MemoryStore {
    async fn register(&self, spec: HiveSpec) -> Result<Registration, StoreError> {
        let mut state = self.state();
        let (answer, row) = rules::register(state.hives.get(&spec.id).map(wanted).as_ref(), spec);
        row.into_iter().for_each(|row| put(&mut state, row));
        Ok(answer)
    }

    async fn sync_config(&self, specs: Vec<HiveSpec>) -> Result<Vec<HiveRecord>, StoreError> {
        let mut state = self.state();
        let gone = |record: &HiveRecord| {
            record.spec.source == HiveSource::Config && specs.iter().all(|spec| spec.id != record.spec.id)
        };
        let left: Vec<_> = state.hives.values().filter(|record| gone(record)).cloned().collect();
        state.hives.retain(|_, record| !gone(record));
        state.leaving.extend(left.iter().map(|record| (record.spec.id.clone(), record.clone())));
        for spec in specs {
            let existing = state.hives.get(&spec.id).map(wanted);
            let moved = existing.as_ref().is_some_and(|row| !rules::same_machine(&row.spec, &spec));
            let row = rules::configure(existing.as_ref(), spec);
            if moved {
                state.hives.remove(&row.spec.id);
            }
            put(&mut state, row);
        }
        Ok(left)
    }

    async fn get(&self, id: &HiveId) -> Result<Option<HiveRecord>, StoreError> {
        Ok(self.state().hives.get(id).cloned())
    }

    async fn list(&self) -> Result<Vec<Result<HiveRecord, StoreError>>, StoreError> {
        Ok(self.state().hives.values().cloned().map(Ok).collect())
    }

    async fn set_desired(
        &self,
        id: &HiveId,
        desired: Desired,
        by: DesiredBy,
    ) -> Result<(Desired, DesiredBy), StoreError> {
        let mut state = self.state();
        let record = hive(&mut state, id, "set what a hive should do")?;
        (record.desired, record.desired_by) =
            rules::decide((record.desired, record.desired_by), (desired, by));
        Ok((record.desired, record.desired_by))
    }

    async fn observe(&self, id: &HiveId, seen: ObservedHive) -> Result<(), StoreError> {
        let mut state = self.state();
        let record = hive(&mut state, id, "note what a hive reported")?;
        record.status = seen.status;
        record.last_seen = seen.last_seen.or(record.last_seen);
        if seen.capabilities.is_some() {
            record.capabilities = seen.capabilities;
        }
        Ok(())
    }

    async fn leave(&self, id: &HiveId) -> Result<bool, StoreError> {
        let mut state = self.state();
        let Some(record) = state.hives.remove(id) else { return Ok(false) };
        state.leaving.insert(id.clone(), record);
        Ok(true)
    }

    async fn leaving(&self) -> Result<Vec<Result<HiveRecord, StoreError>>, StoreError> {
        Ok(self.state().leaving.values().cloned().map(Ok).collect())
    }

    async fn remove(&self, id: &HiveId) -> Result<bool, StoreError> {
        let State { hives, leaving, .. } = &mut *self.state();
        Ok(hives.remove(id).or(leaving.remove(id)).is_some())
    }
}

fn hive<'a>(
    state: &'a mut State,
    id: &HiveId,
    action: &'static str,
) -> Result<&'a mut HiveRecord, StoreError> {
    let missing = || StoreError::NotFound { table: "hives", key: id.to_string(), action };
    state.hives.get_mut(id).ok_or_else(missing)
}

#[async_trait]
impl LaunchJournal for MemoryStore {
    async fn intend(&self, launch: LaunchId, hive: HiveId) -> Result<(), StoreError> {
        let launches = &mut self.state().launches;
        if let Some(existing) = launches.iter().find(|known| known.launch_id == launch) {
            let again = existing.hive_id == hive && existing.step == LaunchStep::Intended;
            let taken = format!("launch {launch} is another one already");
            return if again { Ok(()) } else { Err(unstorable("note an intended launch", taken)) };
        }
        let ended = |known: &LaunchRecord| known.hive_id == hive && known.step == LaunchStep::Ended;
        let mut surplus =
            launches.iter().filter(|known| ended(known)).count().saturating_sub(ENDED_LAUNCHES_KEPT);
        launches.retain(|known| {
            let old = surplus > 0 && ended(known);
            surplus -= usize::from(old);
            !old
        });
        launches.push(LaunchRecord {
            launch_id: launch,
            hive_id: hive,
            step: LaunchStep::Intended,
            facts: LaunchFacts::default(),
        });
        Ok(())
    }

    async fn advance(
        &self,
        launch: &LaunchId,
        step: LaunchStep,
        facts: LaunchFacts,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let missing = || StoreError::NotFound {
            table: "hive_launches",
            key: launch.to_string(),
            action: "note the progress of a launch",
        };
        let now = state.launches.iter_mut().find(|known| known.launch_id == *launch).ok_or_else(missing)?;
        if let Some(then) = rules::advance(now, step, facts) {
            *now = then;
        }
        Ok(())
    }

    async fn found(&self, launch: LaunchId, hive: HiveId, facts: LaunchFacts) -> Result<(), StoreError> {
        let launches = &mut self.state().launches;
        let at = launches.iter().position(|known| known.launch_id == launch);
        if at.is_some_and(|at| launches[at].hive_id != hive) {
            let taken = format!("launch {launch} is another one already");
            return Err(unstorable("note a launch that was found", taken));
        }
        let (step, none) = (LaunchStep::Intended, LaunchFacts::default());
        let unknown = LaunchRecord { launch_id: launch, hive_id: hive, step, facts: none };
        let now = at.map_or(unknown, |at| launches.remove(at));
        let then = rules::found(now, facts);
        launches.insert(at.unwrap_or(launches.len()), then);
        Ok(())
    }

    async fn open(&self, hive: &HiveId) -> Result<Vec<LaunchRecord>, StoreError> {
        let state = self.state();
        let open = |known: &&LaunchRecord| known.hive_id == *hive && known.step != LaunchStep::Ended;
        Ok(state.launches.iter().rev().filter(open).cloned().collect())
    }
}

#[async_trait]
impl ModelCatalog for MemoryStore {
    async fn put(&self, entry: CatalogEntry) -> Result<(), StoreError> {
        let key = (entry.model_ref.to_string(), entry.hive_id.clone());
        self.state().models.insert(key, entry);
        Ok(())
    }

    async fn entries(&self) -> Result<Vec<CatalogEntry>, StoreError> {
        Ok(self.state().models.values().cloned().collect())
    }

    async fn of_model(&self, model: &ModelRef) -> Result<Vec<CatalogEntry>, StoreError> {
        let state = self.state();
        Ok(state.models.values().filter(|entry| entry.model_ref == *model).cloned().collect())
    }

    async fn remove<'a>(&self, model: &ModelRef, hive: Option<&'a HiveId>) -> Result<u32, StoreError> {
        let models = &mut self.state().models;
        let before = models.len();
        models.retain(|_, entry| entry.model_ref != *model || hive.is_some_and(|h| entry.hive_id != *h));
        Ok(u32::try_from(before - models.len()).unwrap_or(u32::MAX))
    }

    async fn pinned(&self, model: &ModelRef) -> Result<Option<Pinned>, StoreError> {
        Ok(self.state().pins.get(model).cloned())
    }

    async fn pin(&self, model: &ModelRef, pinned: Pinned) -> Result<Pinned, StoreError> {
        Ok(self.state().pins.entry(model.clone()).or_insert(pinned).clone())
    }

    async fn unpin(&self, model: &ModelRef) -> Result<(), StoreError> {
        self.state().pins.remove(model);
        Ok(())
    }
}

#[async_trait]
impl ObservationStore for MemoryStore {
    async fn record(&self, observation: Observation) -> Result<(), StoreError> {
        let mut seen = rules::finite("write a measurement", observation)?;
        let observations = &mut self.state().observations;
        match observations.iter().position(|known| shape(known) == shape(&seen)) {
            None => observations.push(seen),
            Some(at) => {
                let known = &mut observations[at];
                seen.peak_memory = seen.peak_memory.max(known.peak_memory);
                seen.prefill_tok_s = seen.prefill_tok_s.or(known.prefill_tok_s);
                seen.decode_tok_s = seen.decode_tok_s.or(known.decode_tok_s);
                *known = seen;
            }
        }
        observations.sort_by_cached_key(shape);
        Ok(())
    }

    async fn of_model(&self, resolved: &Resolved) -> Result<Vec<Observation>, StoreError> {
        let state = self.state();
        Ok(state.observations.iter().filter(|known| known.resolved == *resolved).cloned().collect())
    }
}

fn shape(seen: &Observation) -> (Resolved, HiveId, String, String, u32, u32) {
    let Observation { resolved, hive_id, engine, device, context, slots, .. } = seen;
    (resolved.clone(), hive_id.clone(), engine.clone(), device.to_string(), *context, *slots)
}

#[async_trait]
impl KeyStore for MemoryStore {
    async fn add(&self, key: ApiKey) -> Result<(), StoreError> {
        let keys = &mut self.state().keys;
        if keys.iter().any(|known| known.id == key.id || known.sha256 == key.sha256) {
            return Err(unstorable("add a key", "there is a key of that id or hash"));
        }
        keys.push(key);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ApiKey>, StoreError> {
        let mut keys = self.state().keys.clone();
        keys.sort_by_key(|key| key.created_at);
        Ok(keys)
    }

    async fn find(&self, sha256: &Digest) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.state().keys.iter().find(|key| key.sha256 == *sha256).cloned())
    }

    async fn revoke(&self, id: &ApiKeyId, at: Timestamp) -> Result<bool, StoreError> {
        let mut state = self.state();
        let key = state.keys.iter_mut().find(|key| key.id == *id && key.revoked_at.is_none());
        Ok(key.is_some_and(|key| key.revoked_at.replace(at).is_none()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::MemoryStore;
    use crate::conformance;

    #[tokio::test]
    async fn the_memory_twins_conform() {
        conformance::hive_registry(|| Arc::new(MemoryStore::new())).await;
        conformance::launch_journal(|| Arc::new(MemoryStore::new())).await;
        conformance::model_catalog(|| Arc::new(MemoryStore::new())).await;
        conformance::observation_store(|| Arc::new(MemoryStore::new())).await;
        conformance::key_store(|| Arc::new(MemoryStore::new())).await;
    }
}

//! Taking models away from hives.

use std::{collections::BTreeMap, sync::Arc};

use fleet::{CatalogState, HiveId, ModelRef, StoreError, WorkerId};
use futures_util::future::join_all;
use hive_api::ErrorCode;
use registry_ram::WorkerView;

use crate::{ModelProvisioner, ProvisionError};

/// What removing a model did.
#[derive(Debug, Default)]
pub struct Removed {
    /// The hives that have it no more.
    pub from: Vec<HiveId>,
    /// Those that still have it, and why.
    pub failed: Vec<ProvisionError>,
}

impl ModelProvisioner {
    /// Removes a model from the store of one hive, or of all, and from the catalog. As long as a worker runs from it on one of
    /// them, nothing is removed; where the file cannot be removed, the entry stays. A model that nobody has any more may stand
    /// for something else when it is next asked for.
    ///
    /// # Errors
    /// When the catalog cannot be read or written.
    pub async fn remove(&self, model: &ModelRef, only: Option<&HiveId>) -> Result<Removed, StoreError> {
        let is_meant = |hive: &HiveId| only.is_none_or(|only| only == hive);
        let mut removed = Removed { failed: self.in_use(model, is_meant).await?, ..Removed::default() };
        if !removed.failed.is_empty() {
            return Ok(removed);
        }
        let mut hives = self.hives_with(model).await?;
        let noted = self.parts.catalog.of_model(model).await?;
        hives.extend(noted.into_iter().map(|entry| entry.hive_id));
        hives.sort();
        hives.dedup();
        hives.retain(is_meant);
        let asked = hives.iter().map(async |hive| (hive.clone(), self.remove_from(model, hive).await));
        for (hive_id, outcome) in join_all(asked).await {
            match outcome {
                Ok(()) => {
                    self.parts.catalog.remove(model, Some(&hive_id)).await?;
                    removed.from.push(hive_id);
                }
                Err(error) => removed.failed.push(error),
            }
        }
        self.unpin_if_nowhere(model).await;
        Ok(removed)
    }

    /// The hives where workers run from the model.
    async fn in_use(
        &self,
        model: &ModelRef,
        is_meant: impl Fn(&HiveId) -> bool,
    ) -> Result<Vec<ProvisionError>, StoreError> {
        let resolutions = self.resolutions(model).await?;
        let view = self.parts.registry.view();
        let uses = |worker: &&Arc<WorkerView>| {
            let record = &worker.record;
            let is_it = record.model_ref == *model || resolutions.contains(&record.resolved);
            is_it && !record.state.is_over() && is_meant(&worker.hive_id)
        };
        let mut by_hive: BTreeMap<HiveId, Vec<WorkerId>> = BTreeMap::new();
        for worker in view.workers().filter(uses) {
            by_hive.entry(worker.hive_id.clone()).or_default().push(worker.record.worker_id.clone());
        }
        let in_use = |(hive_id, workers)| ProvisionError::InUse { hive_id, model: model.clone(), workers };
        Ok(by_hive.into_iter().map(in_use).collect())
    }

    /// Has a hive drop a model whose files turned out to be damaged or gone, so that the next flight brings it anew.
    ///
    /// # Errors
    /// When the hive does not; then the catalog still says that it is there.
    pub async fn withdraw(&self, model: &ModelRef, hive_id: &HiveId) -> Result<(), ProvisionError> {
        self.remove_from(model, hive_id).await?;
        let resolved = self.resolutions(model).await.unwrap_or_default().into_iter().next();
        let state = CatalogState::Failed { reason: "its files were damaged or gone".to_owned() };
        self.note(model, hive_id, state, resolved, None).await;
        Ok(())
    }

    async fn remove_from(&self, model: &ModelRef, hive_id: &HiveId) -> Result<(), ProvisionError> {
        let resolutions = self.resolutions(model).await.unwrap_or_default();
        let (client, _) = self.client(model, hive_id)?;
        let view = self.parts.registry.view();
        let reported =
            resolutions.iter().filter(|r| view.hive(hive_id).is_some_and(|hive| hive.has_model(r)));
        // By what lies there, as the hive may know that by another name; by name what it has not reported yet.
        let mut names: Vec<_> = reported.map(ModelRef::from).collect();
        if names.is_empty() {
            names.push(model.clone());
        }
        for name in names {
            match client.delete_model(&name).await {
                Ok(()) => {}
                // What is not there need not be removed.
                Err(error) if error.refused().is_some_and(|d| d.code == ErrorCode::ModelNotFound) => {}
                Err(error) => {
                    let (hive_id, model) = (hive_id.clone(), model.clone());
                    return Err(match error.refused() {
                        Some(detail) => ProvisionError::Kept { hive_id, model, detail: detail.clone() },
                        None => ProvisionError::of(&error, &hive_id, &model),
                    });
                }
            }
        }
        for resolved in &resolutions {
            self.until_reported(hive_id, resolved, false).await;
        }
        Ok(())
    }
}

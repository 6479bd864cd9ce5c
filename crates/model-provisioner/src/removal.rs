//! Taking models away from hives.

use fleet::{CatalogState, HiveId, ModelRef, StoreError};
use futures_util::future::join_all;
use hive_api::ErrorCode;

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
    /// Removes a model from the store of one hive, or of all, and from the catalog. Where the file cannot be removed, the
    /// entry stays.
    ///
    /// # Errors
    /// When the catalog cannot be read or written.
    pub async fn remove(&self, model: &ModelRef, only: Option<&HiveId>) -> Result<Removed, StoreError> {
        let mut hives = self.hives_with(model).await?;
        // Who serves it has it, whether or not it was asked for here.
        let view = self.parts.registry.view();
        let serving = view.workers().filter(|w| w.record.model_ref == *model && !w.record.state.is_over());
        hives.extend(serving.map(|worker| worker.hive_id.clone()));
        let noted = self.parts.catalog.of_model(model).await?;
        hives.extend(noted.into_iter().map(|entry| entry.hive_id));
        hives.sort();
        hives.dedup();
        hives.retain(|hive| only.is_none_or(|only| only == hive));
        let asked = hives.iter().map(async |hive| (hive.clone(), self.remove_from(model, hive).await));
        let mut removed = Removed::default();
        for (hive_id, outcome) in join_all(asked).await {
            match outcome {
                Ok(()) => {
                    self.parts.catalog.remove(model, Some(&hive_id)).await?;
                    removed.from.push(hive_id);
                }
                Err(error) => removed.failed.push(error),
            }
        }
        Ok(removed)
    }

    /// Has a hive drop a model whose files turned out to be damaged, so that the next flight brings it anew.
    ///
    /// # Errors
    /// When the hive does not; then the catalog still says that it is there.
    pub async fn withdraw(&self, model: &ModelRef, hive_id: &HiveId) -> Result<(), ProvisionError> {
        self.remove_from(model, hive_id).await?;
        let resolved = self.resolutions(model).await.unwrap_or_default().into_iter().next();
        let state = CatalogState::Failed { reason: "its files were damaged".to_owned() };
        self.note(model, hive_id, state, resolved, None).await;
        Ok(())
    }

    async fn remove_from(&self, model: &ModelRef, hive_id: &HiveId) -> Result<(), ProvisionError> {
        let resolutions = self.resolutions(model).await.unwrap_or_default();
        let (client, _) = self.client(model, hive_id)?;
        match client.delete_model(model).await {
            Ok(()) => {}
            // What is not there need not be removed.
            Err(error) if error.refused().is_some_and(|d| d.code == ErrorCode::ModelNotFound) => {}
            Err(error) => return Err(ProvisionError::of(&error, hive_id, model)),
        }
        for resolved in &resolutions {
            self.until_reported(hive_id, resolved, false).await;
        }
        Ok(())
    }
}

//! What references stand for in this fleet, decided once: the first hive that is asked asks the hub, and all others get what it
//! said.

use fleet::{HiveId, ModelFile, ModelRef, Pinned, Resolved};
use hive_api::{
    Inspection,
    client::{ClientError, HiveClient},
};
use tokio::time::timeout;

use crate::ModelProvisioner;

impl ModelProvisioner {
    /// Has a hive read a model's header. What the reference stands for there, it stands for in the whole fleet from then on,
    /// unless that is decided already: then the header of that is read.
    ///
    /// # Errors
    /// What the hive answered.
    pub async fn inspect(&self, model: &ModelRef, client: &HiveClient) -> Result<Inspection, ClientError> {
        if let Some(pinned) = self.pinned(model).await {
            return client.inspect(&ModelRef::from(&pinned.resolved)).await;
        }
        let inspection = client.inspect(model).await?;
        match self.pin(model, inspection.pinned()).await {
            Some(pinned) if pinned.resolved != inspection.resolved => {
                client.inspect(&ModelRef::from(&pinned.resolved)).await
            }
            _ => Ok(inspection),
        }
    }

    pub(crate) async fn pinned(&self, model: &ModelRef) -> Option<Pinned> {
        let read = self.parts.catalog.pinned(model).await;
        read.unwrap_or_else(|error| {
            tracing::warn!(%model, %error, "what the model is pinned to cannot be read");
            None
        })
    }

    /// What holds from now on. A catalog that cannot be written decides nothing, and what was found is used this once.
    async fn pin(&self, model: &ModelRef, found: Option<Pinned>) -> Option<Pinned> {
        let found = found.filter(|_| matches!(model, ModelRef::Hub { .. }))?;
        match self.parts.catalog.pin(model, found.clone()).await {
            Ok(pinned) => {
                tracing::info!(%model, resolved = %pinned.resolved, "the model is pinned");
                Some(pinned)
            }
            Err(error) => {
                tracing::warn!(%model, %error, "the model could not be pinned");
                Some(found)
            }
        }
    }

    /// What the reference stands for: decided, or decided now by what the hive finds. None where that is not a matter of
    /// decision, or the hive cannot tell.
    pub(crate) async fn decide(&self, model: &ModelRef, hive_id: &HiveId) -> Option<Pinned> {
        if matches!(model, ModelRef::File(_)) {
            return None;
        }
        if let Some(pinned) = self.pinned(model).await {
            return Some(pinned);
        }
        // One that has it already decides, not the hub's newest.
        let has = self.hives_with(model).await.unwrap_or_default().into_iter().next();
        let (client, lost) = self.client(model, has.as_ref().unwrap_or(hive_id)).ok()?;
        let inspected = tokio::select! {
            inspected = timeout(self.parts.settings.accept, client.inspect(model)) => inspected.ok()?,
            () = lost.cancelled() => return None,
        };
        match inspected {
            Ok(inspection) => self.pin(model, inspection.pinned()).await,
            Err(error) => {
                tracing::debug!(%hive_id, %model, %error, "what the model stands for is left to the transfer");
                None
            }
        }
    }

    /// Decides by what a hive brought on its own.
    pub(crate) async fn decide_by(&self, model: &ModelRef, hive_id: &HiveId, resolved: &Resolved) {
        self.until_reported(hive_id, resolved, true).await;
        if self.decide(model, hive_id).await.is_some() {
            return;
        }
        let view = self.parts.registry.view();
        let stored = view.hive(hive_id).and_then(|hive| hive.models.get(resolved));
        // Of a single file the report says all that there is to know.
        let (Some(stored), ModelRef::Hub { file: Some(path), .. }) = (stored, ModelRef::from(resolved))
        else {
            return;
        };
        if let (Some(digest), [_]) = (stored.digest, stored.files.as_slice()) {
            let files = vec![ModelFile { path: path.to_string(), bytes: stored.bytes, digest }];
            self.pin(model, Some(Pinned { resolved: resolved.clone(), files })).await;
        }
    }

    /// Leaves open again what a model stands for that nobody has.
    pub(crate) async fn unpin_if_nowhere(&self, model: &ModelRef) {
        let is_noted = self.parts.catalog.of_model(model).await.map_or(true, |entries| {
            entries.iter().any(|entry| !matches!(entry.state, fleet::CatalogState::Failed { .. }))
        });
        if is_noted || self.hives_with(model).await.is_ok_and(|hives| !hives.is_empty()) {
            return;
        }
        if let Err(error) = self.parts.catalog.unpin(model).await {
            tracing::warn!(%model, %error, "a model stays pinned that nobody has");
        }
    }
}

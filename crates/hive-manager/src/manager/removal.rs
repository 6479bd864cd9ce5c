//! Removing hives: noted first, then ended, then forgotten, so that a queen that was killed on the way is succeeded by one that
//! goes on.

use std::sync::Arc;

use fleet::{Desired, DesiredBy, EventKind, HiveId, HivePhase, HiveRecord, HiveSource, StoreError};
use tokio_util::sync::CancellationToken;

use super::{Begin, HiveManager, Intent};
use crate::ManagerError;

/// The row of a hive that nobody wants any more.
fn stopped(row: HiveRecord) -> HiveRecord {
    HiveRecord { desired: Desired::Stopped, desired_by: DesiredBy::Person, ..row }
}

impl HiveManager {
    /// Stops a hive and forgets it.
    ///
    /// # Errors
    /// An unknown hive, one of the configuration file, or a registry that does not take it; then the hive stays as it is.
    pub async fn remove(self: &Arc<Self>, id: &HiveId) -> Result<(), ManagerError> {
        let (this, id) = (Arc::clone(self), id.clone());
        self.whole(id.clone(), async move { this.remove_whole(&id).await }).await
    }

    async fn remove_whole(&self, id: &HiveId) -> Result<(), ManagerError> {
        let store_error =
            |source| ManagerError::Store { hive_id: id.clone(), action: "could not be removed", source };
        let ended = {
            let _turn = self.context.changing.acquire().await;
            let leaves = self.tasks().by_hive.get(id).filter(|task| task.leaving).map(|t| t.ended.clone());
            match self.context.store.get(id).await.map_err(store_error)? {
                Some(row) if row.spec.source == HiveSource::Config => {
                    return Err(ManagerError::Configured { hive_id: id.clone() });
                }
                Some(_) => {
                    self.context.store.leave(id).await.map_err(store_error)?;
                    planted::step("removal-noted");
                    self.end(id)
                }
                // Somebody else, who asked for the same, was first.
                None if leaves.is_some() => leaves,
                None => return Err(ManagerError::Unknown { hive_id: id.clone() }),
            }
        };
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
        planted::step("removal-ended");
        self.forget(id).await.map_err(store_error)
    }

    /// Has a hive's task end the hive and then itself, which nothing may undo any more.
    fn end(&self, id: &HiveId) -> Option<CancellationToken> {
        self.tasks().by_hive.get_mut(id).map(|task| {
            task.leaving = true;
            task.intent.send_replace(Intent::CloseAndStop(self.context.settings.grace));
            task.ended.clone()
        })
    }

    /// Stops a hive that leaves: an earlier queen could not finish it, or the configuration has it no more. One that was
    /// attached goes on.
    pub(super) fn retire(self: &Arc<Self>, row: HiveRecord) {
        let id = row.spec.id.clone();
        self.add(stopped(row), Begin::Queen);
        let Some(ended) = self.end(&id) else { return };
        let this = Arc::clone(self);
        self.tracker.spawn(async move {
            ended.cancelled().await;
            planted::step("removal-over");
            if let Err(error) = this.forget(&id).await {
                tracing::warn!(hive_id = %id, %error, "a hive that was removed is still in the registry");
            }
        });
    }

    /// Forgets a hive whose task has ended. One that could not be ended leaves its row, out of sight, to the next queen.
    async fn forget(&self, id: &HiveId) -> Result<(), StoreError> {
        let _turn = self.context.changing.acquire().await;
        if self.tasks().by_hive.remove(id).is_none() {
            return Ok(());
        }
        // Somebody may have registered another hive of that name meanwhile.
        if let Some(row) = self.context.store.get(id).await? {
            self.add(row, Begin::Registered);
            return Ok(());
        }
        let view = self.context.registry.view();
        match view.hive(id).filter(|hive| hive.phase != HivePhase::Offline) {
            None => drop(self.context.store.remove(id).await?),
            Some(hive) => tracing::warn!(
                hive_id = %id, reason = hive.reason.as_deref(),
                "the hive is removed and could not be ended; this queen's next start tries again"
            ),
        }
        self.context.registry.forget(id);
        self.context.journal.record(EventKind::HiveRemoved { hive_id: id.clone() });
        Ok(())
    }
}

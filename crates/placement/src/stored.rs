//! Models that are wanted on a disk, without a worker.

use std::collections::HashMap;

use fleet::{HiveId, ModelRef, Resolved};
use model_provisioner::Progress;

use crate::{
    Placement, PlacementError,
    choose::{Room, Wish},
};

impl Placement {
    /// Sees to it that a hive has the model's files: this one, or the one where its worker would go, unless one has them. Tells
    /// each step. Whoever asks may leave; a transfer that began goes on.
    ///
    /// # Errors
    /// Why no hive has them.
    pub async fn ensure_stored(
        &self,
        model: &ModelRef,
        hive: Option<&HiveId>,
        mut tell: impl FnMut(&HiveId, &Progress) + Send,
    ) -> Result<(HiveId, Resolved), PlacementError> {
        self.settled().await;
        if let Some(hive_id) = hive {
            let flight = self.parts.provisioner.ensure_model_available(model, hive_id).await;
            let resolved = flight.landed_or(|step| tell(hive_id, step)).await?;
            return Ok((hive_id.clone(), resolved));
        }
        let has = self.parts.provisioner.hives_with(model).await.unwrap_or_default();
        let mut next = has.into_iter().next();
        let mut excluded: HashMap<HiveId, String> = HashMap::new();
        let mut failed: Option<PlacementError> = None;
        loop {
            let hive_id = match next.take() {
                Some(hive_id) => hive_id,
                None => match self
                    .choose(model, &Wish { excluded: &excluded, room: Room::Ignore, region: None })
                    .await
                {
                    Ok((hive_id, _)) => hive_id,
                    Err(none) => return Err(failed.unwrap_or(none)),
                },
            };
            let flight = self.parts.provisioner.ensure_model_available(model, &hive_id).await;
            match flight.landed_or(|step| tell(&hive_id, step)).await {
                Ok(resolved) => return Ok((hive_id, resolved)),
                Err(error) if error.is_about_the_model() => return Err(error.into()),
                Err(error) => {
                    excluded.insert(hive_id, error.to_string());
                    failed = Some(error.into());
                }
            }
        }
    }
}

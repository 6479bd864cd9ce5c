//! The last lines that a hive or one of its workers wrote.

use fleet::{HiveId, HiveKind, HivePhase, WorkerId};
use hive_api::{ErrorCode, client::ClientError};

use crate::{HiveManager, ManagerError};

impl HiveManager {
    /// The last `lines` lines of a hive's log, or of one of its workers', oldest first. A hive that answers is asked itself;
    /// of one that does not, its launcher reads what it left.
    ///
    /// # Errors
    /// An unknown hive, a hive that says no, or one that nobody can read the log of just now.
    pub async fn logs(
        &self,
        id: &HiveId,
        worker: Option<&WorkerId>,
        lines: usize,
    ) -> Result<Vec<String>, ManagerError> {
        let context = self.context();
        let action = "could not be looked up";
        let row = context.store.get(id).await;
        let row = row.map_err(|source| ManagerError::Store { hive_id: id.clone(), action, source })?;
        let row = row.ok_or_else(|| ManagerError::Unknown { hive_id: id.clone() })?;
        let launcher = context.launchers.of(row.spec.mode).filter(|_| row.spec.kind == HiveKind::Managed);
        let launcher = launcher.filter(|_| worker.is_none());
        let view = context.registry.view();
        let live = view.hive(id).filter(|h| matches!(h.phase, HivePhase::Online | HivePhase::Draining));
        if let Some(endpoint) = live.and_then(|hive| hive.endpoint.clone()) {
            match (context.connections.client(endpoint).logs(worker, lines).await, &launcher) {
                (Ok(reply), _) => return Ok(reply.lines),
                (Err(error), None) => return Err(refused(id, worker, error)),
                (Err(error), Some(_)) => {
                    tracing::debug!(hive_id = %id, %error, "read by the launcher instead")
                }
            }
        }
        match launcher {
            Some(launcher) => Ok(launcher.log_tail(&row.spec, lines).await),
            None => {
                let phase = view.hive(id).map_or(HivePhase::Offline, |hive| hive.phase);
                Err(ManagerError::NoLog { hive_id: id.clone(), phase })
            }
        }
    }
}

fn refused(hive: &HiveId, worker: Option<&WorkerId>, error: ClientError) -> ManagerError {
    match (worker, error.refused().map(|detail| detail.code)) {
        (Some(worker), Some(ErrorCode::NotFound)) => {
            ManagerError::NoWorker { hive_id: hive.clone(), worker_id: worker.clone() }
        }
        _ => ManagerError::Hive { source: error },
    }
}

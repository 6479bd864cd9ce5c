//! Other hives of the fleet that have a model already, and whose turn it is at the hub.

use std::sync::{Arc, PoisonError, Weak};

use fleet::{Digest, HiveEndpoint, HiveId, ModelRef};
use futures_util::future::join_all;
use hive_api::Source;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::ModelProvisioner;

/// Most hives that a target is told of.
const SOURCES: usize = 3;

/// What a hive is told where it can reach none of those that have the model: nobody listens at port 0, so it turns to the
/// hub, and waits for the queen where that does not answer either.
const NOBODY: &str = "http://127.0.0.1:0";

/// A hive that has the model.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) endpoint: HiveEndpoint,
    pub(crate) digest: Digest,
    /// Whether the target can read from it without the queen.
    is_in_reach: bool,
}

/// Where the files come from.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Hives that have them; with none, it is the hub.
    pub(crate) holders: Vec<Holder>,
    /// Held while the hub is asked, so that no other store is filled from it with the same model meanwhile.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl ModelProvisioner {
    /// From hives of the fleet where they have the model; else from the hub, one store after the other, since after the
    /// first one the fleet has it.
    pub(crate) async fn way(&self, model: &ModelRef, hive_id: &HiveId) -> Way {
        if matches!(model, ModelRef::File(_)) {
            return Way::default();
        }
        let holders = self.holders(model, hive_id).await;
        if !holders.is_empty() {
            return Way { holders, _turn: None };
        }
        let turn = self.turn(model).lock_owned().await;
        let holders = self.holders(model, hive_id).await;
        let turn = holders.is_empty().then_some(turn);
        Way { holders, _turn: turn }
    }

    fn turn(&self, model: &ModelRef) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(model).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::default());
        turns.insert(model.clone(), Arc::downgrade(&turn));
        turn
    }

    /// Hives that have the model, first those that the target reaches by itself.
    async fn holders(&self, model: &ModelRef, target: &HiveId) -> Vec<Holder> {
        let resolutions = self.resolutions(model).await.unwrap_or_default();
        let view = self.parts.registry.view();
        let Some(host) = view.hive(target).and_then(|hive| Some(hive.endpoint.as_ref()?.host.clone())) else {
            return Vec::new();
        };
        let others = view.hives().filter(|hive| hive.id != *target && !hive.lost.is_cancelled());
        let holds = others.filter_map(|hive| {
            let stored = resolutions.iter().find_map(|resolved| hive.models.get(resolved))?;
            let endpoint = hive.endpoint.clone()?;
            // A loopback address is this machine's own, and another one's is somebody else.
            let is_in_reach = !endpoint.host.is_loopback() || host.is_loopback();
            Some(Holder { endpoint, digest: stored.digest?, is_in_reach })
        });
        let mut holders: Vec<_> = holds.collect();
        holders.sort_by_key(|holder| !holder.is_in_reach);
        holders.truncate(SOURCES);
        holders
    }

    /// What the target is told: where to read, and by which grant.
    pub(crate) async fn sources(&self, holders: &[Holder]) -> Vec<Source> {
        let asked = holders.iter().map(async |holder| {
            let client = self.parts.connections.client(holder.endpoint.clone());
            let grant = client.grant_blob(&holder.digest).await;
            let hive_id = &holder.endpoint.hive_id;
            let grant =
                grant.inspect_err(|error| tracing::warn!(%hive_id, %error, "it lends no model")).ok()?;
            let (base, pin) = match holder.is_in_reach {
                true => (holder.endpoint.base_url(), holder.endpoint.pin),
                false => (NOBODY.to_owned(), None),
            };
            let url = format!("{base}/v1/models/blob/{}", holder.digest);
            Some(Source { url, token: grant.token, tls_fingerprint: pin })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

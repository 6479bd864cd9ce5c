//! Other hives of the fleet that have a model already, and whose turn it is at the hub.

use std::sync::{Arc, PoisonError, Weak};

use fleet::{HiveEndpoint, HiveId, ModelRef, Pinned};
use futures_util::future::join_all;
use hive_api::Source;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::ModelProvisioner;

/// Most hives that a target is told of.
const SOURCES: usize = 3;

/// A hive that has the model.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) endpoint: HiveEndpoint,
    /// Whether the target can read from it without the queen.
    is_in_reach: bool,
}

/// Where the files come from.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// What they are; the hub is asked what the reference stands for if that is not decided.
    pub(crate) pinned: Option<Pinned>,
    /// Hives that have them; with none, it is the hub.
    pub(crate) holders: Vec<Holder>,
    /// Held while the hub is asked, so that no other store is filled from it with the same model meanwhile.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl ModelProvisioner {
    /// From hives of the fleet where they have the model; else from the hub, one store after the other, since after the
    /// first one the fleet has it.
    pub(crate) async fn way(&self, model: &ModelRef, hive_id: &HiveId) -> Way {
        let Some(pinned) = self.decide(model, hive_id).await else {
            let turn = match model {
                ModelRef::File(_) => None,
                ModelRef::Hub { .. } => Some(self.turn(model).lock_owned().await),
            };
            // Whoever had the turn before may have decided.
            let pinned = self.pinned(model).await;
            let holders = pinned.as_ref().map_or_else(Vec::new, |pinned| self.holders(pinned, hive_id));
            let turn = turn.filter(|_| holders.is_empty());
            return Way { pinned, holders, _turn: turn };
        };
        let holders = self.holders(&pinned, hive_id);
        if !holders.is_empty() {
            return Way { pinned: Some(pinned), holders, _turn: None };
        }
        let turn = self.turn(model).lock_owned().await;
        let holders = self.holders(&pinned, hive_id);
        let turn = holders.is_empty().then_some(turn);
        Way { pinned: Some(pinned), holders, _turn: turn }
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

    /// Hives that have the files, first those that the target reaches by itself.
    fn holders(&self, pinned: &Pinned, target: &HiveId) -> Vec<Holder> {
        let view = self.parts.registry.view();
        let Some(host) = view.hive(target).and_then(|hive| Some(hive.endpoint.as_ref()?.host.clone())) else {
            return Vec::new();
        };
        let others = view.hives().filter(|hive| hive.id != *target && !hive.lost.is_cancelled());
        let holds = others.filter(|hive| hive.has_model(&pinned.resolved)).filter_map(|hive| {
            let endpoint = hive.endpoint.clone()?;
            // A loopback address is this machine's own, and another one's is somebody else.
            let is_in_reach = !endpoint.host.is_loopback() || host.is_loopback();
            Some(Holder { endpoint, is_in_reach })
        });
        let mut holders: Vec<_> = holds.collect();
        holders.sort_by_key(|holder| !holder.is_in_reach);
        holders.truncate(SOURCES);
        holders
    }

    /// What the target is told: where to read each file, and by which grant.
    pub(crate) async fn sources(&self, way: &Way) -> Vec<Source> {
        let files = way.pinned.iter().flat_map(|pinned| &pinned.files);
        let in_reach = || way.holders.iter().filter(|holder| holder.is_in_reach);
        let offers = files.flat_map(|file| in_reach().map(move |holder| (holder, &file.digest)));
        let asked = offers.map(async |(holder, digest)| {
            let client = self.parts.connections.client(holder.endpoint.clone());
            let grant = client.grant_blob(digest).await;
            let hive_id = &holder.endpoint.hive_id;
            let grant =
                grant.inspect_err(|error| tracing::warn!(%hive_id, %error, "it lends no model")).ok()?;
            let url = format!("{}/v1/models/blob/{digest}", holder.endpoint.base_url());
            Some(Source { url, token: grant.token, tls_fingerprint: holder.endpoint.pin })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

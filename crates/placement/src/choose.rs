//! Where a worker goes: which hive has the room, or can make it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fleet::{DeviceSelector, HiveId, HivePhase, ModelRef};
use model_memory::{ModelShape, Need};
use registry_ram::{FleetView, HiveView, Lease, WorkerView};
use scheduler::{HiveCandidate, HiveChoice, Regions, Resident, choose_hive};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    Placement, PlacementError,
    flights::{Region, Started},
};

/// How long a hive may take to read a model's header, at the hub if need be.
const INSPECTION: Duration = Duration::from_secs(10);

/// How long memory may take to come back behind a worker that was stopped, and a stop to be seen.
const MEMORY_BACK: Duration = Duration::from_secs(5);

/// Headers that are remembered.
const SHAPES: usize = 256;

/// What is asked of a hive.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Hives that are out of the question, and why.
    pub(crate) excluded: &'a HashMap<HiveId, String>,
    /// What becomes of idle workers that are in the way.
    pub(crate) room: Room,
    /// The only region that it may stand in.
    pub(crate) region: Option<&'a Region>,
}

/// What becomes of idle workers that are in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// They are stopped.
    Make,
    /// They stay, and nothing goes where they are.
    Spare,
    /// They are left alone for now: nothing is started yet.
    Ignore,
}

impl Placement {
    /// The hive that takes the worker and the device there, with the room made.
    pub(crate) async fn choose(
        &self,
        model: &ModelRef,
        wish: &Wish<'_>,
    ) -> Result<(HiveId, Option<DeviceSelector>), PlacementError> {
        let mut deadline = Instant::now() + self.parts.settings.hive_start;
        let mut woken: Vec<HiveId> = Vec::new();
        let mut changes = self.parts.registry.changes();
        loop {
            let with = self.parts.provisioner.hives_with(model).await.unwrap_or_default();
            let need = self.need(model, &with).await;
            let view = self.parts.registry.view();
            let candidates: Vec<_> = view.hives().map(|hive| self.candidate(hive, &with, wish)).collect();
            let regions = Regions { only: wish.region.map(|r| &**r), home: self.parts.region.as_deref() };
            let refusal = match choose_hive(need.as_ref(), regions, &candidates) {
                Ok(choice) => {
                    let hive_id = candidates[choice.at].id.clone();
                    if choice.evict.is_empty()
                        || wish.room == Room::Ignore
                        || self.make_room(model, need, &view, &hive_id, &choice).await
                    {
                        return Ok((hive_id, choice.device));
                    }
                    continue;
                }
                Err(refusal) => refusal,
            };
            let out = |id: &HiveId| woken.contains(id) || wish.excluded.contains_key(id);
            let starts =
                |hive: &HiveCandidate<'_>| hive.phase == HivePhase::Starting && woken.contains(hive.id);
            let waking = candidates.iter().any(starts);
            if !waking && let Some(hive_id) = Self::sleeper(&view, (need.as_ref(), regions), &with, out) {
                self.wake(&hive_id).await;
                woken.push(hive_id);
                deadline = Instant::now() + self.parts.settings.hive_wake;
                continue;
            }
            // A hive that is on its way may be able in a moment.
            let on_its_way =
                candidates.iter().any(|h| h.phase == HivePhase::Starting && h.excluded.is_none());
            if !on_its_way || timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(PlacementError::NoHive { model: model.clone(), refusal });
            }
        }
    }

    /// What a worker needs at least, if a hive can read the model's header.
    async fn need(&self, model: &ModelRef, with: &[HiveId]) -> Option<Need> {
        let known = self.flights().shapes.get(model).cloned();
        if let Some((resolved, shape)) = known {
            return Some(self.corrected(model, &resolved, self.need_of(model, &shape)).await);
        }
        let view = self.parts.registry.view();
        let mut hives: Vec<_> = view.hives().filter(|hive| hive.phase == HivePhase::Online).collect();
        hives.sort_by_key(|hive| !with.contains(&hive.id));
        let endpoint = hives.into_iter().find_map(|hive| hive.endpoint.clone())?;
        let client = self.parts.connections.client(endpoint);
        let inspecting = self.parts.provisioner.inspect(model, &client);
        let shape = match timeout(INSPECTION, inspecting).await.ok()? {
            Ok(inspection) => (inspection.resolved.clone(), inspection.shape()?),
            // Whoever is to fetch the model finds the same, and says it.
            Err(error) => {
                tracing::debug!(%model, %error, "its header could not be read");
                return None;
            }
        };
        let need = self.corrected(model, &shape.0, self.need_of(model, &shape.1)).await;
        let mut flights = self.flights();
        if flights.shapes.len() >= SHAPES {
            flights.shapes.clear();
        }
        flights.shapes.insert(model.clone(), shape);
        Some(need)
    }

    /// What a worker of the model needs with what its owner said, else at least.
    fn need_of(&self, model: &ModelRef, shape: &ModelShape) -> Need {
        let least = shape.least();
        let Some(settings) = self.parts.models.named.get(model) else { return least };
        shape.need(settings.context.unwrap_or(least.context), settings.slots.unwrap_or(least.slots))
    }

    /// Stops those who must go and waits for their memory. False if one of them was given a request meanwhile.
    async fn make_room(
        &self,
        model: &ModelRef,
        need: Option<Need>,
        view: &FleetView,
        hive_id: &HiveId,
        choice: &HiveChoice,
    ) -> bool {
        let Some(hive) = view.hive(hive_id) else { return false };
        let residents: Vec<_> = living(hive).collect();
        for at in &choice.evict {
            let worker = residents[*at];
            tracing::info!(%model, %hive_id, worker_id = %worker.record.worker_id, "an idle worker makes room");
            if !self.retire(worker).await {
                return false;
            }
            if let Some(upkeep) = self.flights().upkeep.get_mut(&worker.record.model_ref) {
                upkeep.let_go();
            }
        }
        let mut changes = self.parts.registry.changes();
        let back = async {
            let has_room = |view: &FleetView| {
                let machine = view.hive(hive_id).and_then(|hive| hive.capabilities.as_ref());
                let device =
                    machine.and_then(|m| m.devices.iter().find(|d| Some(d.selector()) == choice.device));
                device.is_none_or(|d| d.memory_free >= need.map_or(0, |need| need.total()))
            };
            while !has_room(&self.parts.registry.view()) && changes.changed().await.is_ok() {}
        };
        if timeout(MEMORY_BACK, back).await.is_err() {
            tracing::info!(%model, %hive_id, "the memory of stopped workers has not come back yet");
        }
        true
    }

    /// Stops a worker that nobody uses, and lets nobody use it from now on. False if somebody does.
    pub(crate) async fn retire(&self, worker: &Arc<WorkerView>) -> bool {
        let slots = worker.record.slots as usize;
        let all: Vec<Lease> =
            std::iter::repeat_with(|| worker.lease()).map_while(|l| l).take(slots).collect();
        if all.len() < slots {
            return false;
        }
        let (hive_id, worker_id) = (worker.hive_id.clone(), worker.record.worker_id.clone());
        let launch_id = worker.record.launch_id.clone();
        let mut changes = self.parts.registry.changes();
        self.stop_worker(&Started { hive_id, launch_id, worker_id }).await;
        let seen = async {
            let is_ready = |view: &FleetView| {
                let now = view.hive(&worker.hive_id).and_then(|h| h.workers.get(&worker.record.worker_id));
                now.is_some_and(|w| {
                    w.record.launch_id == worker.record.launch_id && w.record.state.is_ready()
                })
            };
            while is_ready(&self.parts.registry.view()) && changes.changed().await.is_ok() {}
        };
        timeout(MEMORY_BACK, seen).await.is_ok()
    }

    fn candidate<'a>(&self, hive: &'a HiveView, with: &[HiveId], wish: &Wish<'a>) -> HiveCandidate<'a> {
        let resident = |worker: &'a Arc<WorkerView>| Resident {
            worker_id: &worker.record.worker_id,
            device: worker.record.device,
            memory: worker.record.memory_bytes,
            state: worker.record.state.name(),
            in_flight: worker.in_flight().max(worker.record.slots_busy),
            idle: worker.idle().unwrap_or_default(),
            pinned: wish.room == Room::Spare || self.is_needed(&worker.record.model_ref),
        };
        HiveCandidate {
            id: &hive.id,
            region: hive.region.as_deref(),
            phase: hive.phase,
            reason: hive.reason.as_deref(),
            capabilities: hive.capabilities.as_ref(),
            has_model: with.contains(&hive.id),
            residents: living(hive).map(resident).collect(),
            excluded: wish.excluded.get(&hive.id).map(String::as_str),
        }
    }

    /// Whether the model's owner wants all the workers that it has.
    fn is_needed(&self, model: &ModelRef) -> bool {
        let floor = self.policy(model).floor();
        let ready = self.parts.registry.view().serving(model).len();
        floor > 0 && u32::try_from(ready).is_ok_and(|ready| ready <= floor)
    }
}

fn living(hive: &HiveView) -> impl Iterator<Item = &Arc<WorkerView>> {
    hive.workers.values().filter(|worker| !worker.record.state.is_over())
}

//! What is remembered of cold starts: those under way, those that failed a moment ago, and the workers that came of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fleet::{HiveId, HivePhase, LaunchId, ModelRef, Resolved, WorkerId};
use model_memory::ModelShape;
use registry_ram::{FleetView, HiveView, WorkerView};
use scheduler::Upkeep;
use tokio::{sync::watch, time::Instant};

use crate::{Placement, PlacementError, Stage, demand::Quiet, observed::Seen};

/// Where machines stand, as their owners call it.
pub(crate) type Region = Arc<str>;

/// What a flight is for: a model, and the only region that its worker may stand in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Aim {
    pub(crate) model: ModelRef,
    pub(crate) region: Option<Region>,
}

#[derive(Default)]
pub(crate) struct Flights {
    pub(crate) under_way: HashMap<Aim, watch::Sender<Stage>>,
    pub(crate) failed: HashMap<Aim, (Instant, PlacementError)>,
    /// Workers that were started on request of this queen, for those hives that outlive it.
    pub(crate) started: Vec<Started>,
    /// What models need, as far as their headers were read.
    pub(crate) shapes: HashMap<ModelRef, (Resolved, ModelShape)>,
    /// What workers that were started here hold.
    pub(crate) seen: Seen,
    /// Hives that demand started and that have nothing to do.
    pub(crate) quiet: Quiet,
    /// Requests that wait for a slot.
    pub(crate) waiting: HashMap<ModelRef, Queue>,
    /// How long workers of a model took to start, without what their files took to come.
    pub(crate) loads: HashMap<ModelRef, Duration>,
    /// Models of which a worker is being brought up unasked.
    pub(crate) starting: HashSet<ModelRef>,
    /// What is remembered of how many workers models have.
    pub(crate) upkeep: HashMap<ModelRef, Upkeep>,
    /// Models whose files were fetched anew.
    withdrawn: HashSet<(HiveId, ModelRef)>,
}

/// Requests that wait for a slot of one model's workers.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    next: u64,
    places: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// The only region that it may be served in.
    region: Option<Region>,
    /// Until when it is expected to wait, where that is known.
    until: Option<Instant>,
}

/// Those of a queue whom one more worker would help.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    pub(crate) waiting: u32,
    /// How long the last one is still expected to wait.
    pub(crate) expected: Option<Duration>,
    /// The only region where it would.
    pub(crate) region: Option<Region>,
}

impl Queue {
    pub(crate) fn join(&mut self, expected: Option<Duration>, region: Option<Region>) -> u64 {
        let place = self.next;
        self.next += 1;
        let until = expected.map(|expected| Instant::now() + expected);
        self.places.insert(place, Waiting { region, until });
        place
    }

    /// False once nobody waits any more.
    pub(crate) fn leave(&mut self, place: u64) -> bool {
        self.places.remove(&place);
        !self.places.is_empty()
    }

    /// All, while one of them goes anywhere: then no worker has a slot. Else those of the region that most ask for.
    pub(crate) fn crowd(&self) -> Crowd {
        let mut by_region: BTreeMap<Option<&Region>, u32> = BTreeMap::new();
        for place in self.places.values() {
            *by_region.entry(place.region.as_ref()).or_default() += 1;
        }
        let anywhere = by_region.contains_key(&None);
        let most = by_region.iter().max_by_key(|(_, waiting)| **waiting).filter(|_| !anywhere);
        let region = most.and_then(|(region, _)| *region);
        let (mut waiting, mut until) = (0, None);
        for place in self.places.values().filter(|place| region.is_none() || place.region.as_ref() == region)
        {
            waiting += 1;
            until = until.max(place.until);
        }
        let expected = until.map(|until| until.saturating_duration_since(Instant::now()));
        Crowd { waiting, expected, region: region.cloned() }
    }
}

/// Withdrawals that are remembered.
const WITHDRAWN: usize = 1024;

impl Flights {
    /// The flight that serves this aim too: whoever has no region to ask for is served from any.
    pub(crate) fn of(&self, aim: &Aim) -> Option<&watch::Sender<Stage>> {
        self.under_way.get(aim).or_else(|| {
            let mut others = self.under_way.iter().filter(|(other, _)| other.model == aim.model);
            others.find(|_| aim.region.is_none()).map(|(_, stage)| stage)
        })
    }

    /// Why it is of no use to try now. Where no hive could, none of a region could.
    pub(crate) fn failure(&self, aim: &Aim) -> Option<&PlacementError> {
        let anywhere = Aim { region: None, ..aim.clone() };
        self.failed.get(aim).or_else(|| self.failed.get(&anywhere)).map(|(_, error)| error)
    }

    pub(crate) fn is_under_way(&self, model: &ModelRef) -> bool {
        self.under_way.keys().any(|aim| aim.model == *model)
    }

    /// True the first time.
    pub(crate) fn withdraw_once(&mut self, model: &ModelRef, hive_id: &HiveId) -> bool {
        self.withdrawn.len() < WITHDRAWN && self.withdrawn.insert((hive_id.clone(), model.clone()))
    }
}

/// One worker that was started here.
#[derive(Debug, Clone)]
pub(crate) struct Started {
    pub(crate) hive_id: HiveId,
    pub(crate) launch_id: LaunchId,
    pub(crate) worker_id: WorkerId,
}

/// Takes a flight out of the map, so that whoever asks after that begins anew, and then tells its end. Dropped by a task
/// that panicked, it does the same.
pub(crate) struct Landing {
    pub(crate) this: Arc<Placement>,
    pub(crate) aim: Aim,
    pub(crate) stage: watch::Sender<Stage>,
    pub(crate) end: Stage,
}

impl Landing {
    pub(crate) fn land(mut self, outcome: Result<(), PlacementError>) {
        self.end = match outcome {
            Ok(()) => Stage::Ready,
            Err(error) => {
                tracing::warn!(model = %self.aim.model, region = ?self.aim.region, %error, "cold start failed");
                Stage::Failed(error)
            }
        };
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.this.flights();
        // An abandoned flight is out already, and another one may be in its place.
        if flights.under_way.get(&self.aim).is_some_and(|stage| stage.same_channel(&self.stage)) {
            flights.under_way.remove(&self.aim);
        }
        if let Stage::Failed(error) = &self.end
            && error.is_worth_remembering()
        {
            flights.failed.insert(self.aim.clone(), (Instant::now(), error.clone()));
        }
        drop(flights);
        self.stage.send_replace(self.end.clone());
    }
}

/// Whether the worker is known to have ended, or its whole launch.
pub(crate) fn is_over(view: &FleetView, worker: &Started) -> bool {
    let hive = view.hive(&worker.hive_id).filter(|hive| hive.launch_id() == Some(&worker.launch_id));
    hive.is_none_or(|h| h.workers.get(&worker.worker_id).is_some_and(|w| w.record.state.is_over()))
}

/// Whether a hive stands where somebody wants it to.
fn is_in(hive: &HiveView, region: Option<&Region>) -> bool {
    region.is_none() || hive.region.as_ref() == region
}

/// Whether a worker of the model is there already.
pub(crate) fn is_served(view: &FleetView, aim: &Aim) -> bool {
    let hive = |worker: &Arc<WorkerView>| view.hive(&worker.hive_id).cloned();
    let here = |hive: Arc<HiveView>| is_in(&hive, aim.region.as_ref());
    view.serving(&aim.model).iter().any(|worker| hive(worker).is_some_and(here))
}

/// A worker that will be ready for the model without anybody's doing.
pub(crate) fn coming(
    view: &FleetView,
    model: &ModelRef,
    excluded: &HashMap<HiveId, String>,
    region: Option<&Region>,
) -> Option<Started> {
    let hives = view.hives().filter(|h| h.phase == HivePhase::Online && !excluded.contains_key(&h.id));
    let worker = hives
        .filter(|hive| is_in(hive, region))
        .flat_map(|hive| hive.workers.values())
        .find(|w| w.record.model_ref == *model && w.record.state.is_coming())?;
    Some(Started {
        hive_id: worker.hive_id.clone(),
        launch_id: worker.record.launch_id.clone(),
        worker_id: worker.record.worker_id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_all_who_wait_unless_all_ask_for_regions() {
        let mut queue = Queue::default();
        let region = |name: &str| Some(Region::from(name));
        let of = |waiting, region| Crowd { waiting, expected: None, region };
        assert_eq!(queue.crowd(), of(0, None));
        queue.join(None, region("moon"));
        queue.join(None, region("cellar"));
        queue.join(None, region("cellar"));
        assert_eq!(queue.crowd(), of(2, region("cellar")));
        let anywhere = queue.join(None, None);
        assert_eq!(queue.crowd(), of(4, None));
        assert!(queue.leave(anywhere));
        assert_eq!(queue.crowd(), of(2, region("cellar")));
    }
}

//! Hives that run only while something needs them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fleet::{Capabilities, Desired, HiveId, HivePhase};
use futures_util::future::BoxFuture;
use model_memory::Need;
use registry_ram::{FleetView, HiveView};
use scheduler::{HiveCandidate, Regions, choose_hive};
use tokio::time::timeout;

use crate::Placement;

/// How long a hive that was told to start may take to say that it does.
const HEARD: Duration = Duration::from_secs(5);

/// Writes what demand wants of a hive. It changes nothing where a person decided otherwise; the reason is for the log.
pub type Switch = Box<dyn Fn(HiveId, Desired) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Whether a hive waits for somebody who needs it.
pub(crate) fn rests(hive: &HiveView) -> bool {
    hive.on_demand && hive.phase == HivePhase::Offline
}

/// A machine as it will be once nothing runs on it.
fn empty(machine: &Capabilities) -> Capabilities {
    let mut machine = machine.clone();
    for device in &mut machine.devices {
        device.memory_free = device.memory_total;
    }
    machine.ram_free = machine.ram_total;
    machine
}

impl Placement {
    /// The resting hive that would take the worker, as far as is known what its machine is; else one that nobody has seen
    /// yet.
    pub(crate) fn sleeper(
        view: &FleetView,
        (need, regions): (Option<&Need>, Regions<'_>),
        with: &[HiveId],
        out: impl Fn(&HiveId) -> bool,
    ) -> Option<HiveId> {
        let resting: Vec<_> = view.hives().filter(|hive| rests(hive) && !out(&hive.id)).collect();
        let machines: Vec<_> = resting.iter().map(|hive| hive.capabilities.as_ref().map(empty)).collect();
        let candidates = resting.iter().zip(&machines).map(|(hive, machine)| HiveCandidate {
            id: &hive.id,
            region: hive.region.as_deref(),
            phase: HivePhase::Online,
            reason: None,
            capabilities: machine.as_ref(),
            has_model: with.contains(&hive.id),
            residents: Vec::new(),
            excluded: None,
        });
        let candidates: Vec<_> = candidates.collect();
        let known =
            choose_hive(need, regions, &candidates).ok().map(|choice| candidates[choice.at].id.clone());
        let may = |hive: &&&Arc<HiveView>| {
            hive.capabilities.is_none() && (regions.only.is_none() || hive.region.as_deref() == regions.only)
        };
        known.or_else(|| resting.iter().find(may).map(|hive| hive.id.clone()))
    }

    /// Has a resting hive start, and waits until it says that it does.
    pub(crate) async fn wake(&self, hive_id: &HiveId) {
        tracing::info!(%hive_id, "starting a hive on demand");
        let mut changes = self.parts.registry.changes();
        if let Err(reason) = (self.parts.switch)(hive_id.clone(), Desired::Running).await {
            tracing::warn!(%hive_id, reason, "a hive could not be started on demand");
            return;
        }
        let heard = async {
            while self.parts.registry.view().hive(hive_id).is_some_and(|hive| rests(hive)) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // One that says nothing is judged by the phase that it is in.
        let _ = timeout(HEARD, heard).await;
    }

    /// Stops hives that demand started and that have been without a worker for as long as their owner said.
    pub(crate) fn rest(self: &Arc<Self>, view: &FleetView, now: Duration) {
        let unused = |hive: &&Arc<HiveView>| {
            let works = hive.workers.values().any(|worker| !worker.record.state.is_over());
            hive.on_demand && hive.phase == HivePhase::Online && !works && hive.downloads.is_empty()
        };
        let unused = view.hives().filter(unused).map(|hive| hive.id.clone()).collect();
        let over = self.flights().quiet.over(unused, self.parts.settings.hive_idle, now);
        for hive_id in over {
            let this = Arc::clone(self);
            self.tracker.spawn(async move {
                tracing::info!(%hive_id, "nothing needs this hive: it is stopped");
                if let Err(reason) = (this.parts.switch)(hive_id.clone(), Desired::Stopped).await {
                    tracing::warn!(%hive_id, reason, "a hive that nothing needs goes on");
                }
            });
        }
    }
}

/// Since when hives have had nothing to do.
#[derive(Debug, Default)]
pub(crate) struct Quiet(HashMap<HiveId, Duration>);

impl Quiet {
    /// Those of the unused that have been so for as long as the bound; zero is never. They begin anew.
    fn over(&mut self, unused: HashSet<HiveId>, bound: Duration, now: Duration) -> Vec<HiveId> {
        self.0.retain(|hive, _| unused.contains(hive));
        let mut over = Vec::new();
        for hive in unused {
            let since = self.0.entry(hive.clone()).or_insert(now);
            if !bound.is_zero() && now.saturating_sub(*since) >= bound {
                *since = now;
                over.push(hive);
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_unused_all_the_time_is_over() {
        let minute = Duration::from_secs(60);
        let hive = |name: &str| name.parse::<HiveId>().unwrap();
        let (mut quiet, mut never) = (Quiet::default(), Quiet::default());
        let mut stopped = Vec::new();
        for at in 0..100 {
            let unused: HashSet<_> = match at {
                // The other one has something to do every half hour.
                20 | 50 | 80 => HashSet::from([hive("a")]),
                _ => HashSet::from([hive("a"), hive("b")]),
            };
            let over = quiet.over(unused.clone(), 30 * minute, at * minute);
            stopped.extend(over.into_iter().map(|hive| (at, hive)));
            assert!(never.over(unused, Duration::ZERO, at * minute).is_empty());
        }
        assert_eq!(stopped, [(30, hive("a")), (60, hive("a")), (90, hive("a"))]);
    }
}

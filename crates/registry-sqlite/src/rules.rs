//! What becomes of a hive's row, decided without a database, so that every implementation decides alike.

use fleet::{
    Desired, DesiredBy, HiveSpec, LaunchFacts, LaunchRecord, LaunchStep, Observation, Registration,
    StartPolicy, StoreError,
};

use crate::error::unstorable;

/// The part of a row that people and placement decide, without what was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) spec: HiveSpec,
    pub(crate) desired: Desired,
    pub(crate) desired_by: DesiredBy,
}

impl Wanted {
    /// The row of a hive that nobody knew. One that is started on demand waits for demand, which is placement's to see.
    pub(crate) fn new(spec: HiveSpec) -> Self {
        let (desired, desired_by) = match spec.start {
            StartPolicy::Always => (Desired::Running, DesiredBy::Person),
            StartPolicy::OnDemand => (Desired::Stopped, DesiredBy::Placement),
        };
        Self { spec, desired, desired_by }
    }

    /// The same row under another description. Who changes the start policy decides anew who is in charge of a hive that
    /// runs or waits; a person's stop or drain stands.
    fn described_as(&self, spec: HiveSpec) -> Self {
        let kept = (self.desired, self.desired_by);
        let (desired, desired_by) = match (self.spec.start, spec.start) {
            (StartPolicy::Always, StartPolicy::OnDemand) if kept == (Desired::Running, DesiredBy::Person) => {
                (Desired::Running, DesiredBy::Placement)
            }
            (StartPolicy::OnDemand, StartPolicy::Always) if kept.1 == DesiredBy::Placement => {
                (Desired::Running, DesiredBy::Person)
            }
            _ => kept,
        };
        Self { spec, desired, desired_by }
    }
}

/// Registers a hive: the answer, and the row to write, if any.
///
/// A row follows whoever made it: one from the configuration is not changed over the API, and a registration with
/// another connection never takes an id over.
pub(crate) fn register(existing: Option<&Wanted>, spec: HiveSpec) -> (Registration, Option<Wanted>) {
    match existing {
        None => (Registration::Created, Some(Wanted::new(spec))),
        Some(row) if row.spec.source == spec.source && row.spec.same_connection(&spec) => {
            let described = row.described_as(spec);
            (Registration::Unchanged, (described != *row).then_some(described))
        }
        Some(row) => (Registration::Conflict { existing: Box::new(row.spec.clone()) }, None),
    }
}

/// The row of an entry of the configuration, over the one that is there.
pub(crate) fn configure(existing: Option<&Wanted>, spec: HiveSpec) -> Wanted {
    match existing {
        None => Wanted::new(spec),
        Some(row) => row.described_as(spec),
    }
}

/// Whether what was observed under the old description says anything about the new one. Another machine has other
/// devices.
pub(crate) fn same_machine(old: &HiveSpec, new: &HiveSpec) -> bool {
    old.hostname == new.hostname && old.mode == new.mode
}

/// What holds after somebody wished something. A person's word stands until a person takes it back.
pub(crate) fn decide(now: (Desired, DesiredBy), wish: (Desired, DesiredBy)) -> (Desired, DesiredBy) {
    if wish.1 == DesiredBy::Placement && now.1 == DesiredBy::Person { now } else { wish }
}

/// How many ended launches of a hive are remembered; a hive that crashes for a year must not fill the disk.
pub(crate) const ENDED_LAUNCHES_KEPT: usize = 32;

/// The row of a launch that got further, or nothing if it did not. A step is never taken back, an ended launch stays as
/// it is, and news that come late only fill in what was not known.
pub(crate) fn advance(now: &LaunchRecord, step: LaunchStep, facts: LaunchFacts) -> Option<LaunchRecord> {
    if now.step == LaunchStep::Ended {
        return None;
    }
    let then = if rank(step) >= rank(now.step) {
        LaunchRecord { step, facts: facts.or(now.facts.clone()), ..now.clone() }
    } else {
        LaunchRecord { facts: now.facts.clone().or(facts), ..now.clone() }
    };
    (then != *now).then_some(then)
}

/// The row of a launch that was found running.
pub(crate) fn found(now: LaunchRecord, facts: LaunchFacts) -> LaunchRecord {
    LaunchRecord { step: LaunchStep::Healthy, facts: facts.or(now.facts.clone()), ..now }
}

const fn rank(step: LaunchStep) -> u8 {
    match step {
        LaunchStep::Intended => 0,
        LaunchStep::Spawned => 1,
        LaunchStep::Healthy => 2,
        LaunchStep::Ended => 3,
    }
}

/// Refuses a measurement that is no number; SQLite would store it as NULL.
pub(crate) fn finite(action: &'static str, seen: Observation) -> Result<Observation, StoreError> {
    let rates = [seen.prefill_tok_s, seen.decode_tok_s];
    if seen.load_s.is_finite() && rates.into_iter().flatten().all(f64::is_finite) {
        return Ok(seen);
    }
    Err(unstorable(action, "a measurement must be a finite number"))
}

#[cfg(test)]
mod tests {
    use fleet::ProcessIdentity;

    use super::*;

    fn launch(step: LaunchStep, pid: Option<u32>) -> LaunchRecord {
        let legal = "a legal id";
        LaunchRecord {
            launch_id: "l".parse().expect(legal),
            hive_id: "h".parse().expect(legal),
            step,
            facts: pid.map(facts).unwrap_or_default(),
        }
    }

    fn facts(pid: u32) -> LaunchFacts {
        ProcessIdentity { pid, start_time: 1, boot_id: "boot".to_owned() }.into()
    }

    #[test]
    fn nothing_is_learned_of_an_ended_launch() {
        for pid in [None, Some(1)] {
            let ended = launch(LaunchStep::Ended, pid);
            assert_eq!(advance(&ended, LaunchStep::Spawned, facts(2)), None);
            assert_eq!(advance(&ended, LaunchStep::Ended, facts(2)), None);
        }
    }

    #[test]
    fn news_that_say_nothing_new_change_nothing() {
        let spawned = launch(LaunchStep::Spawned, Some(1));
        assert_eq!(advance(&spawned, LaunchStep::Spawned, LaunchFacts::default()), None);
        assert_eq!(advance(&spawned, LaunchStep::Intended, facts(2)), None);
        let healthy = advance(&spawned, LaunchStep::Healthy, LaunchFacts::default());
        assert_eq!(healthy, Some(launch(LaunchStep::Healthy, Some(1))));
    }
}

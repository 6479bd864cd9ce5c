//! Which hive takes a new worker.

use fleet::{Capabilities, HiveId, HivePhase};

/// A registered hive.
#[derive(Debug, Clone, Copy)]
pub struct HiveCandidate<'a> {
    /// The hive.
    pub id: &'a HiveId,
    /// Where it stands.
    pub phase: HivePhase,
    /// Why it stands there, where that is known.
    pub reason: Option<&'a str>,
    /// What it reported of its machine.
    pub capabilities: Option<&'a Capabilities>,
    /// Whether the model's files are in its store.
    pub has_model: bool,
    /// Workers that run there now.
    pub workers: usize,
    /// Why it is out of the question for this model, if it was tried before.
    pub excluded: Option<&'a str>,
}

/// Why a hive cannot take the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It is not online; why not, where that is known.
    Phase(HivePhase, Option<String>),
    /// It has no engine.
    NoEngine,
    /// It was tried, and failed.
    Failed(String),
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Phase(phase, None) => f.write_str(phase.as_str()),
            Self::Phase(phase, Some(reason)) => write!(f, "{} ({reason})", phase.as_str()),
            Self::NoEngine => f.write_str("it has no inference engine"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// No hive can take the worker: each one, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In the order of the candidates.
    pub obstacles: Vec<(HiveId, Obstacle)>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.obstacles.is_empty() {
            return f.write_str("no hive is registered");
        }
        for (at, (id, obstacle)) in self.obstacles.iter().enumerate() {
            write!(f, "{}{id}: {obstacle}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

fn obstacle(hive: &HiveCandidate<'_>) -> Option<Obstacle> {
    if let Some(reason) = hive.excluded {
        return Some(Obstacle::Failed(reason.to_owned()));
    }
    if hive.phase != HivePhase::Online {
        return Some(Obstacle::Phase(hive.phase, hive.reason.map(str::to_owned)));
    }
    hive.capabilities.is_none_or(|c| c.engines.is_empty()).then_some(Obstacle::NoEngine)
}

/// Memory that a worker could get on the hive's best device, in bytes.
fn memory(hive: &HiveCandidate<'_>) -> u64 {
    hive.capabilities
        .map_or(0, |c| c.devices.iter().map(|d| d.memory_free).max().unwrap_or(0).max(c.ram_free))
}

/// The position of the hive that should start a worker: one that has the model before one that must fetch it, then the one
/// with the fewest workers, then the one with the most free memory.
///
/// # Errors
/// [`Refusal`] when none can.
pub fn choose_hive(candidates: &[HiveCandidate<'_>]) -> Result<usize, Refusal> {
    let able = candidates.iter().enumerate().filter(|(_, hive)| obstacle(hive).is_none());
    let best = able.min_by(|(_, a), (_, b)| {
        let fewer = a.workers.cmp(&b.workers);
        b.has_model.cmp(&a.has_model).then(fewer).then(memory(b).cmp(&memory(a))).then(a.id.cmp(b.id))
    });
    best.map(|(at, _)| at).ok_or_else(|| {
        let obstacles =
            candidates.iter().filter_map(|hive| Some((hive.id.clone(), obstacle(hive)?))).collect();
        Refusal { obstacles }
    })
}

#[cfg(test)]
mod tests {
    use fleet::{DeviceKind, Engine};

    use super::*;

    fn machine(ram_free: u64, engines: usize) -> Capabilities {
        let engine =
            Engine { name: "e".into(), version: None, devices: vec![DeviceKind::Cpu], running_usage: None };
        Capabilities {
            devices: vec![],
            ram_total: ram_free,
            ram_free,
            disk_free: 0,
            store_id: "s".parse().unwrap(),
            engines: vec![engine; engines],
            notices: vec![],
        }
    }

    fn candidate<'a>(id: &'a HiveId, capabilities: &'a Capabilities) -> HiveCandidate<'a> {
        let phase = HivePhase::Online;
        HiveCandidate {
            id,
            phase,
            reason: None,
            capabilities: Some(capabilities),
            has_model: false,
            workers: 0,
            excluded: None,
        }
    }

    #[test]
    fn the_model_counts_before_load_and_load_before_memory() {
        let ids: Vec<HiveId> = ["a", "b", "c"].iter().map(|id| id.parse().unwrap()).collect();
        let (small, large) = (machine(1, 1), machine(2, 1));
        let mut hives = [candidate(&ids[0], &small), candidate(&ids[1], &large), candidate(&ids[2], &small)];
        assert_eq!(choose_hive(&hives), Ok(1), "the most memory");
        hives[1].workers = 1;
        assert_eq!(choose_hive(&hives), Ok(0), "the fewest workers");
        hives[1].has_model = true;
        assert_eq!(choose_hive(&hives), Ok(1), "the model is there");
    }

    #[test]
    fn a_refusal_names_every_hive_with_its_reason() {
        let ids: Vec<HiveId> = ["a", "b", "c"].iter().map(|id| id.parse().unwrap()).collect();
        let (bare, full) = (machine(1, 0), machine(1, 1));
        let mut hives = [candidate(&ids[0], &bare), candidate(&ids[1], &full), candidate(&ids[2], &full)];
        hives[1].phase = HivePhase::Unreachable;
        hives[1].reason = Some("silent for 3 s");
        hives[2].excluded = Some("the disk is full");
        let refusal = choose_hive(&hives).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "a: it has no inference engine; b: unreachable (silent for 3 s); c: the disk is full"
        );
        assert_eq!(choose_hive(&[]).unwrap_err().to_string(), "no hive is registered");
    }
}

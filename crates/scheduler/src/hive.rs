//! Which hive takes a new worker.

use std::{fmt, time::Duration};

use fleet::{Capabilities, Device, DeviceKind, DeviceSelector, HiveId, HivePhase};
use model_memory::{Gib, Need};

use crate::{Resident, Speed, evict};

/// What a transfer is taken to bring in a second: a gigabit wire, or a hub on a good day. It is never free.
const TRANSFER_BYTES_S: f64 = 100e6;
const TRANSFER_LEAST_S: f64 = 1.0;

/// What an engine is taken to read from a disk in a second.
const LOAD_BYTES_S: f64 = 1e9;

/// A cold start is paid for by the requests that follow: so many of them, each of so many tokens, are taken to.
const REQUESTS: f64 = 4.0;
const PROMPT_TOKENS: f64 = 1000.0;
const OUTPUT_TOKENS: f64 = 200.0;

/// What another worker on the same machine is taken to cost: it shares memory and processor.
const NEIGHBOUR_S: f64 = 0.1;

/// What stopping somebody else's worker is taken to cost, as it may be asked for again.
const EVICTION_S: f64 = 10.0;

/// What it is taken to cost that a hive stands in another region than the queen, through which all answers go. A hive there is
/// worth it where it answers that much sooner.
const AWAY_S: f64 = 60.0;

/// Where a worker may go, and where it better goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Regions<'a> {
    /// Only there.
    pub only: Option<&'a str>,
    /// Where the queen stands.
    pub home: Option<&'a str>,
}

/// A registered hive.
#[derive(Debug, Clone)]
pub struct HiveCandidate<'a> {
    /// The hive.
    pub id: &'a HiveId,
    /// Where its machine stands, as its owner calls it.
    pub region: Option<&'a str>,
    /// What state it is in.
    pub phase: HivePhase,
    /// Why it is in that state, where that is known.
    pub reason: Option<&'a str>,
    /// What it reported of its machine.
    pub capabilities: Option<&'a Capabilities>,
    /// Whether the model's files are in its store.
    pub has_model: bool,
    /// Workers that run there now.
    pub residents: Vec<Resident<'a>>,
    /// Why it is out of the question for this model, if it was tried before.
    pub excluded: Option<&'a str>,
}

/// Where a worker goes, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct HiveChoice {
    /// The candidate's position.
    pub at: usize,
    /// Positions of its residents that must go first.
    pub evict: Vec<usize>,
    /// The device that has the room, or will have; none where the need is not known.
    pub device: Option<DeviceSelector>,
    /// Until the model is there, in seconds.
    pub transfer_s: f64,
    /// Until it is loaded.
    pub load_s: f64,
    /// What the first requests will take.
    pub serve_s: f64,
    /// What is lost elsewhere.
    pub others_s: f64,
    /// What its distance costs.
    pub away_s: f64,
}

impl HiveChoice {
    /// What decides.
    #[must_use]
    pub fn cost_s(&self) -> f64 {
        self.transfer_s + self.load_s + self.serve_s + self.others_s + self.away_s
    }
}

/// Why a hive cannot take the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It stands in another region than the worker has to.
    Region(Option<String>),
    /// It is not online; why not, where that is known.
    Phase(HivePhase, Option<String>),
    /// It has no engine.
    NoEngine,
    /// It was tried, and failed.
    Failed(String),
    /// It has not the memory.
    Memory {
        /// Free on its roomiest device, in bytes.
        free: u64,
        /// Held there by idle workers that could be stopped; not enough either.
        idle: u64,
    },
    /// It has not the disk space.
    Disk {
        /// Free there, in bytes.
        free: u64,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(None) => f.write_str("it stands in no region that has a name"),
            Self::Region(Some(region)) => write!(f, "it stands in region {region}"),
            Self::Phase(phase, None) => f.write_str(phase.as_str()),
            Self::Phase(phase, Some(reason)) => write!(f, "{} ({reason})", phase.as_str()),
            Self::NoEngine => f.write_str("it has no inference engine"),
            Self::Failed(reason) => f.write_str(reason),
            Self::Memory { free, idle: 0 } => write!(f, "{} of memory free", Gib(*free)),
            Self::Memory { free, idle } => {
                write!(f, "{} of memory free, and {} held by idle workers", Gib(*free), Gib(*idle))
            }
            Self::Disk { free } => write!(f, "{} of disk free", Gib(*free)),
        }
    }
}

/// No hive can take the worker: each one, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the worker needs, where that is known.
    pub need: Option<Need>,
    /// In the order of the candidates.
    pub obstacles: Vec<(HiveId, Obstacle)>,
}

impl Refusal {
    /// Whether memory is what a hive that could be used lacks.
    #[must_use]
    pub fn is_for_memory(&self) -> bool {
        self.obstacles.iter().any(|(_, obstacle)| matches!(obstacle, Obstacle::Memory { .. }))
    }

    /// Whether disk space is what a hive that could be used lacks, and none lacks memory.
    #[must_use]
    pub fn is_for_disk(&self) -> bool {
        let disk = self.obstacles.iter().any(|(_, obstacle)| matches!(obstacle, Obstacle::Disk { .. }));
        disk && !self.is_for_memory()
    }

    /// The largest model that would fit with the same context, in bytes of weights, and where.
    fn would_fit(&self) -> Option<(u64, &HiveId)> {
        let beside = self.need.map(|need| need.total() - need.weights)?;
        let room = self.obstacles.iter().filter_map(|(id, obstacle)| match obstacle {
            Obstacle::Memory { free, idle } => Some((free.saturating_add(*idle).saturating_sub(beside), id)),
            _ => None,
        });
        room.max_by_key(|(room, _)| *room).filter(|(room, _)| *room > 0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.obstacles.is_empty() {
            return f.write_str("no hive is registered");
        }
        if let Some(need) = self.need.filter(|_| self.is_for_memory()) {
            write!(f, "it needs {need}; ")?;
        }
        for (at, (id, obstacle)) in self.obstacles.iter().enumerate() {
            write!(f, "{}{id}: {obstacle}", if at == 0 { "" } else { "; " })?;
        }
        if let Some((weights, id)) = self.would_fit() {
            write!(f, "; a model of up to {} would fit on {id}", Gib(weights))?;
        }
        Ok(())
    }
}

/// Memory that a worker could get on a device now.
fn free(machine: &Capabilities, device: &Device) -> u64 {
    if device.kind == DeviceKind::Cpu { machine.ram_free } else { device.memory_free }
}

fn usable(machine: &Capabilities) -> impl Iterator<Item = &Device> {
    let driven = |device: &&Device| machine.engines.iter().any(|e| e.devices.contains(&device.kind));
    machine.devices.iter().filter(driven)
}

/// The devices that can hold the worker, each with those who must go for it.
fn rooms<'a>(
    machine: &'a Capabilities,
    residents: &[Resident<'_>],
    need: u64,
) -> Result<Vec<(&'a Device, Vec<usize>)>, Obstacle> {
    let room = |device: &'a Device| {
        let short = need.saturating_sub(free(machine, device));
        Some((device, evict(residents, device.selector(), short)?))
    };
    let rooms: Vec<_> = usable(machine).filter_map(room).collect();
    if !rooms.is_empty() {
        return Ok(rooms);
    }
    let roomiest = usable(machine).max_by_key(|device| free(machine, device));
    let (free, selector) = roomiest.map_or((0, None), |d| (free(machine, d), Some(d.selector())));
    let idle = residents.iter().filter(|r| Some(r.device) == selector && r.may_go()).map(|r| r.memory).sum();
    Err(Obstacle::Memory { free, idle })
}

/// How long a worker is taken to take until it is ready, of a model of so many bytes that is there or has to come.
#[must_use]
pub fn start_expected(bytes: u64, is_there: bool) -> Duration {
    Duration::try_from_secs_f64(transfer_s(bytes, is_there) + load_s(bytes)).unwrap_or(Duration::MAX)
}

fn transfer_s(bytes: u64, is_there: bool) -> f64 {
    if is_there { 0.0 } else { TRANSFER_LEAST_S + float(bytes) / TRANSFER_BYTES_S }
}

fn load_s(bytes: u64) -> f64 {
    float(bytes) / LOAD_BYTES_S
}

fn judge(
    at: usize,
    hive: &HiveCandidate<'_>,
    need: Option<&Need>,
    regions: Regions<'_>,
) -> Result<HiveChoice, Obstacle> {
    if regions.only.is_some() && hive.region != regions.only {
        return Err(Obstacle::Region(hive.region.map(str::to_owned)));
    }
    if let Some(reason) = hive.excluded {
        return Err(Obstacle::Failed(reason.to_owned()));
    }
    if hive.phase != HivePhase::Online {
        return Err(Obstacle::Phase(hive.phase, hive.reason.map(str::to_owned)));
    }
    let machine = hive.capabilities.filter(|c| !c.engines.is_empty()).ok_or(Obstacle::NoEngine)?;
    let bytes = need.map_or(0, |need| need.weights);
    if !hive.has_model && bytes > machine.disk_free {
        return Err(Obstacle::Disk { free: machine.disk_free });
    }
    let neighbours = |going: usize| float((hive.residents.len() - going) as u64) * NEIGHBOUR_S;
    let placed = HiveChoice {
        at,
        evict: Vec::new(),
        device: None,
        transfer_s: transfer_s(bytes, hive.has_model),
        load_s: load_s(bytes),
        serve_s: 0.0,
        others_s: neighbours(0),
        away_s: if regions.home.is_none() || hive.region == regions.home { 0.0 } else { AWAY_S },
    };
    let Some(need) = need else { return Ok(placed) };
    let on = |(device, evict): (&Device, Vec<usize>)| {
        let speed = Speed::guess(device.kind, &device.name, bytes);
        let request_s = PROMPT_TOKENS / speed.prefill_tok_s + OUTPUT_TOKENS / speed.decode_tok_s;
        let (serve_s, device) = (REQUESTS * request_s, Some(device.selector()));
        let others_s = neighbours(evict.len()) + float(evict.len() as u64) * EVICTION_S;
        HiveChoice { device, serve_s, others_s, evict, ..placed.clone() }
    };
    let choices = rooms(machine, &hive.residents, need.total())?.into_iter().map(on);
    choices.min_by(|a, b| a.cost_s().total_cmp(&b.cost_s())).ok_or(Obstacle::NoEngine)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate needs no more precision than a float has")]
const fn float(count: u64) -> f64 {
    count as f64
}

/// Memory that a worker could get on the hive's roomiest device.
fn memory(hive: &HiveCandidate<'_>) -> u64 {
    let machine = hive.capabilities;
    machine.map_or(0, |c| c.devices.iter().map(|d| free(c, d)).max().unwrap_or(0).max(c.ram_free))
}

/// The hive that should start a worker: where the first answers are expected soonest, counting the transfer of the model, its
/// loading, how fast the device is, how far away it is, and what it costs those who are there. Among equals the one with the most free memory.
///
/// # Errors
/// [`Refusal`] when none can.
pub fn choose_hive(
    need: Option<&Need>,
    regions: Regions<'_>,
    candidates: &[HiveCandidate<'_>],
) -> Result<HiveChoice, Refusal> {
    let judged: Vec<_> =
        candidates.iter().enumerate().map(|(at, hive)| judge(at, hive, need, regions)).collect();
    let able = judged.iter().filter_map(|judged| judged.as_ref().ok());
    let best = able.min_by(|a, b| {
        let (one, other) = (&candidates[a.at], &candidates[b.at]);
        let cost = a.cost_s().total_cmp(&b.cost_s());
        cost.then(memory(other).cmp(&memory(one))).then(one.id.cmp(other.id))
    });
    best.cloned().ok_or_else(|| {
        let named = candidates.iter().zip(judged);
        let obstacles = named.filter_map(|(hive, judged)| Some((hive.id.clone(), judged.err()?))).collect();
        Refusal { need: need.copied(), obstacles }
    })
}

#[cfg(test)]
mod tests;

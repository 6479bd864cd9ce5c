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
mod tests {
    use fleet::{Engine, WorkerId, WorkerStateName};
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn device(kind: DeviceKind, name: &str, memory: u64) -> Device {
        Device { kind, index: 0, name: name.to_owned(), memory_total: memory, memory_free: memory }
    }

    fn machine(gpu: Option<(&str, u64)>, ram_free: u64, engines: usize) -> Capabilities {
        let engine = Engine {
            name: "e".into(),
            version: None,
            devices: vec![DeviceKind::Cuda, DeviceKind::Cpu],
            running_usage: None,
            chat_prefill: None,
        };
        let gpu = gpu.map(|(name, memory)| device(DeviceKind::Cuda, name, memory));
        Capabilities {
            devices: gpu.into_iter().chain([device(DeviceKind::Cpu, "cpu", ram_free)]).collect(),
            ram_total: ram_free,
            ram_free,
            disk_free: 100 * GIB,
            store_id: "s".parse().unwrap(),
            engines: vec![engine; engines],
            notices: vec![],
        }
    }

    fn candidate<'a>(id: &'a HiveId, capabilities: &'a Capabilities) -> HiveCandidate<'a> {
        HiveCandidate {
            id,
            region: None,
            phase: HivePhase::Online,
            reason: None,
            capabilities: Some(capabilities),
            has_model: false,
            residents: Vec::new(),
            excluded: None,
        }
    }

    fn resident(worker_id: &WorkerId, kind: DeviceKind, memory: u64) -> Resident<'_> {
        Resident {
            worker_id,
            device: DeviceSelector { kind, index: 0 },
            memory,
            state: WorkerStateName::Ready,
            in_flight: 0,
            idle: Duration::from_secs(60),
            pinned: false,
        }
    }

    fn need(weights: u64) -> Need {
        Need { weights, contexts: GIB, working: 0, context: 8192, slots: 1 }
    }

    fn ids() -> Vec<HiveId> {
        ["a", "b", "c"].iter().map(|id| id.parse().unwrap()).collect()
    }

    fn chosen(need: Option<&Need>, hives: &[HiveCandidate<'_>]) -> usize {
        choose_hive(need, Regions::default(), hives).unwrap().at
    }

    #[test]
    fn between_equal_machines_the_model_counts_before_load_and_load_before_memory() {
        let (ids, worker) = (ids(), "w".parse().unwrap());
        let (small, large) = (machine(None, 1, 1), machine(None, 2, 1));
        let mut hives = [candidate(&ids[0], &small), candidate(&ids[1], &large), candidate(&ids[2], &small)];
        assert_eq!(chosen(None, &hives), 1, "the most memory");
        hives[1].residents = vec![resident(&worker, DeviceKind::Cpu, 0)];
        assert_eq!(chosen(None, &hives), 0, "the fewest workers");
        hives[1].has_model = true;
        assert_eq!(chosen(None, &hives), 1, "the model is there");
    }

    #[test]
    fn a_fast_machine_is_worth_a_transfer_and_a_slow_transfer_is_not_worth_a_little_speed() {
        let ids = ids();
        let (gpu, cpu) = (machine(Some(("RTX 5090", 32 * GIB)), 64 * GIB, 1), machine(None, 64 * GIB, 1));
        let mut hives = [candidate(&ids[0], &cpu), candidate(&ids[1], &gpu)];
        hives[0].has_model = true;
        assert_eq!(chosen(Some(&need(5 * GIB)), &hives), 1);
        let lesser = machine(Some(("RTX 4090", 24 * GIB)), 64 * GIB, 1);
        let mut hives = [candidate(&ids[0], &lesser), candidate(&ids[1], &gpu)];
        hives[0].has_model = true;
        assert_eq!(chosen(Some(&need(15 * GIB)), &hives), 0);
    }

    #[test]
    fn a_hive_without_the_room_is_passed_over_and_one_where_nobody_must_go_comes_first() {
        let (ids, worker) = (ids(), "w".parse().unwrap());
        let (full, slow) = (machine(Some(("RTX 5090", 2 * GIB)), GIB, 1), machine(None, 64 * GIB, 1));
        let mut hives = [candidate(&ids[0], &full), candidate(&ids[1], &slow)];
        assert_eq!(chosen(Some(&need(5 * GIB)), &hives), 1);
        hives[0].residents = vec![resident(&worker, DeviceKind::Cuda, 20 * GIB)];
        let only = choose_hive(Some(&need(5 * GIB)), Regions::default(), &hives[..1]).unwrap();
        assert_eq!((only.evict.as_slice(), only.device.unwrap().kind), (&[0][..], DeviceKind::Cuda));
        hives[0].residents[0].in_flight = 1;
        assert!(
            choose_hive(Some(&need(5 * GIB)), Regions::default(), &hives[..1]).is_err(),
            "one that serves stays"
        );
    }

    #[test]
    fn a_refusal_names_every_hive_with_its_reason() {
        let ids = ids();
        let (bare, full) = (machine(None, 1, 0), machine(None, 1, 1));
        let mut hives = [candidate(&ids[0], &bare), candidate(&ids[1], &full), candidate(&ids[2], &full)];
        hives[1].phase = HivePhase::Unreachable;
        hives[1].reason = Some("silent for 3 s");
        hives[2].excluded = Some("the disk is full");
        let refusal = choose_hive(None, Regions::default(), &hives).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "a: it has no inference engine; b: unreachable (silent for 3 s); c: the disk is full"
        );
        assert!(!refusal.is_for_memory());
        assert_eq!(
            choose_hive(None, Regions::default(), &[]).unwrap_err().to_string(),
            "no hive is registered"
        );
    }

    #[test]
    fn a_refusal_for_memory_shows_need_and_free_and_what_would_fit() {
        let (ids, worker) = (ids(), "w".parse().unwrap());
        let (small, large) = (machine(None, 8 * GIB, 1), machine(None, 16 * GIB, 1));
        let mut hives = [candidate(&ids[0], &small), candidate(&ids[1], &large)];
        hives[1].residents = vec![resident(&worker, DeviceKind::Cpu, 4 * GIB)];
        let refusal = choose_hive(Some(&need(40 * GIB)), Regions::default(), &hives).unwrap_err();
        assert!(refusal.is_for_memory());
        assert_eq!(
            refusal.to_string(),
            "it needs 41.0 GiB (40.0 GiB of weights, 1.0 GiB for 1 × 8192 tokens, 0 KiB to compute in); \
             a: 8.0 GiB of memory free; b: 16.0 GiB of memory free, and 4.0 GiB held by idle workers; \
             a model of up to 19.0 GiB would fit on b"
        );
    }

    #[test]
    fn a_worker_goes_to_its_region_and_rather_to_the_queens() {
        let (ids, slow, fast) =
            (ids(), machine(None, 64 * GIB, 1), machine(Some(("RTX 3090", 24 * GIB)), 64 * GIB, 1));
        let mut hives = [candidate(&ids[0], &slow), candidate(&ids[1], &slow), candidate(&ids[2], &fast)];
        hives[1].region = Some("attic");
        hives[2].region = Some("moon");
        let chosen = |regions, hives: &[HiveCandidate<'_>]| {
            choose_hive(Some(&need(8 * GIB)), regions, hives).map(|choice| choice.at)
        };
        let home = |home| Regions { home: Some(home), only: None };
        assert_eq!(chosen(home("attic"), &hives[..2]), Ok(1));
        assert_eq!(chosen(home("attic"), &hives), Ok(2), "what is so much sooner is worth the distance");
        hives[2].capabilities = Some(&slow);
        assert_eq!(chosen(home("attic"), &hives), Ok(1));
        hives[1].phase = HivePhase::Offline;
        assert!(chosen(home("attic"), &hives).is_ok(), "elsewhere is better than nowhere");
        let only = |only| Regions { only: Some(only), home: Some("attic") };
        assert_eq!(chosen(only("moon"), &hives), Ok(2));
        let refusal = choose_hive(None, only("attic"), &hives).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "a: it stands in no region that has a name; b: offline; c: it stands in region moon"
        );
    }

    proptest! {
        #[test]
        fn a_region_is_never_left_and_the_queens_own_is_preferred_among_equals(
            stands in prop::collection::vec(0usize..3, 1..4), only in prop::option::of(0usize..3), home in 0usize..3,
        ) {
            const NAMES: [&str; 3] = ["attic", "cellar", "moon"];
            let (ids, same) = (ids(), machine(None, 64 * GIB, 1));
            let hives: Vec<_> = stands.iter().zip(&ids).map(|(at, id)| {
                HiveCandidate { region: Some(NAMES[*at]), ..candidate(id, &same) }
            }).collect();
            let regions = Regions { only: only.map(|at| NAMES[at]), home: Some(NAMES[home]) };
            match choose_hive(Some(&need(GIB)), regions, &hives) {
                Ok(choice) => {
                    let at = stands[choice.at];
                    prop_assert!(only.is_none_or(|only| only == at));
                    prop_assert_eq!(at == home, stands.contains(&home) && only.is_none_or(|only| only == home));
                }
                Err(_) => prop_assert!(!stands.contains(&only.unwrap())),
            }
        }

        #[test]
        fn the_choice_fits_and_does_not_depend_on_the_order(
            machines in prop::collection::vec((0u64..40, 0u64..80, any::<bool>(), 0u64..30), 1..4),
            weights in 1u64..60,
        ) {
            let (ids, worker) = (ids(), "w".parse().unwrap());
            let made: Vec<_> =
                machines.iter().map(|(gpu, ram, ..)| machine(Some(("RTX 3090", gpu * GIB)), ram * GIB, 1)).collect();
            let mut hives: Vec<_> = made.iter().zip(&ids).zip(&machines).map(|((machine, id), (_, _, there, held))| {
                let residents = vec![resident(&worker, DeviceKind::Cuda, held * GIB)];
                HiveCandidate { has_model: *there, residents, ..candidate(id, machine) }
            }).collect();
            let need = need(weights * GIB);
            let one = choose_hive(Some(&need), Regions::default(), &hives).map(|choice| {
                let (hive, device) = (&hives[choice.at], choice.device.unwrap());
                let machine = hive.capabilities.unwrap();
                let there = machine.devices.iter().find(|d| d.selector() == device).unwrap();
                let made: u64 = choice.evict.iter().map(|at| hive.residents[*at].memory).sum();
                assert!(free(machine, there) + made >= need.total());
                hive.id.clone()
            });
            if let Err(refusal) = &one {
                prop_assert_eq!(refusal.obstacles.len(), hives.len());
            }
            hives.reverse();
            let other = choose_hive(Some(&need), Regions::default(), &hives).map(|choice| hives[choice.at].id.clone());
            prop_assert_eq!(one.ok(), other.ok());
        }
    }
}

//! The rules, property by property.

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
    assert_eq!(choose_hive(None, Regions::default(), &[]).unwrap_err().to_string(), "no hive is registered");
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

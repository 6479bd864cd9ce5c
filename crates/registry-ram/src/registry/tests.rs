use std::{
    pin::pin,
    task::{Context, Waker},
};

use fleet::{Hostname, StoreId, WorkerState};
use proptest::prelude::*;

use super::*;

fn endpoint(launch: &str) -> HiveEndpoint {
    HiveEndpoint {
        hive_id: "box".parse().unwrap(),
        launch_id: launch.parse().unwrap(),
        host: "127.0.0.1".parse::<Hostname>().unwrap(),
        port: 7835,
        token: "0123456789abcdef".parse().unwrap(),
        pin: None,
    }
}

fn worker(launch: &str, id: &str, rev: u64, state: WorkerState) -> WorkerRecord {
    WorkerRecord {
        worker_id: id.parse().unwrap(),
        launch_id: launch.parse().unwrap(),
        rev,
        model_ref: "a/b".parse().unwrap(),
        resolved: "a/b".parse().unwrap(),
        digest: None,
        engine: "fake".into(),
        device: "cpu".parse().unwrap(),
        context: 512,
        slots: 2,
        slots_busy: 0,
        prompt_tokens_total: 0,
        output_tokens_total: 0,
        memory_bytes: 0,
        pid: None,
        url: "http://127.0.0.1:7835/v1/workers/w/proxy".into(),
        state,
    }
}

fn snapshot(workers: Vec<WorkerRecord>) -> Report {
    let capabilities = Capabilities {
        devices: vec![],
        ram_total: 0,
        ram_free: 0,
        disk_free: 0,
        store_id: "s".parse::<StoreId>().unwrap(),
        engines: vec![],
        notices: vec![],
    };
    Report::Snapshot { capabilities: Box::new(capabilities), workers, models: vec![], downloads: vec![] }
}

fn online(launch: &str) -> (Arc<WorkerRegistry>, HiveWriter, LaunchId) {
    let registry = Arc::new(WorkerRegistry::default());
    let writer = registry.writer("box".parse().unwrap());
    writer.launched(endpoint(launch));
    writer.phase(HivePhase::Online, None);
    let launch: LaunchId = launch.parse().unwrap();
    let ready = worker(launch.as_str(), "w", 1, WorkerState::Ready);
    assert_eq!(writer.report(&launch, 1, snapshot(vec![ready])), Applied::Yes);
    (registry, writer, launch)
}

fn serving(registry: &WorkerRegistry) -> usize {
    registry.view().serving(&"a/b".parse().unwrap()).len()
}

#[test]
fn workers_of_a_hive_that_is_not_online_are_not_offered() {
    let (registry, writer, _) = online("l-1");
    assert_eq!(serving(&registry), 1);
    for phase in [HivePhase::Unreachable, HivePhase::Draining, HivePhase::Stopping] {
        writer.phase(phase, None);
        assert_eq!(serving(&registry), 0, "{phase:?}");
    }
    writer.phase(HivePhase::Online, None);
    assert_eq!(serving(&registry), 1, "a hive that is back is the same launch with the same workers");
}

#[test]
fn whoever_waits_for_a_lost_hive_is_told_and_a_hive_that_is_back_is_waited_for_again() {
    let (registry, writer, _) = online("l-1");
    let lost = |r: &WorkerRegistry| r.view().hives().next().unwrap().lost.clone();
    let first = lost(&registry);
    writer.phase(HivePhase::Unreachable, None);
    assert!(first.is_cancelled());
    writer.phase(HivePhase::Online, None);
    let second = lost(&registry);
    assert!(!second.is_cancelled());
    writer.launched(endpoint("l-2"));
    assert!(second.is_cancelled() && !lost(&registry).is_cancelled());
}

#[test]
fn a_new_launch_voids_the_workers_of_the_old_one() {
    let (registry, writer, old) = online("l-1");
    writer.launched(endpoint("l-2"));
    assert_eq!(serving(&registry), 0);
    let late = worker("l-1", "w", 2, WorkerState::Ready);
    assert_eq!(writer.report(&old, 2, Report::Worker(Box::new(late))), Applied::Foreign);
}

#[test]
fn a_report_that_names_another_launch_inside_is_refused() {
    let (registry, writer, launch) = online("l-1");
    let foreign = worker("l-9", "x", 2, WorkerState::Ready);
    assert_eq!(writer.report(&launch, 2, Report::Worker(Box::new(foreign))), Applied::Foreign);
    assert_eq!(registry.view().workers().count(), 1);
}

#[test]
fn a_disowned_worker_is_offered_again_only_when_it_is_reported_again() {
    let (registry, writer, launch) = online("l-1");
    let claimed = registry.view().serving(&"a/b".parse().unwrap())[0].clone();
    registry.disown(&claimed);
    assert_eq!(serving(&registry), 0);
    let again = worker("l-1", "w", 2, WorkerState::Ready);
    assert_eq!(writer.report(&launch, 2, Report::Worker(Box::new(again))), Applied::Yes);
    registry.disown(&claimed);
    assert_eq!(serving(&registry), 1, "what is disowned is the old claim, not the new report");
}

#[test]
fn a_missed_revision_is_a_gap_and_an_old_one_changes_nothing() {
    let (registry, writer, launch) = online("l-1");
    let late = Report::Worker(Box::new(worker("l-1", "w", 3, WorkerState::Draining)));
    assert_eq!(writer.report(&launch, 3, late.clone()), Applied::Gap);
    assert_eq!(writer.report(&launch, 1, late.clone()), Applied::Stale);
    assert_eq!(writer.report(&launch, 4, Report::Beat), Applied::Gap);
    assert_eq!(serving(&registry), 1);
    assert_eq!(writer.report(&launch, 2, late), Applied::Yes);
    assert_eq!(serving(&registry), 0);
}

#[test]
fn leases_survive_a_new_view_of_their_worker() {
    let (registry, writer, launch) = online("l-1");
    let before = registry.view().serving(&"a/b".parse().unwrap())[0].clone();
    let lease = before.lease().unwrap();
    let again = worker("l-1", "w", 2, WorkerState::Ready);
    assert_eq!(writer.report(&launch, 2, Report::Worker(Box::new(again))), Applied::Yes);
    let after = registry.view().serving(&"a/b".parse().unwrap())[0].clone();
    assert_eq!(after.in_flight(), 1);
    let mut released = pin!(registry.released());
    let mut is_over = || released.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!is_over());
    drop(lease);
    assert_eq!(after.in_flight(), 0);
    assert!(is_over());
}

proptest! {
    #[test]
    fn never_more_leases_than_slots_and_none_is_lost(takes in prop::collection::vec(any::<bool>(), 0..200)) {
        let (registry, _, _) = online("l-1");
        let worker = registry.view().serving(&"a/b".parse().unwrap())[0].clone();
        let mut held = Vec::new();
        for take in takes {
            if take {
                let lease = worker.lease();
                prop_assert_eq!(lease.is_some(), held.len() < 2);
                held.extend(lease);
            } else {
                held.pop();
            }
            prop_assert_eq!(worker.in_flight() as usize, held.len());
        }
    }

    #[test]
    fn the_view_is_what_the_revisions_in_order_say(revs in prop::collection::vec(1u64..8, 1..40)) {
        let (registry, writer, launch) = online("l-1");
        let mut known = 1;
        for rev in revs {
            let applied = writer.report(&launch, rev, Report::Worker(Box::new(worker("l-1", "w", rev, WorkerState::Ready))));
            let expected = match rev {
                r if r <= known => Applied::Stale,
                r if r == known + 1 => Applied::Yes,
                _ => Applied::Gap,
            };
            prop_assert_eq!(applied, expected);
            if applied == Applied::Yes { known = rev; }
            prop_assert_eq!(registry.view().workers().next().unwrap().record.rev, known);
        }
    }
}

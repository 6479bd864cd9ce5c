//! The suite of [`LaunchJournal`].

use std::sync::Arc;

use fleet::{LaunchFacts, LaunchId, LaunchJournal, LaunchStep, ProcessIdentity, StoreError, TlsFingerprint};

use super::samples::legal;

type Journal = Arc<dyn LaunchJournal>;

/// Checks a launch journal. `fresh` makes an empty one.
///
/// # Panics
/// With the claim that does not hold.
pub async fn launch_journal<S: LaunchJournal + 'static>(fresh: impl Fn() -> Arc<S>) {
    open_launches_are_listed_newest_first(fresh()).await;
    a_step_is_never_taken_back(fresh()).await;
    an_ended_launch_stays_ended(fresh()).await;
    a_launch_that_was_found_is_open_whatever_was_thought_of_it(fresh()).await;
    what_is_known_reads_back_exactly(fresh()).await;
    intending_twice_is_once_and_an_id_is_never_reused(fresh()).await;
    advancing_an_unknown_launch_is_an_error(fresh()).await;
    ended_launches_do_not_pile_up(fresh()).await;
}

fn process(pid: u32) -> ProcessIdentity {
    ProcessIdentity { pid, start_time: u64::MAX - 1, boot_id: "5f1c-boot".to_owned() }
}

fn facts(pid: u32) -> LaunchFacts {
    let tls_fingerprint = Some(TlsFingerprint::new([0xa5; 32]));
    LaunchFacts { process: Some(process(pid)), port: Some(u16::MAX), tls_fingerprint }
}

async fn open_ids(journal: &Journal, hive: &str) -> Vec<String> {
    let open = journal.open(&legal(hive)).await.expect("a list");
    open.into_iter().map(|launch| launch.launch_id.to_string()).collect()
}

async fn step(journal: &Journal, hive: &str) -> LaunchStep {
    journal.open(&legal(hive)).await.expect("a list").first().expect("an open launch").step
}

async fn open_launches_are_listed_newest_first(journal: Journal) {
    for (launch, hive) in [("l-9", "a"), ("l-1", "a"), ("l-5", "b"), ("l-3", "a")] {
        journal.intend(legal(launch), legal(hive)).await.expect("noted");
    }
    assert_eq!(open_ids(&journal, "a").await, ["l-3", "l-1", "l-9"]);
    journal.advance(&legal("l-1"), LaunchStep::Ended, LaunchFacts::default()).await.expect("noted");
    assert_eq!(open_ids(&journal, "a").await, ["l-3", "l-9"]);
    assert_eq!(open_ids(&journal, "b").await, ["l-5"]);
    assert!(open_ids(&journal, "c").await.is_empty());
}

async fn a_step_is_never_taken_back(journal: Journal) {
    let launch = legal("l");
    journal.intend(legal("l"), legal("a")).await.expect("noted");
    journal.advance(&launch, LaunchStep::Healthy, LaunchFacts::default()).await.expect("noted");
    journal.advance(&launch, LaunchStep::Spawned, process(7).into()).await.expect("answered");
    let open = journal.open(&legal("a")).await.expect("a list");
    assert_eq!(step(&journal, "a").await, LaunchStep::Healthy);
    assert_eq!(open[0].facts.process, Some(process(7)), "late news of an unknown process are kept");
    journal.advance(&launch, LaunchStep::Spawned, process(8).into()).await.expect("answered");
    let open = journal.open(&legal("a")).await.expect("a list");
    assert_eq!(open[0].facts.process, Some(process(7)), "late news do not replace a known process");
}

async fn an_ended_launch_stays_ended(journal: Journal) {
    let launch = legal("l");
    journal.intend(legal("l"), legal("a")).await.expect("noted");
    journal.advance(&launch, LaunchStep::Ended, LaunchFacts::default()).await.expect("noted");
    for step in [LaunchStep::Intended, LaunchStep::Spawned, LaunchStep::Healthy, LaunchStep::Ended] {
        journal.advance(&launch, step, process(1).into()).await.expect("answered");
        assert!(open_ids(&journal, "a").await.is_empty(), "{step:?}");
    }
}

async fn a_launch_that_was_found_is_open_whatever_was_thought_of_it(journal: Journal) {
    for (launch, ends) in [("intended", false), ("ended", true)] {
        journal.intend(legal(launch), legal("a")).await.expect("noted");
        if ends {
            journal.advance(&legal(launch), LaunchStep::Ended, LaunchFacts::default()).await.expect("noted");
        }
    }
    for (launch, pid) in [("ended", 1), ("intended", 2), ("unknown", 3)] {
        journal.found(legal(launch), legal("a"), facts(pid)).await.expect("noted");
        let open = journal.open(&legal("a")).await.expect("a list");
        let found = open.iter().find(|open| open.launch_id == legal(launch)).expect("it is open");
        assert_eq!((found.step, &found.facts), (LaunchStep::Healthy, &facts(pid)));
    }
    journal.found(legal("ended"), legal("b"), facts(4)).await.expect_err("the launch of another hive");
    assert_eq!(open_ids(&journal, "a").await, ["unknown", "ended", "intended"]);
    assert!(open_ids(&journal, "b").await.is_empty());
}

async fn what_is_known_reads_back_exactly(journal: Journal) {
    let launch = legal("l");
    journal.intend(legal("l"), legal("a")).await.expect("noted");
    assert_eq!(journal.open(&legal("a")).await.expect("a list")[0].facts, LaunchFacts::default());
    journal.advance(&launch, LaunchStep::Spawned, facts(u32::MAX)).await.expect("noted");
    journal.advance(&launch, LaunchStep::Healthy, LaunchFacts::default()).await.expect("noted");
    let open = journal.open(&legal("a")).await.expect("a list");
    assert_eq!(open[0].facts, facts(u32::MAX));
    assert_eq!((open[0].launch_id.as_str(), open[0].hive_id.as_str()), ("l", "a"));
}

async fn intending_twice_is_once_and_an_id_is_never_reused(journal: Journal) {
    journal.intend(legal("l"), legal("a")).await.expect("noted");
    journal.intend(legal("l"), legal("a")).await.expect("noted already");
    assert_eq!(open_ids(&journal, "a").await, ["l"]);
    journal.intend(legal("l"), legal("b")).await.expect_err("the launch of another hive");
    journal.advance(&legal("l"), LaunchStep::Spawned, LaunchFacts::default()).await.expect("noted");
    journal.intend(legal("l"), legal("a")).await.expect_err("a launch that got further");
    assert_eq!(step(&journal, "a").await, LaunchStep::Spawned);
    assert!(open_ids(&journal, "b").await.is_empty());
}

async fn advancing_an_unknown_launch_is_an_error(journal: Journal) {
    let error =
        journal.advance(&legal("l"), LaunchStep::Spawned, LaunchFacts::default()).await.expect_err("unknown");
    assert!(matches!(error, StoreError::NotFound { ref key, .. } if key == "l"), "{error}");
}

async fn ended_launches_do_not_pile_up(journal: Journal) {
    let id = |n: u32| -> LaunchId { legal(&format!("l-{n}")) };
    journal.intend(legal("open"), legal("a")).await.expect("noted");
    for n in 0..50 {
        journal.intend(id(n), legal("a")).await.expect("noted");
        journal.advance(&id(n), LaunchStep::Ended, LaunchFacts::default()).await.expect("noted");
    }
    let error =
        journal.advance(&id(0), LaunchStep::Ended, LaunchFacts::default()).await.expect_err("forgotten");
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    journal.advance(&id(49), LaunchStep::Ended, LaunchFacts::default()).await.expect("remembered");
    assert_eq!(open_ids(&journal, "a").await, ["open"], "an open launch is never forgotten");
}

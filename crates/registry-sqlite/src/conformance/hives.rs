//! The suite of [`HiveRegistry`].

use std::sync::Arc;

use fleet::{
    Desired, DesiredBy, HiveKind, HiveRecord, HiveRegistry, HiveSource, HiveSpec, HiveStatus, ObservedHive,
    Registration, StartPolicy, StoreError, Timestamp,
};

use super::samples::{attached, capabilities, legal, local, network};

type Registry = Arc<dyn HiveRegistry>;

/// Checks a hive registry. `fresh` makes an empty one.
///
/// # Panics
/// With the claim that does not hold.
pub async fn hive_registry<S: HiveRegistry + 'static>(fresh: impl Fn() -> Arc<S>) {
    what_was_registered_reads_back_the_same(fresh()).await;
    registering_again_changes_only_region_labels_start_and_token(fresh()).await;
    another_connection_under_a_known_id_is_a_conflict(fresh()).await;
    a_hive_that_is_started_on_demand_waits_for_demand(fresh()).await;
    hives_are_listed_by_id(fresh()).await;
    placement_never_undoes_what_a_person_decided(fresh()).await;
    an_observation_leaves_what_it_does_not_say(fresh()).await;
    a_removed_hive_is_gone(fresh()).await;
    a_hive_that_leaves_is_known_for_that_only(fresh()).await;
    what_the_configuration_has_no_more_leaves(fresh()).await;
    calls_about_an_unknown_hive_say_so(fresh()).await;
    the_configuration_replaces_its_own_rows_and_leaves_the_others(fresh()).await;
    an_entry_wins_for_the_connection_and_the_row_keeps_what_was_desired(fresh()).await;
    an_entry_takes_an_id_over_from_the_api(fresh()).await;
    another_machine_under_the_same_id_was_not_observed(fresh()).await;
    a_configured_hive_is_not_registered_over_the_api(fresh()).await;
    a_changed_start_policy_changes_who_is_in_charge(fresh()).await;
}

fn configured(spec: HiveSpec) -> HiveSpec {
    HiveSpec { source: HiveSource::Config, ..spec }
}

async fn row(hives: &Registry, id: &str) -> HiveRecord {
    hives.get(&legal(id)).await.expect("a readable row").expect("a row")
}

async fn ids(hives: &Registry) -> Vec<String> {
    let rows = hives.list().await.expect("a list");
    rows.into_iter().map(|row| row.expect("a readable row").spec.id.to_string()).collect()
}

async fn what_was_registered_reads_back_the_same(hives: Registry) {
    for spec in [local("a"), network("b"), attached("c")] {
        assert_eq!(hives.register(spec.clone()).await.expect("registered"), Registration::Created);
        let row = row(&hives, spec.id.as_str()).await;
        assert_eq!(row.spec, spec);
        assert_eq!((row.status, row.last_seen, row.capabilities), (HiveStatus::Offline, None, None));
    }
    assert_eq!(row(&hives, "a").await.desired, Desired::Running);
    assert_eq!(hives.get(&legal("nobody")).await.expect("readable"), None);
}

async fn registering_again_changes_only_region_labels_start_and_token(hives: Registry) {
    hives.register(network("a")).await.expect("registered");
    hives.set_desired(&legal("a"), Desired::Drained, DesiredBy::Person).await.expect("set");
    let seen =
        ObservedHive { status: HiveStatus::Online, last_seen: None, capabilities: Some(capabilities()) };
    hives.observe(&legal("a"), seen).await.expect("observed");
    let mut again = network("a");
    again.region = None;
    again.labels = vec!["quiet".to_owned()];
    again.start = StartPolicy::Always;
    assert_eq!(hives.register(again.clone()).await.expect("registered"), Registration::Unchanged);
    let row = row(&hives, "a").await;
    assert_eq!(row.spec, again);
    assert_eq!((row.desired, row.desired_by), (Desired::Drained, DesiredBy::Person));
    assert_eq!((row.status, row.capabilities), (HiveStatus::Online, Some(capabilities())));
    // A hive that was started by hand again has another token.
    hives.register(attached("b")).await.expect("registered");
    let token = Some(legal("another-0123456789abcdef"));
    let again = HiveSpec { kind: HiveKind::Attached { token, pin: None }, ..attached("b") };
    assert_eq!(hives.register(again.clone()).await.expect("registered"), Registration::Unchanged);
    assert_eq!(self::row(&hives, "b").await.spec, again);
}

async fn another_connection_under_a_known_id_is_a_conflict(hives: Registry) {
    hives.register(network("a")).await.expect("registered");
    let others = [
        HiveSpec { port: 8081, ..network("a") },
        HiveSpec { hostname: legal("192.168.1.101"), ..network("a") },
        HiveSpec { ssh: Default::default(), ..network("a") },
        local("a"),
        attached("a"),
    ];
    for other in others {
        let answer = hives.register(other).await.expect("an answer");
        assert_eq!(answer, Registration::Conflict { existing: Box::new(network("a")) });
    }
    assert_eq!(row(&hives, "a").await.spec, network("a"));
}

async fn a_hive_that_is_started_on_demand_waits_for_demand(hives: Registry) {
    hives.register(network("a")).await.expect("registered");
    let waiting = row(&hives, "a").await;
    assert_eq!((waiting.desired, waiting.desired_by), (Desired::Stopped, DesiredBy::Placement));
    let now = hives.set_desired(&legal("a"), Desired::Running, DesiredBy::Placement).await.expect("set");
    assert_eq!(now, (Desired::Running, DesiredBy::Placement));
}

async fn hives_are_listed_by_id(hives: Registry) {
    for id in ["b", "a", "B", "a-1", "a.1"] {
        hives.register(local(id)).await.expect("registered");
    }
    assert_eq!(ids(&hives).await, ["B", "a", "a-1", "a.1", "b"]);
}

async fn placement_never_undoes_what_a_person_decided(hives: Registry) {
    let id = legal("a");
    hives.register(network("a")).await.expect("registered");
    for desired in [Desired::Stopped, Desired::Drained, Desired::Paused, Desired::Running] {
        hives.set_desired(&id, desired, DesiredBy::Person).await.expect("set");
        for other in [Desired::Running, Desired::Stopped, Desired::Drained, Desired::Paused] {
            let now = hives.set_desired(&id, other, DesiredBy::Placement).await.expect("answered");
            assert_eq!(now, (desired, DesiredBy::Person), "placement wished {other:?}");
        }
        assert_eq!(row(&hives, "a").await.desired, desired);
    }
}

async fn an_observation_leaves_what_it_does_not_say(hives: Registry) {
    let id = legal("a");
    hives.register(local("a")).await.expect("registered");
    let first = ObservedHive {
        status: HiveStatus::Online,
        last_seen: Some(Timestamp::from_millis(1_760_000_000_123)),
        capabilities: Some(capabilities()),
    };
    hives.observe(&id, first.clone()).await.expect("observed");
    let silent = ObservedHive { status: HiveStatus::Error, last_seen: None, capabilities: None };
    hives.observe(&id, silent).await.expect("observed");
    let row = row(&hives, "a").await;
    assert_eq!(row.status, HiveStatus::Error);
    assert_eq!((row.last_seen, row.capabilities), (first.last_seen, first.capabilities));
    assert_eq!((row.spec, row.desired), (local("a"), Desired::Running));
}

async fn a_removed_hive_is_gone(hives: Registry) {
    hives.register(local("a")).await.expect("registered");
    assert!(hives.remove(&legal("a")).await.expect("removed"));
    assert!(!hives.remove(&legal("a")).await.expect("answered"));
    assert_eq!(hives.get(&legal("a")).await.expect("readable"), None);
    let again = HiveSpec { port: 1, ..local("a") };
    assert_eq!(hives.register(again).await.expect("registered"), Registration::Created);
}

async fn leaving(hives: &Registry) -> Vec<String> {
    let rows = hives.leaving().await.expect("a list");
    rows.into_iter().map(|row| row.expect("a readable row").spec.id.to_string()).collect()
}

async fn a_hive_that_leaves_is_known_for_that_only(hives: Registry) {
    let id = legal("a");
    assert!(!hives.leave(&id).await.expect("answered"), "nobody leaves");
    hives.register(network("a")).await.expect("registered");
    hives.register(local("b")).await.expect("registered");
    let seen =
        ObservedHive { status: HiveStatus::Online, last_seen: None, capabilities: Some(capabilities()) };
    hives.observe(&id, seen.clone()).await.expect("observed");
    assert!(hives.leave(&id).await.expect("noted"));
    assert!(!hives.leave(&id).await.expect("answered"), "it leaves already");
    assert_eq!((ids(&hives).await, leaving(&hives).await), (vec!["b".to_owned()], vec!["a".to_owned()]));
    assert_eq!(hives.get(&id).await.expect("readable"), None);
    hives.observe(&id, seen).await.expect_err("nobody to observe");
    hives.set_desired(&id, Desired::Running, DesiredBy::Person).await.expect_err("nobody to run");
    // Another hive of that name is another hive.
    let other = HiveSpec { port: 1, ..local("a") };
    assert_eq!(hives.register(other.clone()).await.expect("registered"), Registration::Created);
    let row = row(&hives, "a").await;
    assert_eq!((row.spec, row.capabilities, row.status), (other, None, HiveStatus::Offline));
    assert!(leaving(&hives).await.is_empty());
    hives.leave(&id).await.expect("noted");
    assert!(hives.remove(&id).await.expect("removed"));
    assert!(leaving(&hives).await.is_empty());
}

async fn what_the_configuration_has_no_more_leaves(hives: Registry) {
    let entries = || vec![configured(local("a")), configured(network("b"))];
    hives.sync_config(entries()).await.expect("synced");
    hives.sync_config(vec![configured(network("b"))]).await.expect("synced");
    assert_eq!(leaving(&hives).await, ["a"]);
    assert_eq!(hives.sync_config(vec![configured(network("b"))]).await.expect("synced"), [], "told once");
    hives.sync_config(entries()).await.expect("synced");
    assert_eq!((ids(&hives).await.len(), leaving(&hives).await.len()), (2, 0), "an entry that is back stays");
}

async fn calls_about_an_unknown_hive_say_so(hives: Registry) {
    let id = legal("a");
    let seen = ObservedHive { status: HiveStatus::Online, last_seen: None, capabilities: None };
    let errors = [
        hives.set_desired(&id, Desired::Running, DesiredBy::Person).await.map(|_| ()),
        hives.observe(&id, seen).await,
    ];
    for error in errors {
        assert!(matches!(error, Err(StoreError::NotFound { ref key, .. }) if key == "a"), "{error:?}");
    }
    assert!(ids(&hives).await.is_empty());
}

async fn the_configuration_replaces_its_own_rows_and_leaves_the_others(hives: Registry) {
    hives.register(local("api")).await.expect("registered");
    let first = vec![configured(local("a")), configured(network("b"))];
    assert_eq!(hives.sync_config(first).await.expect("synced"), []);
    assert_eq!(ids(&hives).await, ["a", "api", "b"]);
    let before = row(&hives, "a").await;
    let removed = hives.sync_config(vec![configured(network("b"))]).await.expect("synced");
    assert_eq!(removed, [before]);
    assert_eq!(ids(&hives).await, ["api", "b"]);
    hives.sync_config(vec![]).await.expect("synced");
    assert_eq!(ids(&hives).await, ["api"]);
}

async fn an_entry_wins_for_the_connection_and_the_row_keeps_what_was_desired(hives: Registry) {
    hives.sync_config(vec![configured(local("a"))]).await.expect("synced");
    hives.set_desired(&legal("a"), Desired::Stopped, DesiredBy::Person).await.expect("set");
    let changed = HiveSpec { port: 9000, region: Some("attic".to_owned()), ..configured(local("a")) };
    hives.sync_config(vec![changed.clone()]).await.expect("synced");
    let row = row(&hives, "a").await;
    assert_eq!(row.spec, changed);
    assert_eq!((row.desired, row.desired_by), (Desired::Stopped, DesiredBy::Person));
}

async fn an_entry_takes_an_id_over_from_the_api(hives: Registry) {
    hives.register(network("a")).await.expect("registered");
    hives.set_desired(&legal("a"), Desired::Drained, DesiredBy::Person).await.expect("set");
    hives.sync_config(vec![configured(local("a"))]).await.expect("synced");
    let taken = row(&hives, "a").await;
    assert_eq!((taken.spec, taken.desired), (configured(local("a")), Desired::Drained));
    hives.sync_config(vec![]).await.expect("synced");
    assert!(ids(&hives).await.is_empty(), "a row follows the file once it came from it");
}

async fn another_machine_under_the_same_id_was_not_observed(hives: Registry) {
    hives.sync_config(vec![configured(network("a"))]).await.expect("synced");
    let seen = ObservedHive {
        status: HiveStatus::Online,
        last_seen: Some(Timestamp::from_millis(5)),
        capabilities: Some(capabilities()),
    };
    hives.observe(&legal("a"), seen).await.expect("observed");
    let same = HiveSpec { port: 8081, ..configured(network("a")) };
    hives.sync_config(vec![same]).await.expect("synced");
    assert_eq!(row(&hives, "a").await.capabilities, Some(capabilities()));
    let other = HiveSpec { hostname: legal("192.168.1.101"), ..configured(network("a")) };
    hives.sync_config(vec![other]).await.expect("synced");
    let row = row(&hives, "a").await;
    assert_eq!((row.capabilities, row.last_seen, row.status), (None, None, HiveStatus::Offline));
}

async fn a_configured_hive_is_not_registered_over_the_api(hives: Registry) {
    hives.sync_config(vec![configured(local("a"))]).await.expect("synced");
    let answer = hives.register(local("a")).await.expect("an answer");
    assert_eq!(answer, Registration::Conflict { existing: Box::new(configured(local("a"))) });
}

async fn a_changed_start_policy_changes_who_is_in_charge(hives: Registry) {
    let with = |start| vec![HiveSpec { start, ..configured(local("a")) }];
    let decided = async || {
        let row = row(&hives, "a").await;
        (row.desired, row.desired_by)
    };
    hives.sync_config(with(StartPolicy::Always)).await.expect("synced");
    assert_eq!(decided().await, (Desired::Running, DesiredBy::Person));
    hives.sync_config(with(StartPolicy::OnDemand)).await.expect("synced");
    assert_eq!(decided().await, (Desired::Running, DesiredBy::Placement));
    hives.set_desired(&legal("a"), Desired::Stopped, DesiredBy::Placement).await.expect("set");
    hives.sync_config(with(StartPolicy::Always)).await.expect("synced");
    assert_eq!(decided().await, (Desired::Running, DesiredBy::Person));
    hives.set_desired(&legal("a"), Desired::Stopped, DesiredBy::Person).await.expect("set");
    hives.sync_config(with(StartPolicy::OnDemand)).await.expect("synced");
    assert_eq!(decided().await, (Desired::Stopped, DesiredBy::Person));
}

//! The rules against a simulated clock.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy(least: u32, most: u32) -> ModelPolicy {
    ModelPolicy { pinned: false, idle: 900 * SECOND, least, most }
}

fn hive(at: usize) -> HiveId {
    format!("box-{at}").parse().unwrap()
}

fn replica(at: usize, in_flight: u32, idle_s: u64) -> Replica {
    Replica {
        hive_id: hive(at),
        worker_id: format!("w-{at}").parse().unwrap(),
        ready: true,
        within_reach: true,
        slots: 4,
        in_flight,
        idle: (in_flight == 0).then_some(Duration::from_secs(idle_s)),
    }
}

/// One model and a clock that goes on by a second with each look.
struct Model {
    upkeep: Upkeep,
    policy: ModelPolicy,
    now: Duration,
}

impl Model {
    fn new(policy: ModelPolicy) -> Self {
        Self { upkeep: Upkeep::default(), policy, now: Duration::ZERO }
    }

    fn look(&mut self, seen: &ModelSeen) -> Vec<UpkeepStep> {
        self.now += SECOND;
        self.upkeep.look(&self.policy, &UpkeepTimes::default(), seen, self.now)
    }

    /// The seconds until something is to be done, and what.
    fn until(&mut self, seen: &ModelSeen, most: u32) -> Option<(u32, Vec<UpkeepStep>)> {
        (1..=most).find_map(|second| Some((second, self.look(seen))).filter(|(_, steps)| !steps.is_empty()))
    }
}

fn seen(replicas: Vec<Replica>) -> ModelSeen {
    ModelSeen { replicas, ..ModelSeen::default() }
}

#[test]
fn a_pinned_model_is_started_unasked_and_another_one_is_not() {
    let pinned = ModelPolicy { pinned: true, ..policy(0, 8) };
    let missing = UpkeepStep::Start(StartReason::Missing { present: 0, wanted: 1 });
    assert_eq!(Model::new(pinned).look(&seen(vec![])), [missing]);
    assert_eq!(Model::new(policy(0, 8)).until(&seen(vec![]), 100), None);
    let starting = ModelSeen { starting: true, ..ModelSeen::default() };
    assert_eq!(Model::new(pinned).until(&starting, 100), None, "once is enough");
}

#[test]
fn a_start_that_fails_is_tried_again_later_and_later() {
    let mut model = Model::new(policy(1, 8));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let (second, _) = model.until(&seen(vec![]), 1000).unwrap();
        pauses.push(second);
        model.upkeep.failed(&UpkeepTimes::default(), model.now);
    }
    assert_eq!(pauses, [1, 5, 10, 20, 40, 80, 160, 300, 300]);
    model.upkeep.started();
    assert!(model.until(&seen(vec![]), 1).is_some());
}

#[test]
fn an_idle_worker_goes_but_for_those_that_the_owner_wants() {
    let idle = seen(vec![replica(0, 0, 900), replica(1, 0, 950), replica(2, 1, 0)]);
    let stops = |policy| {
        let steps = Model::new(policy).look(&idle);
        let stopped = steps.into_iter().map(|step| match step {
            UpkeepStep::Stop(replica, StopReason::Idle(_)) => replica.worker_id.to_string(),
            other => panic!("{other:?}"),
        });
        stopped.collect::<Vec<_>>()
    };
    assert_eq!(stops(policy(0, 8)), ["w-1", "w-0"]);
    assert_eq!(stops(policy(2, 8)), ["w-1"]);
    assert_eq!(stops(policy(3, 8)), Vec::<String>::new());
    assert_eq!(stops(ModelPolicy { idle: Duration::ZERO, ..policy(0, 8) }), Vec::<String>::new());
}

#[test]
fn a_queue_that_lasts_is_worth_another_worker_and_a_burst_is_not() {
    let busy = ModelSeen { waiting: 3, ..seen(vec![replica(0, 4, 0)]) };
    let mut model = Model::new(policy(0, 8));
    for _ in 0..20 {
        assert_eq!(model.until(&busy, 9), None);
        assert_eq!(model.until(&seen(vec![replica(0, 4, 0)]), 1), None);
    }
    let queue = StartReason::Queue { waiting: 3, lasting: 10 * SECOND, expected: None, takes: None };
    assert_eq!(model.until(&busy, 20), Some((11, vec![UpkeepStep::Start(queue)])));
    let coming = Replica { ready: false, ..replica(1, 0, 0) };
    let more = ModelSeen { waiting: 9, ..seen(vec![replica(0, 4, 0), coming]) };
    assert_eq!(model.until(&more, 100), None, "the one that comes is waited for");
    assert_eq!(Model::new(policy(0, 1)).until(&busy, 100), None, "its owner wants no second one");
}

#[test]
fn a_worker_that_those_who_wait_may_not_go_to_is_none_for_them() {
    let idle = Replica { within_reach: false, ..replica(1, 0, 20) };
    let out_of_reach = ModelSeen { waiting: 3, ..seen(vec![replica(0, 4, 0), idle.clone()]) };
    assert_eq!(Model::new(policy(0, 8)).until(&out_of_reach, 20).map(|(second, _)| second), Some(11));
    let within_reach = ModelSeen { waiting: 3, ..seen(vec![replica(0, 4, 0), replica(1, 0, 20)]) };
    assert_eq!(Model::new(policy(0, 8)).until(&within_reach, 20), None);
    let none = ModelSeen { waiting: 3, ..seen(vec![idle]) };
    assert_eq!(Model::new(policy(0, 8)).until(&none, 20), None, "whoever waits starts one");
}

#[test]
fn a_queue_is_weighed_against_the_start() {
    let busy = |expected: Option<u32>, takes: Option<u32>| ModelSeen {
        waiting: 3,
        expected: expected.map(|seconds| seconds * SECOND),
        takes: takes.map(|seconds| seconds * SECOND),
        ..seen(vec![replica(0, 4, 0)])
    };
    let after = |expected, takes| {
        Model::new(policy(0, 8)).until(&busy(expected, takes), 1000).map(|(second, _)| second)
    };
    assert_eq!(after(Some(60), Some(20)), Some(2), "the new worker still finds somebody waiting");
    assert_eq!(after(Some(5), Some(20)), Some(21), "it would come too late for those who wait now");
    assert_eq!(after(None, Some(120)), Some(121));
    assert_eq!(after(Some(5), Some(6)), Some(11), "a burst is not worth one however quick it is");
    assert_eq!(after(Some(60), None), Some(11));
    let reason = Model::new(policy(0, 8)).until(&busy(Some(60), Some(20)), 3).unwrap().1.remove(0);
    let UpkeepStep::Start(reason) = reason else { panic!("{reason:?}") };
    assert_eq!(
        reason.to_string(),
        "3 requests wait, and some have for 1.0 s, the last one for another 60.0 s; a start takes 20.0 s"
    );
    // What took long to come is not sent away sooner than it would take to come back.
    let both = ModelSeen { takes: Some(900 * SECOND), ..seen(vec![replica(0, 1, 0), replica(1, 0, 20)]) };
    assert_eq!(Model::new(policy(0, 8)).until(&both, 2000).map(|(second, _)| second), Some(901));
}

#[test]
fn without_need_a_replica_goes_long_after_it_came() {
    let both = seen(vec![replica(0, 1, 0), replica(1, 0, 20)]);
    let mut model = Model::new(policy(0, 8));
    let slack = UpkeepStep::Stop(replica(1, 0, 20), StopReason::Slack(300 * SECOND));
    assert_eq!(model.until(&both, 1000), Some((301, vec![slack])));
    let loaded = seen(vec![replica(0, 3, 0), replica(1, 0, 20)]);
    assert_eq!(Model::new(policy(0, 8)).until(&loaded, 1000), None, "three of four slots are not half");
    assert_eq!(Model::new(policy(2, 8)).until(&both, 1000), None);
}

#[test]
fn a_lost_hive_has_a_minute_before_its_workers_are_missed() {
    let pinned = ModelPolicy { pinned: true, ..policy(0, 8) };
    let lost = ModelSeen { away: BTreeSet::from([hive(0)]), ..ModelSeen::default() };
    let mut model = Model::new(pinned);
    assert_eq!(model.until(&seen(vec![replica(0, 0, 1)]), 100), None);
    let missing = UpkeepStep::Start(StartReason::Missing { present: 0, wanted: 1 });
    assert_eq!(model.until(&lost, 1000), Some((60, vec![missing.clone()])));
    // One whose hive answers and denies it is missed at once, as is one that its owner sent away.
    let mut model = Model::new(pinned);
    model.look(&seen(vec![replica(0, 0, 1)]));
    assert_eq!(model.look(&seen(vec![])), [missing]);
    // A replica that a queue led to is placed elsewhere as well.
    let mut model = Model::new(policy(0, 8));
    model.look(&seen(vec![replica(0, 1, 0), replica(1, 1, 0)]));
    let half = ModelSeen { away: BTreeSet::from([hive(0)]), ..seen(vec![replica(1, 1, 0)]) };
    let missing = UpkeepStep::Start(StartReason::Missing { present: 1, wanted: 2 });
    assert_eq!(model.until(&half, 1000), Some((60, vec![missing])));
    // The only worker of a model that nobody insists on is started by whoever asks.
    let mut model = Model::new(policy(0, 8));
    model.look(&seen(vec![replica(0, 1, 0)]));
    assert_eq!(model.until(&lost, 1000), None);
}

#[derive(Debug, Clone)]
struct Moment {
    waiting: u32,
    expected: Option<u64>,
    takes: Option<u64>,
    in_flight: Vec<u32>,
    idle: u64,
    away: bool,
    fails: bool,
    seconds: u64,
}

fn moment() -> impl Strategy<Value = Moment> {
    let figures =
        (0u32..4, prop::collection::vec(0u32..5, 6), 0u64..1200, any::<bool>(), any::<bool>(), 1u64..90);
    let weights = (prop::option::of(0u64..200), prop::option::of(0u64..200));
    (figures, weights).prop_map(|((waiting, in_flight, idle, away, fails, seconds), (expected, takes))| {
        Moment { waiting, expected, takes, in_flight, idle, away, fails, seconds }
    })
}

proptest! {
    #[test]
    fn the_owners_bounds_hold_and_nobody_at_work_is_stopped(
        moments in prop::collection::vec(moment(), 1..120),
        least in 0u32..3,
        more in 0u32..4,
        pinned in any::<bool>(),
    ) {
        let policy = ModelPolicy { pinned, ..policy(least, (least + more).max(1)) };
        let times = UpkeepTimes::default();
        let mut upkeep = Upkeep::default();
        let mut now = Duration::ZERO;
        let (mut alive, mut grown): (BTreeSet<usize>, Option<Duration>) = (BTreeSet::new(), None);
        for moment in moments {
            now += Duration::from_secs(moment.seconds);
            let away: BTreeSet<_> = alive.iter().copied().filter(|at| moment.away && at % 2 == 0).collect();
            let here: Vec<_> = alive.difference(&away).copied().collect();
            let seen = ModelSeen {
                replicas: here.iter().map(|at| replica(*at, moment.in_flight[at % 6], moment.idle)).collect(),
                away: away.iter().map(|at| hive(*at)).collect(),
                waiting: moment.waiting,
                expected: moment.expected.map(Duration::from_secs),
                takes: moment.takes.map(Duration::from_secs),
                starting: false,
            };
            let steps = upkeep.look(&policy, &times, &seen, now);
            let starts = steps.iter().filter(|step| matches!(step, UpkeepStep::Start(_))).count();
            prop_assert!(starts <= 1 && (starts == 0 || steps.len() == 1), "{steps:?}");
            prop_assert!(steps.len() - starts <= here.len().saturating_sub(policy.floor() as usize), "{steps:?}");
            for step in steps {
                match step {
                    UpkeepStep::Stop(replica, reason) => {
                        prop_assert_eq!(replica.in_flight, 0);
                        if let StopReason::Slack(lasting) = reason {
                            prop_assert!(lasting >= times.slack);
                            prop_assert!(grown.is_none_or(|at| now - at >= times.slack), "it flaps");
                        }
                        alive.retain(|at| replica.hive_id != hive(*at));
                    }
                    UpkeepStep::Start(reason) => {
                        prop_assert!((here.len() as u32) < policy.most);
                        if let StartReason::Queue { lasting, expected, takes, .. } = reason {
                            prop_assert!(moment.waiting > 0);
                            let has_lasted = lasting >= times.pressed.max(takes.unwrap_or_default());
                            let outlasts = expected.zip(takes).is_some_and(|(e, t)| e > t);
                            prop_assert!(has_lasted || outlasts, "{reason}");
                            // Whatever it was worth, all that there is was at work.
                            prop_assert!(here.iter().all(|at| moment.in_flight[at % 6] >= 4));
                        }
                        if moment.fails {
                            upkeep.failed(&times, now);
                        } else {
                            upkeep.started();
                            grown = matches!(reason, StartReason::Queue { .. }).then_some(now).or(grown);
                            let free = (0..).find(|at| !alive.contains(at)).unwrap_or_default();
                            alive.insert(free);
                        }
                    }
                }
            }
        }
    }
}

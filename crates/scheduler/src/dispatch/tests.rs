//! The rules, one by one.

use proptest::prelude::*;

use super::*;

mod order;

const FAST: Speed = Speed { prefill_tok_s: 4000.0, decode_tok_s: 100.0 };
const SLOW: Speed = Speed { prefill_tok_s: 400.0, decode_tok_s: 10.0 };

fn key(name: &str) -> Arc<WorkerKey> {
    let id = name.parse().unwrap();
    Arc::new(WorkerKey { hive_id: id, launch_id: "l".parse().unwrap(), worker_id: name.parse().unwrap() })
}

fn offer(name: &str, slots: u32, guess: Speed) -> Offer {
    Offer {
        worker: key(name),
        slots,
        memory_tokens: 100_000,
        handled: 0,
        region: None,
        round_trip: Duration::from_millis(1),
        guess,
    }
}

fn prompt(text: u8, length: usize) -> PrefixChain {
    PrefixChain::of(&vec![text; length], b"")
}

fn request(prompt: PrefixChain) -> Request {
    Request { prompt, max_tokens: Some(100), ..Request::default() }
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Where one request goes now, if it goes anywhere.
fn goes(dispatch: &mut Dispatch, request: Request, now: f64) -> Option<(Ticket, String)> {
    let ticket = dispatch.enter(request, at(now));
    let (assigned, _) = dispatch.assign(at(now));
    let own = assigned.into_iter().find(|assigned| assigned.ticket == ticket)?;
    Some((ticket, own.worker.worker_id.to_string()))
}

fn answered(dispatch: &mut Dispatch, ticket: Ticket, first: f64, end: f64, tokens: u64) {
    dispatch.first_token(ticket, at(first));
    let how = Finished { prompt_tokens: None, output_tokens: Some(tokens), how: Outcome::Complete };
    dispatch.finish(ticket, how, at(end));
}

#[test]
fn the_least_expected_time_wins_and_says_what_it_is_made_of() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("slow", 8, SLOW), offer("fast", 1, FAST)]);
    dispatch.enter(request(prompt(1, 4000)), at(0.0));
    let (assigned, _) = dispatch.assign(at(0.0));
    let Decision { expected, others, compared, .. } = &*assigned[0].decision;
    assert_eq!((assigned[0].worker.worker_id.as_str(), *compared), ("fast", 2));
    assert!((expected.prefill_s - 0.25).abs() < 1e-6 && expected.wait_s == 0.0, "{expected:?}");
    assert!((expected.round_trip_s - 0.001).abs() < 1e-9 && expected.decode_s > 0.0, "{expected:?}");
    assert_eq!(others[0].worker.worker_id.as_str(), "slow");
    assert!((others[0].expected.prefill_s - 2.5).abs() < 1e-6, "{others:?}");
}

#[test]
fn a_busy_fast_worker_is_waited_for_until_the_slow_one_would_be_sooner() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("slow", 1, SLOW), offer("fast", 1, FAST)]);
    let sent: Vec<_> = (0..20)
        .map(|_| goes(&mut dispatch, request(prompt(1, 400)), 0.0).map(|(_, worker)| worker))
        .collect();
    assert_eq!(sent[0].as_deref(), Some("fast"));
    assert_eq!(sent[1], None, "a second behind the first is sooner than ten seconds on the slow one");
    // Somewhere in the line waiting takes longer than the slow worker does; that request overtakes nobody's slot.
    assert_eq!(dispatch.running(&key("slow")), 1);
    assert_eq!(dispatch.ahead(Ticket(1)), Some(0));
}

#[test]
fn somebody_who_waits_for_a_worker_that_stays_busy_goes_elsewhere() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("slow", 1, SLOW), offer("fast", 1, FAST)]);
    let long = Request { max_tokens: None, ..request(prompt(1, 400)) };
    assert!(goes(&mut dispatch, long, 0.0).is_some());
    assert!(goes(&mut dispatch, request(prompt(1, 400)), 0.0).is_none());
    let mut now = at(0.0);
    let found = loop {
        let (assigned, again) = dispatch.assign(now);
        match (assigned.first(), again) {
            (Some(assigned), _) => break assigned.worker.worker_id.to_string(),
            (None, Some(again)) if again < at(3600.0) => now = again,
            (None, _) => panic!("nobody is sent, and nothing more happens at {now:?}"),
        }
    };
    assert_eq!(found, "slow");
}

#[test]
fn a_burst_does_not_read_one_snapshot() {
    let mut dispatch = Dispatch::default();
    dispatch.workers(["a", "b", "c", "d"].map(|name| offer(name, 4, FAST)));
    for text in 0..8 {
        dispatch.enter(request(prompt(text, 4000)), at(0.0));
    }
    let (assigned, _) = dispatch.assign(at(0.0));
    assert_eq!(assigned.len(), 8);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(dispatch.running(&key(name)), 2, "{name}");
    }
}

#[test]
fn equals_share_a_burst_by_their_slots() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([("a", 2), ("b", 4), ("c", 8)].map(|(name, slots)| offer(name, slots, FAST)));
    for _ in 0..7 {
        dispatch.enter(request(PrefixChain::default()), at(0.0));
    }
    assert_eq!(dispatch.assign(at(0.0)).0.len(), 7);
    let running = ["a", "b", "c"].map(|name| dispatch.running(&key(name)));
    assert_eq!(running, [1, 2, 4]);
}

#[test]
fn a_conversation_stays_with_its_worker_unless_the_wait_costs_more_than_reading_anew() {
    for (length, stays) in [(200_000, true), (600, false)] {
        let mut dispatch = Dispatch::default();
        dispatch.workers([offer("a", 1, FAST), offer("b", 1, FAST)]);
        let (ticket, mine) = goes(&mut dispatch, request(prompt(1, length)), 0.0).unwrap();
        let read = f64::from(u32::try_from(length).unwrap()) / 16_000.0;
        answered(&mut dispatch, ticket, read, read + 1.0, 100);
        // Somebody else's long answer begins there, so that my worker is busy for a second.
        let other = if mine == "a" { "b" } else { "a" };
        let busy = Request { tried: vec![key(other)], ..request(PrefixChain::default()) };
        assert!(goes(&mut dispatch, busy, 20.0).is_some());
        let next = goes(&mut dispatch, request(prompt(1, length)), 20.0).map(|(_, worker)| worker);
        assert_eq!(next, (!stays).then(|| other.to_owned()), "{length} bytes");
    }
}

#[test]
fn a_stream_beside_draws_nobody_away_from_what_is_remembered_unless_others_wait_too() {
    for crowded in [false, true] {
        let mut dispatch = Dispatch::default();
        let short = || request(PrefixChain::default());
        dispatch.workers([offer("a", 8, FAST)]);
        // Two streams at once are half as fast as one, and its twin does the same.
        let both = [0, 1].map(|_| goes(&mut dispatch, short(), 0.0).unwrap().0);
        both.iter().for_each(|ticket| dispatch.first_token(*ticket, at(0.0)));
        both.iter().for_each(|ticket| answered(&mut dispatch, *ticket, 0.0, 2.0, 100));
        let one = goes(&mut dispatch, short(), 3.0).unwrap().0;
        answered(&mut dispatch, one, 3.0, 4.0, 100);
        let (asked, _) = goes(&mut dispatch, request(prompt(9, 2048)), 5.0).unwrap();
        answered(&mut dispatch, asked, 5.13, 6.13, 100);
        let (beside, _) = goes(&mut dispatch, short(), 7.0).unwrap();
        dispatch.first_token(beside, at(7.0));
        dispatch.workers(["a", "b"].map(|name| offer(name, 8, FAST)));
        if crowded {
            dispatch.enter(Request { priority: Priority::Low, ..short() }, at(8.0));
        }
        let (_, worker) = goes(&mut dispatch, request(prompt(9, 2600)), 8.0).unwrap();
        assert_eq!(worker, if crowded { "b" } else { "a" });
    }
}

#[test]
fn a_restarted_worker_remembers_nothing() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("a", 2, FAST)]);
    let cached = |dispatch: &mut Dispatch, now: f64| {
        dispatch.enter(request(prompt(1, 40_000)), at(now));
        let (assigned, _) = dispatch.assign(at(now));
        dispatch.finish(assigned[0].ticket, Finished::default(), at(now + 1.0));
        assigned[0].decision.expected.cached_tokens
    };
    assert!(cached(&mut dispatch, 0.0) < 1.0);
    assert!(cached(&mut dispatch, 10.0) > 8000.0);
    let mut restarted = offer("a", 2, FAST);
    let launch_id = "other".parse().unwrap();
    restarted.worker = Arc::new(WorkerKey { launch_id, ..WorkerKey::clone(&restarted.worker) });
    dispatch.workers([restarted]);
    assert!(cached(&mut dispatch, 20.0) < 1.0);
    assert!(dispatch.prefixes.len() < 200);
}

#[test]
fn what_a_worker_was_sent_since_pushes_older_prompts_out_of_its_memory() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("a", 1, FAST)]);
    let mut cached = |text: u8, now: f64| {
        dispatch.enter(request(prompt(text, 200_000)), at(now));
        let (assigned, _) = dispatch.assign(at(now));
        dispatch.finish(assigned[0].ticket, Finished::default(), at(now + 1.0));
        assigned[0].decision.expected.cached_tokens
    };
    cached(1, 0.0);
    assert!(cached(1, 10.0) > 40_000.0);
    // 50,000 tokens each, of which the last 100,000 are kept.
    (2..5).for_each(|text| assert!(cached(text, f64::from(text) * 10.0) < 1.0));
    assert!(cached(1, 60.0) < 1.0);
}

#[test]
fn a_suspect_comes_after_all_free_ones_and_before_a_long_wait() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("suspect", 4, FAST), offer("slow", 1, SLOW)]);
    let (ticket, _) = goes(&mut dispatch, request(prompt(1, 400)), 0.0).unwrap();
    dispatch.finish(ticket, Finished { how: Outcome::Failed, ..Finished::default() }, at(0.0));
    let long = Request { max_tokens: Some(4000), ..request(prompt(1, 400)) };
    assert_eq!(goes(&mut dispatch, long.clone(), 0.0).unwrap().1, "slow");
    assert_eq!(goes(&mut dispatch, long, 0.0).unwrap().1, "suspect");
}

#[test]
fn a_required_region_is_kept_and_the_way_there_counts() {
    let mut dispatch = Dispatch::default();
    let round_trip = Duration::from_millis(400);
    let away = Offer { region: Some("away".into()), round_trip, ..offer("away", 4, FAST) };
    let home = Offer { region: Some("home".into()), ..offer("home", 4, FAST) };
    dispatch.workers([away, home]);
    let from = |region: Option<&str>| Request { region: region.map(Into::into), ..request(prompt(1, 400)) };
    assert_eq!(goes(&mut dispatch, from(None), 0.0).unwrap().1, "home");
    assert_eq!(goes(&mut dispatch, from(Some("away")), 0.0).unwrap().1, "away");
    assert!(goes(&mut dispatch, from(Some("elsewhere")), 0.0).is_none());
}

#[test]
fn what_is_measured_moves_requests_to_the_worker_that_is_faster_in_truth() {
    let mut dispatch = Dispatch::default();
    let faster = Speed { prefill_tok_s: 5000.0, decode_tok_s: 125.0 };
    dispatch.workers([offer("praised", 1, faster), offer("good", 1, FAST)]);
    for turn in 0..3 {
        let now = f64::from(turn) * 100.0;
        let (ticket, worker) = goes(&mut dispatch, request(PrefixChain::default()), now).unwrap();
        if worker == "good" {
            return;
        }
        answered(&mut dispatch, ticket, now + 2.0, now + 42.0, 100);
    }
    panic!("it was never given up");
}

#[test]
fn a_worker_that_has_no_slot_after_all_is_full_until_it_is_reported_again() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("a", 2, FAST)]);
    let (ticket, _) = goes(&mut dispatch, request(prompt(1, 400)), 0.0).unwrap();
    let (second, _) = goes(&mut dispatch, request(prompt(1, 400)), 0.0).unwrap();
    dispatch.refused(second);
    assert_eq!((dispatch.waiting(), dispatch.running(&key("a")), dispatch.ahead(second)), (1, 1, Some(0)));
    assert!(dispatch.assign(at(1.0)).0.is_empty());
    dispatch.workers([offer("a", 2, FAST)]);
    assert_eq!(dispatch.assign(at(1.0)).0[0].ticket, second);
    dispatch.finish(ticket, Finished::default(), at(2.0));
    assert_eq!(dispatch.running(&key("a")), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Enter { text: u8, length: usize, again: bool },
    First(usize),
    Finish(usize),
    Withdraw(usize),
    Fail(usize, bool),
    Workers(Vec<u32>),
    Pass,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..4, 0usize..30_000, any::<bool>()).prop_map(|(text, length, again)| Step::Enter { text, length, again }),
        2 => (0usize..8).prop_map(Step::First),
        3 => (0usize..8).prop_map(Step::Finish),
        1 => (0usize..8).prop_map(Step::Withdraw),
        1 => (0usize..8, any::<bool>()).prop_map(|(which, silent)| Step::Fail(which, silent)),
        1 => prop::collection::vec(0u32..4, 0..4).prop_map(Step::Workers),
        1 => Just(Step::Pass),
    ];
    prop::collection::vec(step, 1..80)
}

fn offers(workers: &[u32]) -> Vec<Offer> {
    let offer = |(name, slots): (&str, &u32)| offer(name, *slots, if name < "c" { FAST } else { SLOW });
    ["a", "b", "c", "d"].into_iter().zip(workers).map(offer).collect()
}

proptest! {
    #[test]
    fn slots_are_never_overcommitted_nobody_is_lost_and_the_order_of_workers_is_nothing(steps in steps()) {
        let mut dispatch = Dispatch::default();
        let mut mirror = Dispatch::default();
        let mut sent: Vec<Assigned> = Vec::new();
        let (mut entered, mut gone, mut now) = (0, 0, 0.0);
        let mut workers = Vec::new();
        for step in steps {
            now += 0.3;
            match step {
                Step::Enter { text, length, again } => {
                    entered += 1;
                    for one in [&mut dispatch, &mut mirror] {
                        let request = request(prompt(text, length));
                        if again { one.enter_again(request, at(now)) } else { one.enter(request, at(now)) };
                    }
                }
                Step::First(which) if which < sent.len() => {
                    dispatch.first_token(sent[which].ticket, at(now));
                    mirror.first_token(sent[which].ticket, at(now));
                }
                Step::Finish(which) if which < sent.len() => {
                    let ticket = sent.remove(which).ticket;
                    gone += 1;
                    answered(&mut dispatch, ticket, now, now + 0.1, 50);
                    answered(&mut mirror, ticket, now, now + 0.1, 50);
                }
                Step::Fail(which, silent) if which < sent.len() => {
                    let ticket = sent.remove(which).ticket;
                    gone += 1;
                    let how = if silent { Outcome::Silent } else { Outcome::Failed };
                    for one in [&mut dispatch, &mut mirror] {
                        one.finish(ticket, Finished { how, ..Finished::default() }, at(now));
                    }
                }
                Step::Withdraw(which) => {
                    let ticket = dispatch.waiting.get(which).map(|waiting| waiting.ticket);
                    if let Some(ticket) = ticket {
                        gone += 1;
                        prop_assert!(dispatch.withdraw(ticket) && mirror.withdraw(ticket));
                    }
                }
                Step::Workers(now_there) => {
                    workers = offers(&now_there);
                    dispatch.workers(workers.clone());
                    mirror.workers(workers.iter().rev().cloned());
                    let there = |sent: &Assigned| workers.iter().any(|offer| offer.worker == sent.worker);
                    gone += sent.iter().filter(|sent| !there(sent)).count();
                    sent.retain(there);
                }
                _ => {}
            }
            let (assigned, _) = dispatch.assign(at(now));
            // What is kept from one plan to the next must be what would be found anew.
            mirror.lanes.clear();
            let (mirrored, _) = mirror.assign(at(now));
            let told = |all: &[Assigned]| {
                let of = |one: &Assigned| (one.ticket, one.worker.clone(), one.decision.expected);
                all.iter().map(of).collect::<Vec<_>>()
            };
            prop_assert_eq!(told(&assigned), told(&mirrored));
            sent.extend(assigned);
            prop_assert_eq!(dispatch.waiting() + sent.len() + gone, entered);
            for offer in &workers {
                let running = dispatch.running(&offer.worker);
                let known = sent.iter().filter(|sent| sent.worker == offer.worker).count();
                prop_assert_eq!(running, known);
                // A worker may lose slots while they are taken; it is given no more then.
                let grew = sent.last().is_some_and(|last| last.worker == offer.worker);
                prop_assert!(running <= offer.slots as usize || !grew || running <= known);
            }
        }
    }
}

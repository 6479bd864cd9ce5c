//! Who is served first, who is probed, and what is learned of answers in one piece.

use super::*;

fn asks(caller: u64, priority: Priority) -> Request {
    Request { caller, priority, ..request(PrefixChain::default()) }
}

/// One worker of one slot, which is taken.
fn busy() -> (Dispatch, Ticket) {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("a", 1, FAST)]);
    let (ticket, _) = goes(&mut dispatch, asks(0, Priority::Normal), 0.0).unwrap();
    (dispatch, ticket)
}

/// The order in which those who wait are served, by what they are called.
fn served<T: Copy>(dispatch: &mut Dispatch, mut running: Ticket, names: &[(Ticket, T)]) -> Vec<T> {
    let mut order = Vec::new();
    for now in 1..=names.len() {
        let now = at(now as f64);
        dispatch.finish(running, Finished::default(), now);
        running = dispatch.assign(now).0[0].ticket;
        order.extend(names.iter().find(|(ticket, _)| *ticket == running).map(|(_, name)| *name));
    }
    order
}

#[test]
fn callers_take_turns_however_much_one_of_them_asks() {
    let (mut dispatch, running) = busy();
    let all = [1, 1, 1, 1, 2, 3, 2];
    let names: Vec<_> = all
        .iter()
        .map(|caller| (dispatch.enter(asks(*caller, Priority::Normal), at(0.5)), *caller))
        .collect();
    assert_eq!(served(&mut dispatch, running, &names), [1, 2, 3, 1, 2, 1, 1]);
}

#[test]
fn a_caller_that_comes_anew_does_not_make_up_for_what_it_did_not_ask() {
    let (mut dispatch, mut running) = busy();
    for _ in 0..20 {
        dispatch.enter(asks(1, Priority::Normal), at(0.5));
    }
    for now in 1..=10 {
        dispatch.finish(running, Finished::default(), at(f64::from(now)));
        running = dispatch.assign(at(f64::from(now))).0[0].ticket;
    }
    let names: Vec<_> = (0..3).map(|_| (dispatch.enter(asks(2, Priority::Normal), at(11.0)), 2)).collect();
    let ahead: Vec<_> = names.iter().map(|(ticket, _)| dispatch.ahead(*ticket).unwrap()).collect();
    assert_eq!(ahead, [1, 3, 5], "every other turn from now on");
}

#[test]
fn higher_classes_come_first_and_whoever_was_sent_before_comes_before_all() {
    let (mut dispatch, running) = busy();
    let mut names: Vec<_> = [Priority::Low, Priority::Normal, Priority::High, Priority::Low]
        .into_iter()
        .map(|class| (dispatch.enter(asks(1, class), at(0.5)), Some(class)))
        .collect();
    assert_eq!(dispatch.last(), Some(names[3].0));
    names.push((dispatch.enter_again(asks(1, Priority::Low), at(0.6)), None));
    let (high, normal, low) = (Some(Priority::High), Some(Priority::Normal), Some(Priority::Low));
    assert_eq!(served(&mut dispatch, running, &names), [None, high, normal, low, low]);
}

#[test]
fn a_worker_that_failed_often_is_probed_by_one_request_though_another_is_better() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("good", 8, FAST), offer("bad", 8, SLOW)]);
    let only_bad = Request { tried: vec![key("good")], ..asks(0, Priority::Normal) };
    for now in 0..5 {
        let (ticket, worker) = goes(&mut dispatch, only_bad.clone(), f64::from(now)).unwrap();
        assert_eq!(worker, "bad");
        dispatch.finish(ticket, Finished { how: Outcome::Failed, ..Finished::default() }, at(f64::from(now)));
    }
    let waits = dispatch.enter_again(only_bad, at(4.1));
    for now in [4.1, 6.0] {
        assert!(dispatch.assign(at(now)).0.is_empty(), "it is given nothing, and is no probe");
        assert_eq!(dispatch.hopeless(at(now)), [waits]);
    }
    assert!(dispatch.withdraw(waits));
    assert_eq!(goes(&mut dispatch, asks(0, Priority::Normal), 4.1).unwrap().1, "good");
    let (probe, probed) = goes(&mut dispatch, asks(0, Priority::Normal), 6.0).unwrap();
    let (_, other) = goes(&mut dispatch, asks(0, Priority::Normal), 6.0).unwrap();
    assert_eq!((probed.as_str(), other.as_str()), ("bad", "good"));
    answered(&mut dispatch, probe, 6.1, 7.0, 50);
    let slow = Request { tried: vec![key("good")], ..asks(0, Priority::Normal) };
    assert_eq!(goes(&mut dispatch, slow, 7.0).unwrap().1, "bad");
}

#[test]
fn whoever_waits_for_the_only_worker_is_told_when_it_may_be_probed() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("a", 4, FAST)]);
    for _ in 0..5 {
        let (ticket, _) = goes(&mut dispatch, asks(0, Priority::Normal), 0.0).unwrap();
        dispatch.finish(ticket, Finished { how: Outcome::Failed, ..Finished::default() }, at(0.0));
    }
    let waits = dispatch.enter(asks(0, Priority::Normal), at(0.0));
    let (assigned, again) = dispatch.assign(at(0.0));
    assert!(assigned.is_empty());
    assert_eq!(dispatch.assign(again.unwrap()).0[0].ticket, waits);
}

#[test]
fn the_only_worker_is_tried_again_soon_though_it_fell_silent() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("a", 4, FAST)]);
    let silent = Finished { how: Outcome::Silent, ..Finished::default() };
    let (ticket, _) = goes(&mut dispatch, asks(0, Priority::Normal), 0.0).unwrap();
    dispatch.finish(ticket, silent, at(0.0));
    assert!(dispatch.all_failing(at(0.1)).is_some_and(|pause| pause < Duration::from_secs(2)));
    let waits = dispatch.enter(asks(0, Priority::Normal), at(0.1));
    let (assigned, again) = dispatch.assign(at(0.1));
    assert!(assigned.is_empty() && again.is_some_and(|at| at < Duration::from_secs(2)), "{again:?}");
    assert_eq!(dispatch.assign(again.unwrap()).0[0].ticket, waits);
    // Beside a sound one it is left alone.
    dispatch.workers([offer("a", 4, FAST), offer("b", 4, SLOW)]);
    dispatch.finish(waits, silent, at(2.0));
    for now in [2.0, 10.0, 30.0] {
        assert_eq!(goes(&mut dispatch, asks(0, Priority::Normal), now).unwrap().1, "b");
    }
}

#[test]
fn the_expected_wait_is_what_those_before_take() {
    let mut dispatch = Dispatch::default();
    dispatch.workers([offer("a", 1, FAST)]);
    let mut now = 0.0;
    for _ in 0..8 {
        let (ticket, _) = goes(&mut dispatch, asks(0, Priority::Normal), now).unwrap();
        answered(&mut dispatch, ticket, now + 0.1, now + 1.1, 100);
        now += 2.0;
    }
    assert!(goes(&mut dispatch, asks(0, Priority::Normal), now).is_some());
    let waits: Vec<_> = (0..10).map(|_| dispatch.enter(asks(0, Priority::Normal), at(now))).collect();
    let expected = dispatch.expected_wait(waits[9], at(now)).unwrap().as_secs_f64();
    assert!((8.0..13.0).contains(&expected), "ten of a second each: {expected}");
    assert!(Dispatch::default().expected_wait(waits[0], at(now)).is_none());
}

#[test]
fn an_answer_in_one_piece_tells_how_fast_its_worker_writes() {
    let mut dispatch = Dispatch::default();
    let praised = Speed { prefill_tok_s: 40_000.0, decode_tok_s: 1000.0 };
    dispatch.workers([offer("praised", 1, praised), offer("good", 1, FAST)]);
    for turn in 0..3 {
        let now = f64::from(turn) * 100.0;
        let (ticket, worker) = goes(&mut dispatch, asks(0, Priority::Normal), now).unwrap();
        if worker == "good" {
            return;
        }
        dispatch.answered(ticket);
        let how = Finished { prompt_tokens: Some(20), output_tokens: Some(100), how: Outcome::Complete };
        dispatch.finish(ticket, how, at(now + 50.0));
    }
    panic!("it was never given up");
}

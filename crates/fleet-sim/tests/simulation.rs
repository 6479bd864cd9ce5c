//! What the figures rest on: runs repeat, nobody is lost, no run beats the bound.

use fleet_sim::{
    Expected, Machine, Trace, agent, batch, bursts, chat, everyone, home, lower_bound, night, rack, simulate,
    two_regions,
};

fn cases() -> Vec<(Trace, Vec<Machine>)> {
    vec![
        (chat("chat", 20, 2.5, 1), home()),
        (agent(6, 6, 2), home()),
        (batch("batch", 80, 3), rack()),
        (bursts(3, 20, 4), rack()),
        (chat("two regions", 30, 2.0, 5).bound_to("home"), two_regions()),
        (night(6), home()),
    ]
}

#[test]
fn every_request_is_answered_by_every_policy_and_none_beats_the_bound() {
    for (trace, machines) in cases() {
        let bound = lower_bound(&trace, &machines);
        for mut policy in everyone(&machines) {
            let outcome = simulate(&trace, &machines, &mut *policy);
            let what = format!("{} under {}", trace.name, policy.name());
            assert!(outcome.makespan_s.is_finite(), "{what}: somebody was left waiting");
            assert_eq!(outcome.sent.iter().sum::<usize>(), trace.requests.len(), "{what}");
            assert!(outcome.makespan_s >= bound, "{what}: {} beats {bound}", outcome.makespan_s);
            assert!(outcome.first_token_s.iter().all(|seconds| *seconds > 0.0), "{what}");
        }
    }
}

#[test]
fn the_same_run_gives_the_same_figures() {
    for (trace, machines) in cases() {
        let [one, other] = [(); 2].map(|()| simulate(&trace, &machines, &mut Expected::new(&machines)));
        assert_eq!((one.first_token_s, one.sent), (other.first_token_s, other.sent), "{}", trace.name);
    }
}

#[test]
fn requests_that_are_bound_to_a_region_stay_there() {
    let mut trace = chat("regions", 20, 1.0, 5).bound_to("home");
    trace.requests.iter_mut().for_each(|asked| asked.region = Some("home"));
    let machines = two_regions();
    for mut policy in everyone(&machines) {
        let outcome = simulate(&trace, &machines, &mut *policy);
        for (machine, sent) in machines.iter().zip(&outcome.sent) {
            assert!(
                machine.region == "home" || *sent == 0,
                "{} got {sent} by {}",
                machine.name,
                policy.name()
            );
        }
    }
}

//! Prints how the scheduler fares: `fleet-sim fleet` against other policies on simulated machines, `fleet-sim choose` how
//! long one choice takes. Nothing is asserted; what should be stands beside.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command line tool")]

mod choose;

use std::process::ExitCode;

use fleet_sim::{
    Expected, Machine, Trace, agent, batch, bursts, chat, everyone, home, lower_bound, night, rack,
    saturation, simulate, two_regions,
};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("fleet") => fleet(),
        Some("choose") => choose::run(),
        _ => {
            eprintln!("usage: fleet-sim fleet | choose");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

fn fleet() {
    let cases = [
        (chat("chat", 120, 2.5, 1), home(), "home"),
        (agent(24, 14, 2), home(), "home"),
        (batch("batch", 800, 3), home(), "home"),
        (bursts(12, 30, 4), home(), "home"),
        (chat("two regions", 160, 2.0, 5).bound_to("home"), two_regions(), "two regions"),
        (night(6), home(), "home"),
        (chat("chat", 160, 2.0, 1), rack(), "rack"),
        (agent(24, 14, 2), rack(), "rack"),
        (batch("batch", 800, 3), rack(), "rack"),
        (bursts(12, 40, 4), rack(), "rack"),
        (night(6), rack(), "rack"),
    ];
    println!(
        "to the end of all, in s and as a multiple of a time that no schedule can beat (should be ≤ 1.10);"
    );
    println!("to the first token, in s (p95 should be ahead of all)");
    let mut behind = 0;
    for (trace, machines, fleet) in &cases {
        behind += usize::from(!compare(trace, machines, fleet));
    }
    println!();
    println!("first in p95 of the first token: {} of {}", cases.len() - behind, cases.len());
    println!();
    println!(
        "tokens written per second while there is more to do than can be done (should be ≥ 97 % of the sum)"
    );
    for (machines, fleet) in [(home(), "home"), (rack(), "rack"), (two_regions(), "two regions")] {
        saturated(&machines, fleet);
    }
}

/// Prints a table; says whether the scheduler's p95 is the least.
fn compare(trace: &Trace, machines: &[Machine], fleet: &str) -> bool {
    let bound = lower_bound(trace, machines);
    let named: Vec<_> = machines.iter().map(|machine| machine.name).collect();
    println!();
    println!("{} on {fleet} ({}): {} requests", trace.name, named.join(", "), trace.requests.len());
    println!("  {:<20} {:>9} {:>7}   {:>8} {:>8} {:>8}   sent to each", "", "all", "×", "p50", "p95", "p99");
    println!("  {:<20} {bound:>9.1} {:>7.3}", "no schedule beats", 1.0);
    let mut p95 = Vec::new();
    for mut policy in everyone(machines) {
        let outcome = simulate(trace, machines, &mut *policy);
        let [half, most, nearly_all] = [0.5, 0.95, 0.99].map(|part| outcome.first_token(part));
        println!(
            "  {:<20} {:>9.1} {:>7.3}   {half:>8.3} {most:>8.3} {nearly_all:>8.3}   {:?}",
            policy.name(),
            outcome.makespan_s,
            outcome.makespan_s / bound,
            outcome.sent
        );
        p95.push(most);
    }
    p95[1..].iter().all(|other| p95[0] <= *other)
}

fn saturated(machines: &[Machine], fleet: &str) {
    let trace = saturation(9);
    let together = simulate(&trace, machines, &mut Expected::new(machines)).saturated_tok_s;
    let alone = |machine: &Machine| {
        let machine = [machine.clone()];
        simulate(&trace, &machine, &mut Expected::new(&machine)).saturated_tok_s
    };
    let sum: f64 = machines.iter().map(alone).sum();
    println!("  {fleet:<20} {together:>9.1} of {sum:.1}: {:.1} %", 100.0 * together / sum);
}

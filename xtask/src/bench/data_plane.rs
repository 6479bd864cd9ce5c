//! The way through the queen beside other ways: none at all, the least that a proxy can do, and nginx and haproxy where they are
//! installed.
//!
//! The router has the last core for itself, worker and load share the first. Every figure is taken in turns, way after way
//! and round after round, and the medians of the rounds are shown: a slow moment of the machine hits all alike.

mod ways;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use self::ways::{Load, Way, Worker};
use crate::{
    programs::{self, Profile},
    stop::Stop,
    workspace,
};

/// What the load generator saw. Times are microseconds.
#[derive(Debug, Clone, Default, Deserialize)]
struct Seen {
    requests: u64,
    errors: u64,
    last_error: Option<String>,
    per_second: f64,
    p50: f64,
    p99: f64,
    gap_p99: f64,
    /// What the router used of its core for one request; none where there is no router.
    #[serde(skip)]
    cpu: f64,
    /// What it had more in memory at the end than at the beginning, in KiB.
    #[serde(skip)]
    grown: f64,
}

/// One measurement: how is asked, with what workers behind.
struct Turn {
    title: &'static str,
    load: Load,
    workers: u32,
    tokens: u32,
    gap_ms: u32,
    columns: &'static [Column],
}

/// A figure, how it is read, and what should come of it for the queen, as a ratio to the minimal proxy or as it is.
struct Column {
    name: &'static str,
    of: fn(&Seen) -> f64,
    /// Whether what it costs directly is subtracted first.
    added: bool,
    should_be: &'static str,
}

const TURNS: &[Turn] = &[
    Turn {
        title: "whole answers, 32 connections, bodies of 1.1 KB",
        load: Load { kind: "closed", connections: 32, body: 1100, for_ms: 3000, warm_up_ms: 500 },
        workers: 16,
        tokens: 1,
        gap_ms: 20,
        columns: &[
            Column { name: "req/s", of: |s| s.per_second, added: false, should_be: "≥ 0.9 ×" },
            Column { name: "p99 µs", of: |s| s.p99, added: false, should_be: "" },
            Column { name: "CPU µs", of: |s| s.cpu, added: false, should_be: "≤ 1.15 ×" },
        ],
    },
    Turn {
        title: "whole answers, 32 connections, bodies of 32 KiB",
        load: Load { kind: "closed", connections: 32, body: 32 << 10, for_ms: 3000, warm_up_ms: 500 },
        workers: 16,
        tokens: 1,
        gap_ms: 20,
        columns: &[
            Column { name: "req/s", of: |s| s.per_second, added: false, should_be: "≥ 0.9 ×" },
            Column { name: "CPU µs", of: |s| s.cpu, added: false, should_be: "" },
        ],
    },
    Turn {
        title: "500 requests a second",
        load: Load { kind: "open", connections: 32, body: 1100, for_ms: 4000, warm_up_ms: 500 },
        workers: 16,
        tokens: 1,
        gap_ms: 20,
        columns: &[
            Column { name: "p50 µs", of: |s| s.p50, added: false, should_be: "" },
            Column { name: "added", of: |s| s.p50, added: true, should_be: "≤ 1.1 ×" },
        ],
    },
    Turn {
        title: "1,000 streams of 50 tokens, one every 20 ms",
        load: Load { kind: "streams", connections: 1000, body: 1100, for_ms: 4000, warm_up_ms: 2000 },
        workers: 250,
        tokens: 50,
        gap_ms: 20,
        columns: &[
            Column { name: "first µs", of: |s| s.p50, added: false, should_be: "" },
            Column { name: "added", of: |s| s.p50, added: true, should_be: "≤ 1.2 ×" },
            Column { name: "p99 added", of: |s| s.p99, added: true, should_be: "≤ 1.5 ×" },
            Column { name: "gap p99", of: |s| s.gap_p99, added: false, should_be: "= direct" },
        ],
    },
    Turn {
        title: "5,000 streams of 20 tokens, one every 200 ms",
        load: Load { kind: "streams", connections: 5000, body: 1100, for_ms: 4500, warm_up_ms: 4500 },
        workers: 1250,
        tokens: 20,
        gap_ms: 200,
        columns: &[
            Column { name: "first µs", of: |s| s.p50, added: false, should_be: "" },
            Column { name: "KiB each", of: |s| s.grown / 5000.0, added: false, should_be: "≤ 30" },
            #[expect(clippy::cast_precision_loss, reason = "there are not 2^52 errors")]
            Column { name: "errors", of: |s| s.errors as f64, added: false, should_be: "0" },
        ],
    },
];

/// Measures and prints.
pub(super) async fn run(rounds: usize, stop: &Stop) -> anyhow::Result<()> {
    programs::build(Profile::Release, &["queen-rbee", "rbee-hive", "data-plane-bench"], stop).await?;
    ensure!(
        workspace::on_path("taskset").is_some(),
        "this gives each program a core and needs `taskset` (package util-linux)"
    );
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ensure!(cores > 1, "router and load need a core each, and this machine has one");
    for turn in TURNS {
        let table = stop.unless(measure(turn, rounds, cores - 1)).await?;
        print(turn, &table);
    }
    Ok(())
}

/// All ways of one turn with the medians of their figures.
async fn measure(turn: &Turn, rounds: usize, core: usize) -> anyhow::Result<Vec<(Way, Vec<f64>)>> {
    let ways = Way::all();
    let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, seen) in ways.iter().zip(&mut seen) {
            let worker = Worker::start(turn.workers, turn.tokens, turn.gap_ms).await?;
            let mut router = way.start(&worker, core).await.with_context(|| way.name().to_owned())?;
            let one = router.under(&turn.load).await.with_context(|| way.name().to_owned())?;
            router.end().await?;
            if let Some(error) = &one.last_error {
                eprintln!(
                    "   {}: {} of {} requests failed, the last with: {error}",
                    way.name(),
                    one.errors,
                    one.requests
                );
            }
            seen.push(one);
        }
    }
    let direct = seen.first().cloned().unwrap_or_default();
    let figures = |seen: &[Seen]| {
        let column = |column: &Column| {
            let own = median(seen, column.of);
            if column.added { own - median(&direct, column.of) } else { own }
        };
        turn.columns.iter().map(column).collect()
    };
    let figures: Vec<_> = seen.iter().map(|seen| figures(seen)).collect();
    Ok(ways.into_iter().zip(figures).collect())
}

fn median(seen: &[Seen], of: fn(&Seen) -> f64) -> f64 {
    let mut values: Vec<_> = seen.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(turn: &Turn, table: &[(Way, Vec<f64>)]) {
    println!("\n  {}", turn.title);
    let names: String = turn.columns.iter().map(|column| format!("{:>18}", column.name)).collect();
    println!("  {:<20}{names}", "");
    let of = |way: Way| table.iter().find(|(found, _)| *found == way).map(|(_, figures)| figures);
    let proxy = of(Way::Proxy);
    for (way, figures) in table {
        let cells: String = figures
            .iter()
            .enumerate()
            .map(|(at, figure)| {
                let ours = matches!(way, Way::Queen | Way::Hive);
                let ratio = proxy.and_then(|proxy| proxy.get(at)).filter(|_| ours);
                let ratio = ratio.map_or(String::new(), |proxy| format!("({:.2} ×)", figure / proxy));
                format!("{figure:>9.1} {ratio:<8}")
            })
            .collect();
        println!("  {:<20}{cells}", way.name());
    }
    let targets: String = turn.columns.iter().map(|column| format!("{:>18}", column.should_be)).collect();
    println!("  {:<20}{targets}", "the queen should be");
}

/// How long a program may take until it listens.
const START: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        let seen = [3.0, 1.0, 2.0].map(|p50| Seen { p50, ..Seen::default() });
        assert!((median(&seen, |s| s.p50) - 2.0).abs() < f64::EPSILON);
    }
}

//! Running scenarios: several at a time, each on a fleet of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, stream};

use super::{
    Options, check,
    check::Verdict,
    fleet::{Cluster, Plan},
    junit,
    options::fits,
    report::{Outcome, print_table},
    scenario::{Hives, Scenario},
    scenarios,
};
use crate::{
    programs::{self, Profile},
    stop::{Stop, Stopped},
    workspace,
};

/// How long one scenario may take before it has failed.
const BOUND: Duration = Duration::from_secs(180);

/// How many scenarios passed and failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

/// Runs what the options ask for. A failed scenario is no error here.
pub(crate) async fn run(options: &Options, stop: &Stop) -> anyhow::Result<Summary> {
    let chosen = chosen(options)?;
    if options.list {
        for scenario in &chosen {
            println!("  {:<38} {}", scenario.name, scenario.claim);
        }
        return Ok(Summary::default());
    }
    build(options, stop).await?;
    let folder = workspace::target().join("test-cluster").join(std::process::id().to_string());
    let began = Instant::now();
    let outcomes = stop.unless(outcomes(options, &chosen, &folder, began)).await;
    // Whoever was interrupted in the middle of a scenario left its processes to this.
    let left = check::sweep(&folder).await;
    let outcomes = outcomes?;
    print_table(&outcomes, began.elapsed());
    if let Some(file) = &options.junit {
        fs::write(file, junit::document(&outcomes))
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    ensure!(left.is_empty(), "{}", left.join("\n"));
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    if passed == outcomes.len() && !options.keep {
        let _ = fs::remove_dir_all(&folder);
    }
    Ok(Summary { passed, failed: outcomes.len() - passed })
}

fn chosen(options: &Options) -> anyhow::Result<Vec<Scenario>> {
    let real = options.real_hives > 0 || options.list;
    let chosen: Vec<_> = scenarios::all()
        .into_iter()
        .filter(|scenario| fits(&options.scenario, scenario.name))
        .filter(|scenario| real || scenario.hives != Hives::Real)
        .collect();
    if chosen.is_empty() {
        bail!("no scenario is called {}; see --list (some need --real-hives 1)", options.scenario);
    }
    Ok(chosen)
}

async fn build(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    programs::build(Profile::Dev, &["queen-rbee", "rbee-hive", "fake-hive"], stop).await?;
    if options.real_hives > 0 {
        programs::build_engine(stop).await?;
    }
    Ok(())
}

/// Every scenario as often as it was asked for, or until the time is over.
async fn outcomes(
    options: &Options,
    chosen: &[Scenario],
    folder: &Path,
    began: Instant,
) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut batch = 0;
    loop {
        let rounds = batch * u64::from(options.repeat)..(batch + 1) * u64::from(options.repeat);
        let turns = rounds.flat_map(|round| chosen.iter().map(move |scenario| (*scenario, round)));
        let running = stream::iter(turns.map(|(scenario, round)| {
            let place = folder.join(format!("{}-{round}", scenario.name.replace('/', "-")));
            one(scenario, options, options.seed + round, place)
        }));
        let mut running = running.buffer_unordered(usize::from(options.jobs));
        while let Some(outcome) = running.next().await {
            outcome.print();
            outcomes.push(outcome);
        }
        batch += 1;
        if options.duration.is_none_or(|duration| began.elapsed() >= duration) {
            return Ok(outcomes);
        }
    }
}

async fn one(scenario: Scenario, options: &Options, seed: u64, folder: PathBuf) -> Outcome {
    let began = Instant::now();
    let plan = Plan {
        hives: match scenario.hives {
            Hives::Any => usize::from(options.hives),
            Hives::Fake(count) => count,
            Hives::Real => 0,
        },
        real_hives: if scenario.hives == Hives::Real { usize::from(options.real_hives) } else { 0 },
        workers_per_hive: usize::from(options.workers_per_hive),
        config: scenario.config.to_vec(),
        seed,
    };
    let (verdict, mut failures) = judged(scenario, &folder, plan).await;
    failures.extend(verdict.violations);
    failures.extend(check::sweep(&folder).await);
    if failures.is_empty() && !options.keep {
        let _ = fs::remove_dir_all(&folder);
    }
    let (requests, faults) = (verdict.requests, verdict.faults);
    Outcome { name: scenario.name, seed, took: began.elapsed(), requests, faults, failures, folder }
}

async fn judged(scenario: Scenario, folder: &Path, plan: Plan) -> (Verdict, Vec<String>) {
    let mut cluster = match Cluster::start(folder, plan).await {
        Ok(cluster) => cluster,
        Err(error) => return (Verdict::default(), vec![format!("the fleet did not start: {error:#}")]),
    };
    let done = tokio::time::timeout(BOUND, (scenario.run)(&mut cluster)).await;
    let failure = match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) if error.is::<Stopped>() => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("it was not over within {BOUND:?}")),
    };
    (check::end(&mut cluster).await, failure.into_iter().collect())
}

//! Running scenarios: several at a time, each on a fleet of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::{
    Options, check,
    check::Verdict,
    clocks,
    fleet::{Cluster, Plan},
    isolation, junit,
    options::fits,
    report::{Outcome, print_table},
    scenario::{Hives, Need, Scenario},
    scenarios,
};
use crate::{
    programs::{self, Profile},
    stop::{Stop, Stopped},
    workspace,
};

/// How long one scenario may take before it has failed.
const BOUND: Duration = Duration::from_secs(180);

/// The same for one in its long form.
const LONG: Duration = Duration::from_secs(1200);

/// How many scenarios passed and failed, and what failed first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) first_failure: Option<Failure>,
}

/// A scenario that failed, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) scenario: String,
    pub(crate) reason: String,
}

/// Where scenarios run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the machine as it is.
    Shared,
    /// In namespaces of their own.
    Own,
}

/// How long all of it may take at most.
pub(crate) fn bound(options: &Options) -> Duration {
    let turns = u32::try_from(scenarios::all().len()).unwrap_or(u32::MAX).saturating_mul(options.repeat);
    options.duration.unwrap_or_default() + if options.long { LONG } else { BOUND } * turns
}

/// Builds, and runs what the options ask for. A failed scenario is no error here.
pub(crate) async fn run(options: &Options, stop: &Stop) -> anyhow::Result<Summary> {
    let scenarios = chosen(options)?;
    if options.list {
        for scenario in &scenarios {
            println!("  {:<38} {}", scenario.name, scenario.claim);
        }
        return Ok(Summary::default());
    }
    let mut options = options.clone();
    options.junit = options.junit.map(std::path::absolute).transpose()?;
    build(&options, stop).await?;
    let all = workspace::target().join("test-cluster");
    end_what_was_killed(&all).await;
    let folder = all.join(std::process::id().to_string());
    let summary = if isolation::is_possible() {
        isolation::run_inside(&options, &folder, stop).await
    } else {
        run_here(&options, &folder, Place::Shared, stop).await
    };
    // An inner process that was ended by force left its own to this.
    let left = check::sweep(&folder).await;
    let is_of_use = match &summary {
        Ok(summary) => summary.failed > 0,
        Err(error) => !error.is::<Stopped>(),
    };
    if !is_of_use && !options.keep {
        let _ = fs::remove_dir_all(&folder);
    }
    ensure!(left.is_empty(), "{}", left.join("\n"));
    summary
}

/// A run that was killed itself could end nothing of its own, and left that to the next one.
async fn end_what_was_killed(all: &Path) {
    for run in fs::read_dir(all).into_iter().flatten().flatten() {
        let pid = run.file_name().to_str().and_then(|name| name.parse().ok());
        if pid.is_some_and(|pid| matches!(process::of(pid), Ok(None))) {
            check::sweep(&run.path()).await;
        }
    }
}

/// Runs what the options ask for, with programs that are built, below this folder.
pub(crate) async fn run_here(
    options: &Options,
    folder: &Path,
    place: Place,
    stop: &Stop,
) -> anyhow::Result<Summary> {
    let chosen = possible(chosen(options)?, place);
    let began = Instant::now();
    let outcomes = stop.unless(outcomes(options, &chosen, folder, began)).await;
    // Whoever was interrupted in the middle of a scenario left its processes to this.
    let left = check::sweep(folder).await;
    let outcomes = outcomes?;
    if !options.quiet {
        print_table(&outcomes, began.elapsed());
    }
    if let Some(file) = &options.junit {
        fs::write(file, junit::document(&outcomes))
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    ensure!(left.is_empty(), "{}", left.join("\n"));
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    let first_failure = outcomes.iter().find(|outcome| !outcome.passed()).map(|outcome| Failure {
        scenario: outcome.name.to_owned(),
        reason: outcome.failures.first().cloned().unwrap_or_default(),
    });
    Ok(Summary { passed, failed: outcomes.len() - passed, first_failure })
}

fn chosen(options: &Options) -> anyhow::Result<Vec<Scenario>> {
    let real = options.real_hives > 0 || options.list;
    let planted = options.kit.profile == Profile::Planted;
    let chosen: Vec<_> = scenarios::all()
        .into_iter()
        .filter(|scenario| options.scenario.split(',').any(|pattern| fits(pattern, scenario.name)))
        .filter(|scenario| real || scenario.hives != Hives::Real)
        .filter(|scenario| planted || !scenario.needs.contains(&Need::Planted))
        .collect();
    if chosen.is_empty() {
        bail!("no scenario is called {}; see --list (some need --real-hives 1)", options.scenario);
    }
    Ok(chosen)
}

/// Those that this machine can run; the others are named.
fn possible(mut chosen: Vec<Scenario>, place: Place) -> Vec<Scenario> {
    chosen.retain(|scenario| {
        let missing = scenario.needs.iter().find(|need| match need {
            Need::Namespaces => place != Place::Own,
            Need::Sshd => throwaway_sshd::program().is_none() || is_mapped(),
            Need::Faketime => clocks::library().is_none(),
            Need::Strace => workspace::on_path("strace").is_none(),
            // Chosen only where it is there.
            Need::Planted => false,
        });
        if let Some(need) = missing {
            println!("  not run here: {}: this machine has no {}", scenario.name, need.name());
        }
        missing.is_none()
    });
    chosen
}

/// Whether root here is nobody outside, so that no SSH server can log anybody in.
fn is_mapped() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map");
    map.is_ok_and(|map| !map.contains(&u32::MAX.to_string()))
}

/// Builds what every scenario takes.
pub(crate) async fn build_fakes(profile: Profile, stop: &Stop) -> anyhow::Result<()> {
    programs::build(profile, &["queen-rbee", "rbee-hive", "fake-hive"], stop).await
}

async fn build(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    build_fakes(options.kit.profile, stop).await?;
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
            if !options.quiet {
                outcome.print();
            }
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
    let plan = plan(&scenario, options, seed);
    let (mut verdict, mut failures) = judged(scenario, &folder, plan).await;
    failures.append(&mut verdict.violations);
    failures.extend(check::sweep(&folder).await);
    if !failures.is_empty() || options.keep {
        gather_logs(&folder);
    }
    if scenario.disk.is_some() {
        isolation::unmount_disk(&folder.join("queen")).await;
    }
    if failures.is_empty() && !options.keep {
        let _ = fs::remove_dir_all(&folder);
    }
    let (requests, faults) = (verdict.requests, verdict.faults);
    let again = options.again(scenario.name, scenario.hives == Hives::Real, seed);
    let (took, figures) = (began.elapsed(), verdict.figures);
    Outcome { name: scenario.name, again, took, requests, faults, figures, failures, folder }
}

/// Brings the logs of what the queen started beside those of what the harness did.
fn gather_logs(folder: &Path) {
    let hives = fs::read_dir(folder.join("queen/hives")).into_iter().flatten().flatten();
    for hive in hives {
        let name = hive.file_name().to_string_lossy().into_owned();
        for place in [hive.path(), hive.path().join("logs")] {
            for file in fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if file.extension().is_some_and(|extension| extension == "log") {
                    let log = file.file_name().unwrap_or_default().to_string_lossy();
                    let _ = fs::copy(&file, folder.join(format!("logs/{name}-{log}")));
                }
            }
        }
    }
}

fn plan(scenario: &Scenario, options: &Options, seed: u64) -> Plan {
    let plan = Plan {
        workers_per_hive: usize::from(options.workers_per_hive),
        config: scenario.config.to_vec(),
        seed,
        long: options.long,
        disk: scenario.disk,
        kit: options.kit.clone(),
        ..Plan::default()
    };
    match scenario.hives {
        Hives::Any => Plan { hives: usize::from(options.hives), ..plan },
        Hives::Fake(hives) => Plan { hives, ..plan },
        Hives::Apart(hives) => Plan { hives, apart: true, ..plan },
        Hives::Launched(launched) => Plan { launched, ..plan },
        Hives::Network(kind) => Plan { network: Some(kind), ..plan },
        Hives::Real => Plan { real_hives: usize::from(options.real_hives), ..plan },
    }
}

async fn judged(scenario: Scenario, folder: &Path, plan: Plan) -> (Verdict, Vec<String>) {
    let mut cluster = match Cluster::start(folder, plan).await {
        Ok(cluster) => cluster,
        Err(error) => return (Verdict::default(), vec![format!("the fleet did not start: {error:#}")]),
    };
    let bound = if cluster.plan.long { LONG } else { BOUND };
    let done = tokio::time::timeout(bound, (scenario.run)(&mut cluster)).await;
    let failure = match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) if error.is::<Stopped>() => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("it was not over within {bound:?}")),
    };
    (check::end(&mut cluster).await, failure.into_iter().collect())
}

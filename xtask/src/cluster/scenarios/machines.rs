//! Other machines that hang and are started again, and a machine that is too busy or whose clock jumps.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fleet::{EventKind, HivePhase, LaunchStage};
use process::{Process, Signal};
use queen_api::InferEvent;
use serde_json::json;
use throwaway_sshd::Greeting;

use super::network::{self, Loss};
use crate::cluster::{
    answer::End,
    clocks::WallClock,
    fleet::{Cluster, SOON},
    other_machine::BOX,
    program::{Running, Start},
};

const MODEL: &str = "hf:fake/alpha";

/// In 6 s at most a hive that hangs has to be known for it; the rest is room for a machine that does other things as well.
const UNREACHABLE: Duration = Duration::from_secs(6 + 2);

/// A rebooted machine's hive should be there in 10 s; the same.
const BACK: Duration = Duration::from_secs(10 + 20);

fn only_hive(c: &Cluster) -> anyhow::Result<Process> {
    let hives = c.other()?.hives();
    ensure!(hives.len() == 1, "not one hive runs there: {hives:?}");
    Process::open(&hives[0])?.context("the hive there has ended")
}

/// Waits for a phase, and tells how long it took.
async fn until(c: &Cluster, phase: &str, within: Duration) -> anyhow::Result<Duration> {
    let began = Instant::now();
    c.wait_until(&format!("{BOX} is {phase}"), within, async || Ok(c.phase(BOX).await? == phase)).await?;
    Ok(began.elapsed())
}

pub(super) async fn frozen(c: &mut Cluster) -> anyhow::Result<()> {
    let hive = only_hive(c)?;
    hive.signal(Signal::STOP)?;
    c.faults += 1;
    let found = until(c, "unreachable", UNREACHABLE).await;
    hive.signal(Signal::CONT)?;
    let took = found?;
    c.figures.push(format!("a hive that hangs is unreachable after {:.1} s (at most 6)", took.as_secs_f64()));
    until(c, "online", SOON * 3).await?;
    ensure!(c.other()?.hives() == [hive.identity().clone()], "it is another process now");
    Ok(())
}

/// Launches that were begun there so far.
pub(super) fn starts(c: &Cluster) -> usize {
    let events = c.queen.events.all();
    let starts = events.iter().filter(|event| {
        let EventKind::HiveLaunch { progress, .. } = &event.kind else { return false };
        progress.stage == LaunchStage::Start
    });
    starts.count()
}

/// The cable is cut while an answer is under way: nobody waits for more than is allowed, and afterwards all is as it was.
async fn lost(c: &mut Cluster, loss: Loss) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 50 } })).await?;
    c.warm(MODEL).await?;
    let hive = only_hive(c)?;
    let mut stream = c.open(&c.ask(MODEL).tokens(400)).await?;
    stream.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    network::lose(c, 0, loss).await?;
    let began = Instant::now();
    let found = until(c, "unreachable", UNREACHABLE).await?.as_secs_f64();
    let outcome = stream.rest().await?;
    let told = began.elapsed();
    ensure!(matches!(outcome.end, End::Error { .. }), "the stream of a lost hive ended {:?}", outcome.end);
    ensure!(told < UNREACHABLE, "the client of a lost hive was told after {told:?}");
    c.figures.push(format!("a hive behind a cut cable is unreachable after {found:.1} s (at most 6)"));
    // By then it was looked for over SSH as well.
    until_off(c).await?;
    ensure!(hive.is_alive(), "somebody ended the hive there");
    network::heal(c, 0, loss).await?;
    until(c, "online", BACK).await?;
    ensure!(only_hive(c)?.identity() == hive.identity(), "it is another process now");
    ensure!(starts(c) == 1, "it was started {} times", starts(c));
    ensure!(c.other()?.partial().is_empty(), "there is half of something: {:?}", c.other()?.partial());
    c.infer(&c.ask(MODEL).tokens(4)).await?.complete()?;
    let (spawned, workers) = (c.count("spawn").await?, c.workers_list().await?.len());
    ensure!((spawned, workers) == (1, 1), "{spawned} workers were started, and {workers} are listed");
    Ok(())
}

pub(super) async fn cut_off(c: &mut Cluster) -> anyhow::Result<()> {
    lost(c, Loss::Both).await
}

pub(super) async fn answers_are_lost(c: &mut Cluster) -> anyhow::Result<()> {
    lost(c, Loss::Answers).await
}

pub(super) async fn requests_are_lost(c: &mut Cluster) -> anyhow::Result<()> {
    lost(c, Loss::Requests).await
}

/// Waits until it is said since when it is off: somebody tried to get there and could not.
async fn until_off(c: &Cluster) -> anyhow::Result<()> {
    c.wait_until("it is said since when it is off", SOON * 3, async || {
        let hives = c.hives_list().await?;
        Ok(hives[0]["reason"].as_str().is_some_and(|reason| reason.starts_with("off since ")))
    })
    .await
}

/// Whether a worker of the pinned model is on its way, or there.
async fn is_coming(c: &Cluster, states: &[&str]) -> anyhow::Result<bool> {
    let workers = c.workers_list().await?;
    Ok(workers
        .iter()
        .any(|worker| worker["reachable"] == true && states.iter().any(|state| worker["state"] == *state)))
}

pub(super) async fn rebooted(c: &mut Cluster) -> anyhow::Result<()> {
    c.wait_until("the pinned model is there unasked", BACK, async || is_coming(c, &["ready"]).await).await?;
    let hive = only_hive(c)?;
    // Everything there ends at once, and nothing answers.
    c.other()?.sshd.greet(Greeting::Drop(usize::MAX));
    hive.signal(Signal::KILL)?;
    c.faults += 1;
    until(c, "unreachable", UNREACHABLE).await?;
    until_off(c).await?;
    c.other()?.sshd.greet(Greeting::Serve);
    let began = Instant::now();
    let online = until(c, "online", BACK).await?.as_secs_f64();
    let loading = async || is_coming(c, &["starting", "loading", "ready"]).await;
    c.wait_until("the pinned model is loading again unasked", BACK, loading).await?;
    let loading = began.elapsed().as_secs_f64();
    c.wait_until("it is ready again", BACK, async || is_coming(c, &["ready"]).await).await?;
    let ready = began.elapsed().as_secs_f64();
    c.figures.push(format!(
        "the hive of a rebooted machine is online {online:.1} s after its sshd answers (at most 10), its pinned model is seen \
         to load after {loading:.1} s and ready after {ready:.1} s"
    ));
    ensure!(only_hive(c)?.identity() != hive.identity(), "the dead hive lives");
    c.hives[0].find_successor().await?;
    let workers = c.hives[0].workers().await?.len();
    ensure!(workers == 1, "there are {workers} workers");
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

/// Whether any hive was taken for dead.
fn nobody_died(c: &Cluster) -> anyhow::Result<()> {
    let events = c.queen.events.all();
    let dead = events.iter().find(|event| {
        let EventKind::HivePhase { phase, .. } = &event.kind else { return false };
        matches!(phase, HivePhase::Unreachable | HivePhase::Error | HivePhase::Offline)
    });
    ensure!(dead.is_none(), "a hive that lives was taken for dead: {dead:?}");
    Ok(())
}

pub(super) async fn busy(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    let long = if c.plan.long { Duration::from_secs(600) } else { Duration::from_secs(10) };
    let burners = std::thread::available_parallelism()?.get() * if c.plan.long { 2 } else { 1 };
    let burner = Start::new("sh", c.folder.join("logs/burner.log")).args(["-c", "while :; do :; done"]);
    let burning: Vec<Running> = (0..burners).map(|_| burner.spawn()).collect::<anyhow::Result<_>>()?;
    c.faults += burners;
    let until = Instant::now() + long;
    let mut asked = Ok(());
    while Instant::now() < until && asked.is_ok() {
        asked = c.infer(&c.ask(MODEL).tokens(4)).await.and_then(|outcome| outcome.complete().map(drop));
        // In between only the beats tell that the hives live.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    for mut burner in burning {
        burner.kill().await?;
    }
    asked?;
    let figure =
        format!("0 false deaths of {} hives in {} s with {burners} burners", c.hives.len(), long.as_secs());
    c.figures.push(figure);
    nobody_died(c)
}

pub(super) async fn clock_jumps(c: &mut Cluster) -> anyhow::Result<()> {
    let clock = WallClock::new(&c.folder)?;
    c.queen.stop(SOON).await?;
    let environment = clock.environment();
    let variables: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    c.queen.start_with(&variables)?;
    c.queen.until_ready().await?;
    c.until_online().await?;
    c.warm(MODEL).await?;
    let last = |c: &Cluster| c.queen.events.all().last().map(|event| event.at.as_millis());
    let before = last(c).context("nothing has happened")?;
    for (offset, seconds) in
        [("+3600", 3600), ("-7200", -7200), ("-10y", -315_360_000_i64), ("+2y", 63_072_000)]
    {
        clock.jump(offset)?;
        c.faults += 1;
        // Longer than a beat, so that streams and silence are looked at by that clock.
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            c.infer(&c.ask(MODEL).tokens(4)).await?.complete()?;
        }
        let off = last(c).unwrap_or_default() - before - seconds * 1000;
        ensure!(off.abs() < 120_000, "{offset}: the queen's clock did not jump, it is off by {off} ms");
    }
    ensure!(c.count("spawn").await? == 1, "another worker was started");
    nobody_died(c)
}

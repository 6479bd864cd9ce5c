//! Many requests at once, and what goes wrong then.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use fleet::EventKind;
use futures_util::{StreamExt as _, stream};
use process::Signal;
use queen_api::InferEvent;
use serde_json::json;

use super::workers::{MAGIC, fault, two_workers};
use crate::cluster::{
    answer::{End, Outcome},
    fleet::{Cluster, SOON},
    hive::FakeHive,
};

const MODEL: &str = "hf:fake/alpha";

/// Longest time from the end of a worker until the client of a stream that it broke is told, on a machine that does other
/// things as well.
const TOLD: Duration = Duration::from_secs(5);

/// How many requests were sent to a hive's workers, whatever came of them.
async fn attempts(hive: &FakeHive) -> anyhow::Result<usize> {
    Ok(hive.journal().await?.iter().filter(|call| call.call == "proxy").count())
}

pub(super) async fn cold_crowd(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "download": { "duration_ms": 1500 }, "worker": { "load_ms": 1000 } })).await?;
    let mut leader = c.open(&c.ask(MODEL)).await?;
    leader.until(|event| matches!(event, InferEvent::Loading { .. })).await?;
    let asks: Vec<_> = (0..c.amount(200, 1000))
        .map(|n| if n % 4 == 0 { c.ask(MODEL).tokens(4).whole() } else { c.ask(MODEL).tokens(4) })
        .collect();
    let leaves = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(leader);
    };
    let (outcomes, ()) = tokio::join!(c.infer_all(&asks), leaves);
    for outcome in outcomes? {
        outcome.complete()?;
    }
    let (downloads, spawns) = (c.count("download").await?, c.count("spawn").await?);
    ensure!((downloads, spawns) == (1, 1), "{downloads} transfers and {spawns} workers");
    Ok(())
}

pub(super) async fn leaders_leave(c: &mut Cluster) -> anyhow::Result<()> {
    let turns = c.amount(10, 200);
    c.script_all(json!({ "download": { "duration_ms": 100 }, "worker": { "load_ms": 50 } })).await?;
    for turn in 0..turns {
        // Each hive has room for four; the ones before are idle and make room.
        let model = format!("hf:fake/m{turn}");
        let mut leader = c.open(&c.ask(&model).tokens(4)).await?;
        let asks: Vec<_> = (0..4).map(|_| c.ask(&model).tokens(4)).collect();
        let moment = c.moment(turn as u64, Duration::from_millis(150));
        let leaves = async {
            let _ = tokio::time::timeout(moment, leader.until(|_| false)).await;
            drop(leader);
        };
        let (outcomes, ()) = tokio::join!(c.infer_all(&asks), leaves);
        for outcome in outcomes? {
            outcome.complete().with_context(|| format!("turn {turn}"))?;
        }
    }
    let (downloads, spawns) = (c.count("download").await?, c.count("spawn").await?);
    ensure!(
        (downloads, spawns) == (turns, turns),
        "{downloads} transfers and {spawns} workers for {turns} models"
    );
    Ok(())
}

/// Asks so often, so many at a time, and calls `at` with the number of those that have begun.
async fn asked(
    c: &Cluster,
    count: usize,
    at_once: usize,
    tokens: u32,
    mut at: impl FnMut(usize),
) -> anyhow::Result<Vec<(Outcome, Instant)>> {
    let asks: Vec<_> =
        (0..count).map(|n| if n % 8 == 7 { c.ask(MODEL).whole() } else { c.ask(MODEL) }).collect();
    let mut running = stream::iter(asks)
        .map(async |ask| anyhow::Ok((c.infer(&ask.tokens(tokens)).await?, Instant::now())))
        .buffer_unordered(at_once);
    let mut outcomes = Vec::new();
    while let Some(outcome) = running.next().await {
        outcomes.push(outcome?);
        at(outcomes.len());
    }
    Ok(outcomes)
}

pub(super) async fn one_of_two_killed(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 3, "prefill_ms": 3 } })).await?;
    two_workers(c).await?;
    let count = c.amount(300, 10_000);
    let victim = &c.hives[0].running;
    let mut killed = None;
    let outcomes = asked(c, count, 32, 16, |ended| {
        if ended == count / 3 {
            killed = Some((victim.signal(Signal::KILL), Instant::now()));
        }
    });
    let outcomes = outcomes.await?;
    let (kill, killed) = killed.context("it was not killed")?;
    kill.context("the hive could not be killed")?;
    c.hives[0].running.ended(SOON).await?;
    c.hives[0].faults += 1;
    let slowest = outcomes.iter().map(|(outcome, _)| outcome.took).max().unwrap_or_default();
    let mut told = 0;
    for (outcome, ended) in outcomes {
        match &outcome.end {
            End::Complete => {}
            End::Error { message, .. } if !outcome.text.is_empty() => {
                let after = ended.saturating_duration_since(killed);
                ensure!(after < TOLD, "{} was told after {after:?}: {message}", outcome.id);
                told += 1;
            }
            other => bail!("{} was lost before its first byte: {other:?}", outcome.id),
        }
    }
    println!(
        "    one_of_two_killed: {count} requests, 0 lost, {told} told in the middle, the others whole, the slowest in {slowest:.1?}"
    );
    Ok(())
}

pub(super) async fn one_of_two_hung(c: &mut Cluster) -> anyhow::Result<()> {
    let slots = 4;
    c.script_all(json!({ "worker": { "slots": slots, "token_ms": 3, "prefill_ms": 5 } })).await?;
    two_workers(c).await?;
    // So that what is expected of both is known.
    asked(c, 60, 8, 8, |_| ()).await?;
    let before = attempts(&c.hives[0]).await?;
    c.hives[0].act(json!({ "act": "freeze_worker" })).await?;
    let outcomes = asked(c, c.amount(150, 2000), 6, 8, |_| ()).await?;
    let felt = attempts(&c.hives[0]).await? - before;
    for (outcome, _) in outcomes {
        outcome.complete()?;
    }
    ensure!(felt <= slots, "{felt} requests were given to a worker of {slots} slots that hangs");
    asked(c, 50, 6, 8, |_| ()).await?;
    let since = attempts(&c.hives[0]).await? - before - felt;
    ensure!(since == 0, "{since} more requests were given to it after it had been given up");
    println!("    one_of_two_hung: {felt} of {slots} slots felt it, then none");
    // It moves again: nothing is left behind.
    c.hives[0].act(json!({ "act": "thaw_worker" })).await
}

/// A hundred times as fast as in life: prefills of 600 s against a bound of 120 s, an answer of an hour with pauses of
/// 40 s against a bound of 100 s.
pub(super) async fn slow_is_not_dead(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    c.script_all(json!({ "worker": { "prefill_ms": 6000, "slots": 4 } })).await?;
    let long = "word ".repeat(300);
    let asks: Vec<_> = (0..4).map(|_| c.ask(MODEL).saying(&long).tokens(4)).collect();
    for outcome in c.infer_all(&asks).await? {
        outcome.complete().context("a long prefill")?;
    }
    c.script_all(json!({ "worker": { "prefill_ms": 0, "token_ms": 400 } })).await?;
    let tokens = u32::try_from(c.amount(15, 90))?;
    c.infer(&c.ask(MODEL).tokens(tokens)).await?.complete().context("a long answer")?;
    let attempts = attempts(&c.hives[0]).await?;
    ensure!(attempts == 6, "{attempts} attempts of 6 requests: somebody was given up");
    Ok(())
}

pub(super) async fn all_fail(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "slots": 400 } })).await?;
    two_workers(c).await?;
    let fault =
        json!({ "at": "request", "act": { "kind": "error", "status": 500, "message": "out of memory" } });
    c.script_all(json!({ "worker": { "faults": [fault] } })).await?;
    let asks: Vec<_> = (0..300).map(|_| c.ask(MODEL).tokens(4).whole()).collect();
    for outcome in c.infer_all(&asks).await? {
        let End::Error { code, .. } = &outcome.end else {
            bail!("it was served by a worker that fails: {outcome:?}")
        };
        ensure!(["worker_failed", "workers_failing"].contains(&&**code), "the code is {code}");
    }
    for hive in &c.hives {
        hive.heal().await?;
    }
    c.wait_until("they are probed, and serve again", SOON + Duration::from_secs(10), async || {
        Ok(c.infer(&c.ask(MODEL)).await?.complete().is_ok())
    })
    .await
}

/// Every second request fails wherever it goes, and the ones between keep the breakers closed: what bounds the second
/// attempts is their budget.
pub(super) async fn half_fails(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "slots": 40 } })).await?;
    two_workers(c).await?;
    c.script_all(fault(json!("request"), json!({ "kind": "error", "status": 500 }))).await?;
    let before = attempts(&c.hives[0]).await? + attempts(&c.hives[1]).await?;
    let ask = |n| if n % 2 == 0 { c.ask(MODEL).saying(MAGIC) } else { c.ask(MODEL) };
    let asks: Vec<_> = (0..600).map(|n| ask(n).tokens(2).whole()).collect();
    let mut running = stream::iter(&asks).map(async |ask| c.infer(ask).await).buffer_unordered(4);
    let mut served = 0;
    while let Some(outcome) = running.next().await {
        served += usize::from(outcome?.end == End::Complete);
    }
    drop(running);
    let sent = attempts(&c.hives[0]).await? + attempts(&c.hives[1]).await? - before;
    println!("    half_fails: 600 requests were sent {sent} times, {served} of 300 were served");
    // A fifth of the requests of ten seconds, and the floor for another window.
    ensure!(sent <= 600 + 120 + 64, "600 requests were sent {sent} times");
    ensure!(served >= 290, "{served} of 300 sound requests were served");
    Ok(())
}

/// A third of the requests fails on one worker only, a third on the other one only, and the rest keeps the breakers closed. So a
/// third of all fails at first, would be served by a second worker, and is too much to be sent again.
pub(super) async fn sent_again(c: &mut Cluster) -> anyhow::Result<()> {
    const WORDS: [&str; 3] = ["sound", "xyzzy", "plugh"];
    c.script_all(json!({ "worker": { "slots": 40 } })).await?;
    two_workers(c).await?;
    for (hive, word) in c.hives.iter_mut().zip(&WORDS[1..]) {
        let fails = json!({
            "at": "request", "act": { "kind": "error", "status": 500 }, "prompt_contains": word
        });
        hive.script(json!({ "worker": { "faults": [fails] } })).await?;
    }
    let asks: Vec<_> =
        (0..c.amount(900, 9000)).map(|n| c.ask(MODEL).saying(WORDS[n % 3]).tokens(2).whole()).collect();
    let mut running = stream::iter(&asks).map(async |ask| c.infer(ask).await).buffer_unordered(4);
    let mut outcomes = Vec::new();
    while let Some(outcome) = running.next().await {
        outcomes.push(outcome?);
    }
    drop(running);
    let sent = async || {
        let mut sent: BTreeMap<String, usize> = BTreeMap::new();
        let mut ended = 0;
        for event in c.queen.events.all() {
            match event.kind {
                EventKind::Attempt { request_id, .. } => {
                    *sent.entry(request_id.to_string()).or_default() += 1
                }
                EventKind::RequestEnded { .. } => ended += 1,
                _ => {}
            }
        }
        (sent, ended)
    };
    c.wait_until("all ends are told", SOON, async || Ok(sent().await.1 >= asks.len())).await?;
    let (sent, _) = sent().await;
    let again = outcomes.iter().filter(|outcome| sent.get(&outcome.id) == Some(&2)).count();
    let mut refused = 0;
    for outcome in &outcomes {
        let times = sent.get(&outcome.id).copied().unwrap_or(0);
        match &outcome.end {
            End::Complete => ensure!(times > 0, "{} was served without being sent", outcome.id),
            // Its own worker failed, and it was one too many to be sent again.
            End::Error { code, .. } if code == "worker_failed" && times == 1 => refused += 1,
            other => bail!("{} was sent {times} times and ended {other:?}", outcome.id),
        }
    }
    let sound = outcomes.iter().filter(|outcome| outcome.prompt.starts_with(WORDS[0]));
    let unserved = sound.filter(|outcome| outcome.end != End::Complete).count();
    ensure!(unserved == 0, "{unserved} requests that no worker fails were not served");
    c.figures.push(format!("of {} requests {again} were sent again, and {refused} failed", asks.len()));
    ensure!(refused > 0, "too few requests failed for the budget to matter");
    // A fifth of the requests of ten seconds, and the floor for another window.
    ensure!(again <= asks.len() / 5 + 64, "{again} of {} requests were sent again", asks.len());
    Ok(())
}

/// One client after the other in so many tasks, each coming again at once, for so long. How many answers came in a second,
/// and how long those waited who were refused.
async fn flooded(c: &Cluster, clients: usize, time: Duration) -> anyhow::Result<(f64, Vec<Duration>)> {
    let began = Instant::now();
    let done = AtomicUsize::new(0);
    let one = async |_| {
        let mut refused = Vec::new();
        while began.elapsed() < time {
            let asked = Instant::now();
            let outcome = c.infer(&c.ask(MODEL).tokens(24).whole()).await?;
            match &outcome.end {
                End::Complete if began.elapsed() < time => {
                    done.fetch_add(1, Ordering::Relaxed);
                }
                End::Complete => {}
                End::Error { code, .. } if code == "queue_full" => {
                    ensure!(outcome.status == 429, "the status is {}", outcome.status);
                    refused.push(asked.elapsed());
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                other => bail!("{} ended {other:?}", outcome.id),
            }
        }
        Ok(refused)
    };
    let all = futures_util::future::try_join_all((0..clients).map(one)).await?;
    let refused = all.into_iter().flatten().collect();
    Ok((done.load(Ordering::Relaxed) as f64 / time.as_secs_f64(), refused))
}

pub(super) async fn ten_times_too_much(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "slots": 4, "token_ms": 20 } })).await?;
    two_workers(c).await?;
    let time = Duration::from_secs(c.amount(5, 30) as u64);
    let (peak, refused) = flooded(c, 8, time).await?;
    ensure!(refused.is_empty(), "{} were refused though each had a slot", refused.len());
    let (goodput, mut refused) = flooded(c, 80, time).await?;
    let memory = c.queen.running.memory();
    refused.sort_unstable();
    ensure!(!refused.is_empty(), "nobody was refused under ten times the load");
    let late = refused[refused.len() * 99 / 100];
    println!(
        "    ten_times_too_much: {goodput:.1}/s of {peak:.1}/s at the peak, {} refused, p99 after {late:?}, {} MiB",
        refused.len(),
        memory >> 20
    );
    ensure!(goodput >= 0.9 * peak, "{goodput:.1} answers in a second, {peak:.1} at the peak");
    // In the everyday run the machine does other things as well.
    let bound = Duration::from_millis(if c.plan.long { 50 } else { 1000 });
    ensure!(late <= bound, "whoever was refused waited {late:?}");
    ensure!(memory < 256 << 20, "the queen has {} MiB", memory >> 20);
    Ok(())
}

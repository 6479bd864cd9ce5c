//! The queen dies over what a person wants of a hive: that it takes no more work, is emptied, or serves again.

use anyhow::{Context as _, ensure};
use fleet::{EventKind, HivePhase};
use queen_api::InferEvent;
use serde_json::json;

use super::{died, hives};
use crate::cluster::{
    answer::End,
    fleet::{Cluster, SOON},
};

const MODEL: &str = "hf:fake/alpha";

/// Tokens of an answer that is still under way when the queen dies.
const LONG: u32 = 400;

/// Steps of the hive's own task, for which the answer to a wish does not wait.
const OF_THE_HIVES_TASK: [&str; 3] = ["drain-begun", "drain-over", "pause-emptying"];

/// What is asked of a hive, the step at which the queen dies over it, and the phase in which the next queen has the hive.
type Death = (&'static str, &'static str, &'static str);

/// The hive that people want something of.
struct Wished {
    id: String,
    /// Where it stands among the fakes.
    at: usize,
    /// The processes of all hives, which are the same in the end.
    ran: Vec<u32>,
    phase: &'static str,
}

impl Wished {
    /// The hive that has the only worker. Its answers take their time.
    async fn warm(c: &mut Cluster) -> anyhow::Result<Self> {
        c.script_all(json!({ "worker": { "token_ms": 10 } })).await?;
        let id = c.warm(MODEL).await?.hive().context("nobody answered")?;
        Ok(Self { at: c.index(&id)?, id, ran: hives(c), phase: "online" })
    }

    fn path(&self, wish: &str) -> String {
        format!("/v1/hives/{}/{wish}", self.id)
    }

    async fn is(&self, c: &Cluster, phase: &str) -> anyhow::Result<()> {
        c.wait_until(&format!("{} is {phase}", self.id), SOON, async || Ok(c.phase(&self.id).await? == phase))
            .await
    }

    /// The next queen has the hive as it should be, without having had it otherwise, and what is asked is answered.
    async fn next(&mut self, c: &mut Cluster, phase: &'static str) -> anyhow::Result<()> {
        c.queen.events_read().await?;
        let before = c.queen.events.all().len();
        c.queen.restart().await?;
        self.is(c, phase).await?;
        ensure!(hives(c) == self.ran, "{:?} run in place of {:?}", hives(c), self.ran);
        let answered = c.infer(&c.ask(MODEL)).await?.complete()?;
        if phase == "draining" {
            ensure!(answered.hive().as_ref() != Some(&self.id), "it is given work");
            let served = c.queen.events.all().into_iter().skip(before).any(|event| {
                matches!(event.kind, EventKind::HivePhase { hive_id, phase: HivePhase::Online, .. }
                    if hive_id.as_str() == self.id)
            });
            ensure!(!served, "for a while it was online");
        }
        self.phase = phase;
        Ok(())
    }

    /// A queen dies over a wish while somebody is being answered.
    async fn dies_over(&mut self, c: &mut Cluster, death: Death) -> anyhow::Result<()> {
        let (wish, step, phase) = death;
        c.queen.kill().await?;
        c.queen.start_to_die(step)?;
        c.queen.until_ready().await?;
        self.is(c, self.phase).await?;
        let mut busy = c.open(&c.ask(MODEL).tokens(LONG)).await?;
        busy.until(|event| matches!(event, InferEvent::Token { .. })).await?;
        let told = c.post(&self.path(wish), &json!({})).await;
        ensure!(told.is_err() || OF_THE_HIVES_TASK.contains(&step), "{step} was passed alive");
        died(c, step).await?;
        let cut = busy.rest().await?;
        ensure!(cut.end == End::Truncated, "an answer ended {:?} at {step}", cut.end);
        self.next(c, phase).await.with_context(|| format!("after {step}"))
    }

    /// How many workers it has.
    async fn workers(&self, c: &Cluster) -> anyhow::Result<usize> {
        let workers = c.hives[self.at].workers().await?;
        Ok(workers.iter().filter(|worker| worker["state"] != "stopped").count())
    }
}

pub(in crate::cluster::scenarios) async fn of_a_drain(c: &mut Cluster) -> anyhow::Result<()> {
    let mut hive = Wished::warm(c).await?;
    // While its worker finishes what it has.
    let mut busy = c.open(&c.ask(MODEL).tokens(LONG)).await?;
    busy.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    c.post(&hive.path("drain"), &json!({})).await?.expect(202)?;
    hive.is(c, "draining").await?;
    busy.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    c.queen.kill().await?;
    c.faults += 1;
    ensure!(busy.rest().await?.end == End::Truncated, "it was answered before the queen was killed");
    hive.next(c, "draining").await.context("killed while a worker finishes")?;
    for death in [
        ("start", "start-not-noted", "draining"),
        ("start", "start-noted", "online"),
        ("drain", "drain-not-noted", "online"),
        ("drain", "drain-noted", "draining"),
        ("start", "start-told", "online"),
        ("drain", "drain-told", "draining"),
        ("start", "drain-over", "online"),
        ("drain", "drain-begun", "draining"),
    ] {
        hive.dies_over(c, death).await?;
    }
    ensure!(hive.workers(c).await? == 1, "a worker was not left to finish");
    let spawns = c.count("spawn").await?;
    ensure!(spawns == 2, "{spawns} workers were started, for one on each hive");
    c.post(&hive.path("start"), &json!({})).await?.expect(202)?;
    c.until_online().await
}

pub(in crate::cluster::scenarios) async fn of_a_pause(c: &mut Cluster) -> anyhow::Result<()> {
    let mut hive = Wished::warm(c).await?;
    for death in [
        ("pause", "pause-not-noted", "online"),
        ("pause", "pause-noted", "draining"),
        ("pause", "pause-told", "draining"),
        ("pause", "pause-emptying", "draining"),
    ] {
        hive.dies_over(c, death).await?;
        if hive.phase == "online" {
            ensure!(hive.workers(c).await? == 1, "a worker was stopped before that was noted");
            continue;
        }
        let empty = c.wait_until("the hive is empty", SOON, async || Ok(hive.workers(c).await? == 0)).await;
        empty.with_context(|| format!("after {}", death.1))?;
        c.post(&hive.path("resume"), &json!({})).await?.expect(202)?;
        c.until_online().await?;
        hive.phase = "online";
        // There is something to be stopped the next time.
        c.hives[hive.at].spawn(MODEL).await?;
    }
    Ok(())
}

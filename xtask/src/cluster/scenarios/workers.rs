//! Workers that fail.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};
use futures_util::future::try_join_all;
use queen_api::{ErrorCode, InferEvent};
use serde_json::{Value, json};

use crate::cluster::{
    answer::End,
    fleet::{Cluster, SOON},
};

const MODEL: &str = "hf:fake/alpha";

/// The word in a prompt that a fault waits for.
pub(super) const MAGIC: &str = "xyzzy";

pub(super) fn fault(at: Value, act: Value) -> Value {
    json!({ "worker": { "faults": [{ "at": at, "act": act, "prompt_contains": MAGIC }] } })
}

/// Two workers of one model, on two hives: a second one is started behind the queen's back, as another queen would.
pub(super) async fn two_workers(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    for hive in &c.hives {
        if !hive.workers().await?.iter().any(|worker| worker["state"] == "ready") {
            hive.spawn(MODEL).await?;
        }
    }
    c.wait_until("each hive has a ready worker, and the queen knows which", SOON, async || {
        let ready = |worker: &Value| worker["state"] == "ready";
        let name = |hive: &str, worker: &Value| format!("{hive}/{}", worker["worker_id"]);
        let mut there = BTreeSet::new();
        for hive in &c.hives {
            let workers = hive.workers().await?;
            if !workers.iter().any(ready) {
                return Ok(false);
            }
            there.extend(workers.iter().filter(|worker| ready(worker)).map(|worker| name(&hive.id, worker)));
        }
        // The queen may not have heard yet that one has died; and she may be starting one in its place.
        let known = c.workers_list().await?;
        let known = known.iter().filter(|worker| ready(worker));
        let known = known.map(|worker| name(worker["hive_id"].as_str().unwrap_or_default(), worker));
        Ok(known.collect::<BTreeSet<_>>() == there)
    })
    .await
}

pub(super) async fn dies_before_the_first_byte(c: &mut Cluster) -> anyhow::Result<()> {
    for moment in ["accept", "request", "head"] {
        two_workers(c).await?;
        let mut die = fault(json!(moment), json!({ "kind": "die" }));
        die["worker"]["faults"][0]["times"] = json!(1);
        let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
        // Whichever is chosen next, one of the two dies and the other one answers.
        let victim = c.index(&first)?;
        c.hives[victim].script(die.clone()).await?;
        for _ in 0..2 {
            c.infer(&c.ask(MODEL).saying(MAGIC)).await?.complete()?;
        }
        c.hives[victim].heal().await?;
    }
    Ok(())
}

pub(super) async fn dies_in_the_middle(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(fault(json!({ "tokens": 5 }), json!({ "kind": "die" }))).await?;
    c.warm(MODEL).await?;
    let outcome = c.infer(&c.ask(MODEL).saying(MAGIC)).await?;
    let message = outcome.failed(ErrorCode::WorkerFailed)?;
    ensure!(message.contains("hive-"), "nobody is named: {message}");
    ensure!(!outcome.text.is_empty(), "the tokens before the death are lost");
    // The same over OpenAI's route: an error event, and no terminator.
    c.warm(MODEL).await?;
    let text = broken_chat(c).await?;
    ensure!(text.contains("\"error\"") && !text.contains("[DONE]"), "not an error and no terminator: {text}");
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

/// A stream of OpenAI's that breaks off, and that nobody was asked to go on with.
async fn broken_chat(c: &Cluster) -> anyhow::Result<String> {
    let mut body = c.ask(MODEL).saying(MAGIC).chat_body();
    body["temperature"] = json!(0.7);
    Ok(c.post("/v1/chat/completions", &body).await?.expect(200)?.text())
}

pub(super) async fn is_continued(c: &mut Cluster) -> anyhow::Result<()> {
    for act in [json!({ "kind": "die" }), json!({ "kind": "break", "how": "rst" }), json!({ "kind": "end" })]
    {
        // With one slot each, whoever is slower or under suspicion gets some of the requests all the same, if not of the first
        // ones.
        c.script_all(json!({ "worker": { "faults": [], "slots": 1, "token_ms": 5 } })).await?;
        two_workers(c).await?;
        c.hives[0].script(fault(json!({ "tokens": 5 }), act)).await?;
        let mut continued = 0;
        for _ in 0..10 {
            let asks: Vec<_> = (0..8).map(|_| c.ask(MODEL).saying(MAGIC)).collect();
            for outcome in c.infer_all(&asks).await? {
                let outcome = outcome.complete()?;
                let Some(InferEvent::End { tokens_out, continued: times, .. }) = outcome.events.last() else {
                    bail!("no end: {:?}", outcome.events);
                };
                ensure!(*tokens_out == 24, "{tokens_out} tokens came of 24");
                continued += times;
            }
            if continued > 0 {
                break;
            }
        }
        ensure!(continued > 0, "no answer broke off, so none was gone on with");
    }
    Ok(())
}

pub(super) async fn chat_is_continued(c: &mut Cluster) -> anyhow::Result<()> {
    for act in [json!({ "kind": "die" }), json!({ "kind": "break", "how": "rst" }), json!({ "kind": "end" })]
    {
        c.script_all(json!({ "worker": { "faults": [], "slots": 1, "token_ms": 5 } })).await?;
        two_workers(c).await?;
        c.hives[0].script(fault(json!({ "tokens": 5 }), act)).await?;
        let mut continued = 0;
        for _ in 0..10 {
            let ask = c.ask(MODEL).saying(MAGIC);
            let mut body = ask.chat_body();
            body["stream_options"] = json!({ "include_usage": true });
            for reply in try_join_all((0..8).map(|_| c.post("/v1/chat/completions", &body))).await? {
                let text = reply.expect(200)?.text();
                let events = chat_events(&text)?;
                tiny_model::check_continuation(&ask.prompt, &said(&events))?;
                let tokens = events.iter().filter_map(|event| event["usage"]["completion_tokens"].as_u64());
                ensure!(tokens.eq([24]), "not the counts of 24 tokens: {text}");
                continued += text.matches(": another worker goes on").count();
            }
            if continued > 0 {
                break;
            }
        }
        ensure!(continued > 0, "no answer broke off, so none was gone on with");
    }
    Ok(())
}

/// The events of a stream that has its terminator.
fn chat_events(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut events: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    ensure!(events.pop() == Some("[DONE]"), "no terminator: {text}");
    events.into_iter().map(|event| Ok(serde_json::from_str(event)?)).collect()
}

fn said(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

pub(super) async fn ends_without_terminator(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(fault(json!({ "tokens": 5 }), json!({ "kind": "end" }))).await?;
    c.warm(MODEL).await?;
    let outcome = c.infer(&c.ask(MODEL).saying(MAGIC)).await?;
    outcome.failed(ErrorCode::WorkerFailed)?;
    let text = broken_chat(c).await?;
    ensure!(text.contains("\"error\"") && !text.contains("[DONE]"), "truncation passed for success: {text}");
    Ok(())
}

pub(super) async fn kills_two(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(fault(json!("request"), json!({ "kind": "die" }))).await?;
    two_workers(c).await?;
    let outcome = c.infer(&c.ask(MODEL).saying(MAGIC).whole()).await?;
    outcome.failed(ErrorCode::RequestKilledWorker)?;
    let mut dead = 0;
    for hive in &c.hives {
        dead += hive.workers().await?.iter().filter(|worker| worker["state"] == "failed").count();
    }
    ensure!(dead == 2, "the request ended {dead} workers");
    Ok(())
}

pub(super) async fn too_busy(c: &mut Cluster) -> anyhow::Result<()> {
    two_workers(c).await?;
    let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
    let busy = c.index(&first)?;
    let act = json!({ "kind": "error", "status": 503, "message": "busy", "retry_after_s": 1 });
    c.hives[busy].script(fault(json!("request"), act)).await?;
    for _ in 0..4 {
        c.infer(&c.ask(MODEL).saying(MAGIC)).await?.complete()?;
    }
    // Being busy is no fault: the worker is still offered.
    let ready = c.workers_list().await?.iter().filter(|worker| worker["state"] == "ready").count();
    ensure!(ready == 2, "{ready} workers are ready");
    Ok(())
}

pub(super) async fn garbage(c: &mut Cluster) -> anyhow::Result<()> {
    two_workers(c).await?;
    let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
    let bad = c.index(&first)?;
    for which in
        ["html", "other_json", "bad_chunk", "long_content_length", "switching", "not_http", "flood1xx"]
    {
        let act = json!({ "kind": "garbage", "which": which });
        c.hives[bad].script(fault(json!("request"), act)).await?;
        for ask in [c.ask(MODEL).saying(MAGIC), c.ask(MODEL).saying(MAGIC)] {
            let outcome = c.infer(&ask).await?;
            ensure!(outcome.end == End::Complete, "{which}: {:?}", outcome.end);
        }
        c.hives[bad].heal().await?;
    }
    Ok(())
}

pub(super) async fn hangs_before_the_first_byte(c: &mut Cluster) -> anyhow::Result<()> {
    two_workers(c).await?;
    let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
    let bad = c.index(&first)?;
    c.hives[bad].script(fault(json!("request"), json!({ "kind": "hang" }))).await?;
    for _ in 0..2 {
        c.infer(&c.ask(MODEL).saying(MAGIC)).await?.complete()?;
    }
    Ok(())
}

pub(super) async fn hangs_in_the_middle(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(fault(json!({ "tokens": 5 }), json!({ "kind": "hang" }))).await?;
    c.warm(MODEL).await?;
    let outcome = c.infer(&c.ask(MODEL).saying(MAGIC)).await?;
    ensure!(matches!(outcome.end, End::Error { .. }), "a stream that went silent ended {:?}", outcome.end);
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn long_prefill(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    // Three times the bound for the first byte, with counts that move: life, not silence.
    c.script_all(json!({ "worker": { "prefill_ms": 6000, "prefill_progress": true } })).await?;
    let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(outcome.took.as_secs() >= 6, "the prefill took {:?} only", outcome.took);
    Ok(())
}

pub(super) async fn refuses(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    for status in [400, 404, 422] {
        let act = json!({ "kind": "error", "status": status, "message": "your request is odd" });
        c.script_all(fault(json!("request"), act)).await?;
        for _ in 0..8 {
            let reply =
                c.post("/v1/chat/completions", &c.ask(MODEL).saying(MAGIC).whole().chat_body()).await?;
            let reply = reply.expect(status)?;
            ensure!(
                reply.text().contains("your request is odd"),
                "the worker's words are lost: {}",
                reply.text()
            );
        }
    }
    // What was the client's fault is not held against the worker.
    c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(c.count("spawn").await? == 1, "another worker was started");
    Ok(())
}

pub(super) async fn all_die_under_load(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 5 } })).await?;
    two_workers(c).await?;
    let asks: Vec<_> = (0..30).map(|_| c.ask(MODEL)).collect();
    let kill = async {
        c.wait_until("they are answering", SOON, async || {
            Ok(c.workers_list().await?.iter().any(|worker| worker["in_flight"] != 0))
        })
        .await?;
        for hive in &c.hives {
            hive.act_quietly(json!({ "act": "kill_worker" })).await?;
        }
        anyhow::Ok(())
    };
    let (outcomes, killed) = tokio::join!(c.infer_all(&asks), kill);
    killed?;
    for outcome in outcomes? {
        ensure!(
            matches!(outcome.end, End::Complete | End::Error { .. }),
            "{} ended {:?}",
            outcome.id,
            outcome.end
        );
    }
    c.infer(&c.ask(MODEL)).await?.complete()?;
    let spawned = c.queen_spawns();
    // The first one, one for those who wait, and one more since there were two.
    ensure!(
        spawned <= 3,
        "the queen started {spawned} workers, where two were needed after the death of all"
    );
    Ok(())
}

pub(super) async fn frozen(c: &mut Cluster) -> anyhow::Result<()> {
    two_workers(c).await?;
    let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
    let at = c.index(&first)?;
    c.hives[at].act(json!({ "act": "freeze_worker" })).await?;
    for _ in 0..3 {
        let outcome = c.infer(&c.ask(MODEL)).await?.complete()?;
        ensure!(outcome.hive().as_ref() != Some(&first), "the frozen worker answered");
    }
    c.hives[at].act(json!({ "act": "thaw_worker" })).await?;
    for _ in 0..4 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    Ok(())
}

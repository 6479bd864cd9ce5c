//! Hives that fail, and registering them.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::workers::two_workers;
use crate::cluster::{
    answer::End,
    fleet::{Cluster, SOON},
};

const MODEL: &str = "hf:fake/alpha";

/// Silence is judged after 3 s and two probes of 1 s, with room for a machine that does other things as well.
const UNREACHABLE: Duration = Duration::from_secs(8);

pub(super) async fn garbage(c: &mut Cluster) -> anyhow::Result<()> {
    for which in ["html", "invalid_utf8", "cut_json", "endless_json", "gzip_bomb", "deep_json", "not_http"] {
        c.hives[0]
            .script(json!({ "calls": { "all": { "answer": { "kind": "garbage", "which": which } } } }))
            .await?;
        c.hives[0].act(json!({ "act": "cut_all" })).await?;
        c.infer(&c.ask(MODEL)).await?.complete()?;
        c.get("/readyz").await?.expect(200)?;
    }
    c.hives[0].heal().await?;
    c.wait_until("the hive is online again", SOON + UNREACHABLE, async || {
        Ok(c.phase("hive-0").await? == "online")
    })
    .await
}

pub(super) async fn killed(c: &mut Cluster) -> anyhow::Result<()> {
    let first = c.warm(MODEL).await?.hive().unwrap_or_default();
    let victim = c.index(&first)?;
    c.hives[victim].kill().await?;
    c.wait_until(
        "the hive is unreachable",
        UNREACHABLE,
        async || Ok(c.phase(&first).await? == "unreachable"),
    )
    .await?;
    let second = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
    ensure!(second != first, "the dead hive answered");
    c.hives[victim].restart().await?;
    c.register(&c.hives[victim].registration()).await?.expect(200)?;
    c.wait_until("the hive is back", SOON, async || Ok(c.phase(&first).await? == "online")).await
}

pub(super) async fn restarted(c: &mut Cluster) -> anyhow::Result<()> {
    let first = c.warm(MODEL).await?.hive().unwrap_or_default();
    let at = c.index(&first)?;
    c.hives[at].act(json!({ "act": "restart" })).await?;
    // Its workers are gone with its launch; whoever asks next is served all the same.
    for _ in 0..4 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    let stale = c.hives[at]
        .journal()
        .await?
        .iter()
        .filter(|call| call.call == "proxy" && call.status == Some(200))
        .count();
    ensure!(stale <= 5, "{stale} answers came from a launch that is over");
    c.wait_until("the hive is online", SOON, async || Ok(c.phase(&first).await? == "online")).await
}

pub(super) async fn another_launch(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    // While the queen still believes in the launch that it knows, its successor has a worker of the same name for another
    // model.
    let slow = json!({ "calls": { "health": { "delay_ms": 800 } }, "worker": { "load_ms": 0 } });
    c.hives[0].script(slow).await?;
    c.hives[0].act(json!({ "act": "restart" })).await?;
    c.hives[0].spawn("hf:fake/beta").await?;
    c.wait_until("the successor's worker is ready", SOON, async || {
        Ok(c.hives[0].workers().await?.iter().any(|worker| worker["state"] == "ready"))
    })
    .await?;
    for _ in 0..4 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    Ok(())
}

pub(super) async fn conflicts(c: &mut Cluster) -> anyhow::Result<()> {
    let registration = c.hives[0].registration();
    let again = c.register(&registration).await?.expect(200)?.json();
    ensure!(again["created"] == false, "the hive was created again: {again}");
    let mut other = registration.clone();
    other["port"] = json!(1);
    c.register(&other).await?.expect_error(409, "hive_conflict")?;
    let callers = (0..20).map(|_| c.register(&registration));
    for reply in futures_util::future::try_join_all(callers).await? {
        reply.expect(200)?;
    }
    for bad in [
        json!({ "id": "x/y", "token": "t" }),
        json!({ "id": "x", "port": 0, "token": "t" }),
        json!({ "id": "x", "hostname": "a;id", "token": "t" }),
        json!({ "id": "x", "port": 70_000, "token": "t" }),
        json!({ "id": "x", "token": "" }),
    ] {
        c.register(&bad).await?.expect_error(400, "invalid_request")?;
    }
    let hives = c.hives_list().await?;
    ensure!(hives.len() == c.hives.len(), "{} hives are listed", hives.len());
    ensure!(hives.iter().all(|hive| hive["attached"] == true), "not attached: {hives:?}");
    Ok(())
}

pub(super) async fn someone_else_answers(c: &mut Cluster) -> anyhow::Result<()> {
    // The queen's own port answers HTTP and is no hive.
    let port: u16 = c.queen.server.base.rsplit(':').next().unwrap_or_default().parse()?;
    let body =
        json!({ "id": "impostor", "hostname": "127.0.0.1", "port": port, "token": "0123456789abcdef0123" });
    let reply = c.register(&body).await?;
    ensure!(
        reply.status.is_success() || reply.status.is_client_error(),
        "{}: {}",
        reply.status,
        reply.text()
    );
    if reply.status.is_success() {
        c.wait_until("the impostor is not online", SOON, async || {
            let phase = c.phase("impostor").await?;
            Ok(matches!(phase.as_str(), "error" | "unreachable"))
        })
        .await?;
    }
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn frozen(c: &mut Cluster) -> anyhow::Result<()> {
    let first = c.warm(MODEL).await?.hive().unwrap_or_default();
    let victim = c.index(&first)?;
    c.hives[victim].running.signal(process::Signal::STOP)?;
    c.hives[victim].faults += 1;
    let outcome = c.wait_until("the frozen hive is unreachable", UNREACHABLE, async || {
        Ok(c.phase(&first).await? == "unreachable")
    });
    let outcome = outcome.await;
    let served = c.infer(&c.ask(MODEL)).await;
    c.hives[victim].running.signal(process::Signal::CONT)?;
    outcome?;
    ensure!(served?.complete()?.hive() != Some(first.clone()), "the frozen hive answered");
    c.wait_until("the hive is back", SOON, async || Ok(c.phase(&first).await? == "online")).await
}

pub(super) async fn silent(c: &mut Cluster) -> anyhow::Result<()> {
    // Its stream says nothing and its health is fine: it stays, and is not restarted or emptied for it.
    c.warm(MODEL).await?;
    let probes = c.count("health").await?;
    c.script_all(json!({ "watch": { "silent": true } })).await?;
    c.wait_until("every silent hive was asked whether it lives", SOON, async || {
        Ok(c.count("health").await? >= probes + c.hives.len())
    })
    .await?;
    for _ in 0..3 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    let phases = c.hives_list().await?;
    ensure!(phases.iter().all(|hive| hive["phase"] == "online"), "silence passed for death: {phases:?}");
    for hive in &c.hives {
        hive.heal().await?;
    }
    c.wait_until("all are online", SOON, async || {
        Ok(c.hives_list().await?.iter().all(|hive| hive["phase"] == "online"))
    })
    .await?;
    ensure!(c.count("spawn").await? == 1, "another worker was started");
    Ok(())
}

pub(super) async fn lies_about_workers(c: &mut Cluster) -> anyhow::Result<()> {
    let claim = json!({ "claims": { "workers": [{ "worker_id": "w-ghost", "model_ref": MODEL }] } });
    c.hives[0].script(claim).await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    c.wait_until("the ghost is listed", SOON, async || {
        Ok(c.workers_list().await?.iter().any(|worker| worker["worker_id"] == "w-ghost"))
    })
    .await?;
    for _ in 0..3 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    Ok(())
}

pub(super) async fn lies_about_models(c: &mut Cluster) -> anyhow::Result<()> {
    c.hives[0].script(json!({ "claims": { "models": [MODEL] } })).await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn endless_lists(c: &mut Cluster) -> anyhow::Result<()> {
    c.hives[0].script(json!({ "claims": { "bogus_workers": 50_000 } })).await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    for _ in 0..5 {
        c.infer(&c.ask(MODEL)).await?.complete()?;
    }
    c.get("/readyz").await?.expect(200)?;
    c.hives[0].heal().await?;
    c.hives[0].act(json!({ "act": "cut_all" })).await?;
    c.wait_until("the queen has forgotten the bogus ones", SOON * 4, async || {
        Ok(c.workers_list().await?.len() < 10 && c.phase("hive-0").await? == "online")
    })
    .await
}

pub(super) async fn flaps(c: &mut Cluster) -> anyhow::Result<()> {
    two_workers(c).await?;
    let first = c.infer(&c.ask(MODEL)).await?.complete()?.hive().unwrap_or_default();
    let at = c.index(&first)?;
    c.hives[at].act(json!({ "act": "flap", "up_ms": 200, "down_ms": 200, "cycles": 8 })).await?;
    // As long as it flaps, and a little longer.
    let until = tokio::time::Instant::now() + Duration::from_millis(8 * 400 + 500);
    while tokio::time::Instant::now() < until {
        let outcome = c.infer(&c.ask(MODEL).tokens(4)).await?;
        // What had begun to arrive may be cut; what had not is answered by the other one.
        if outcome.hive().is_none() || outcome.end == End::Complete {
            outcome.complete()?;
        }
    }
    c.wait_until("the hive is online in the end", SOON + UNREACHABLE, async || {
        Ok(c.phase(&first).await? == "online")
    })
    .await
}

pub(super) async fn skips_a_revision(c: &mut Cluster) -> anyhow::Result<()> {
    let first = c.warm(MODEL).await?.hive().unwrap_or_default();
    let at = c.index(&first)?;
    c.hives[at].act(json!({ "act": "rev_gap", "by": 7 })).await?;
    c.hives[at].act(json!({ "act": "kill_worker" })).await?;
    // The gap makes the queen take a new snapshot, in which the death stands.
    c.wait_until("the queen knows of the death", SOON, async || {
        Ok(c.workers_list().await?.iter().all(|worker| worker["state"] != "ready"))
    })
    .await?;
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

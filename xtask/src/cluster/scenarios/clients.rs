//! Clients that do not stay.

use std::time::Duration;

use anyhow::ensure;
use fleet::EventKind;
use queen_api::InferEvent;
use serde_json::json;

use crate::cluster::fleet::Cluster;

const MODEL: &str = "hf:fake/alpha";

pub(super) async fn leaves(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 20, "slots": 1 } })).await?;
    c.warm(MODEL).await?;
    let mut stream = c.open(&c.ask(MODEL).tokens(10_000)).await?;
    stream.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    drop(stream);
    c.wait_until("the generation is cancelled", Duration::from_secs(1), async || {
        let mut cancelled = 0;
        for hive in &c.hives {
            cancelled += hive.journal().await?.iter().filter(|call| call.outcome == "cancelled").count();
        }
        Ok(cancelled == 1)
    })
    .await?;
    // The one slot is free again.
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn leaves_while_queued(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(json!({ "worker": { "token_ms": 20, "slots": 1 } })).await?;
    c.warm(MODEL).await?;
    let mut first = c.open(&c.ask(MODEL).tokens(10_000)).await?;
    first.until(|event| matches!(event, InferEvent::Token { .. })).await?;
    let ask = c.ask(MODEL);
    let mut second = c.open(&ask).await?;
    second.until(|event| matches!(event, InferEvent::Queued { .. })).await?;
    drop(second);
    // Two connections that close at once are noticed in any order; the slot must be freed after the client has left.
    c.wait_until("the queen knows that the waiting client left", Duration::from_secs(1), async || {
        let ended = |event: &fleet::Event| match &event.kind {
            EventKind::RequestEnded { request_id, .. } => request_id.as_str() == ask.id,
            _ => false,
        };
        Ok(c.queen.events.all().iter().any(ended))
    })
    .await?;
    drop(first);
    c.infer(&c.ask(MODEL)).await?.complete()?;
    for hive in &c.hives {
        let served = hive.journal().await?.into_iter().any(|call| call.request_id.as_ref() == Some(&ask.id));
        ensure!(!served, "the client that had left the queue was served");
    }
    Ok(())
}

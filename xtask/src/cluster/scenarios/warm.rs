//! A worker is there.

use anyhow::ensure;
use serde_json::Value;

use crate::cluster::fleet::Cluster;

const MODEL: &str = "hf:fake/alpha";

pub(super) async fn infer(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    let streamed = c.infer(&c.ask(MODEL)).await?.complete()?;
    ensure!(!streamed.was_loading(), "a warm request was told of loading");
    let whole = c.infer(&c.ask(MODEL).whole()).await?.complete()?;
    ensure!(whole.text == streamed.text, "{:?} is not {:?}", whole.text, streamed.text);
    ensure!(c.count("spawn").await? == 1, "more than one worker was started");
    Ok(())
}

pub(super) async fn chat_is_forwarded(c: &mut Cluster) -> anyhow::Result<()> {
    c.warm(MODEL).await?;
    for stream in [false, true] {
        let mut ask = c.ask("fake/alpha");
        ask.stream = stream;
        let reply = c.post("/v1/chat/completions", &ask.chat_body()).await?.expect(200)?;
        ensure!(reply.headers.contains_key("x-rbee-worker"), "the answer does not say who gave it");
        if stream {
            ensure!(reply.text().trim_end().ends_with("data: [DONE]"), "no terminator: {}", reply.text());
            continue;
        }
        let json = reply.json();
        ensure!(json["model"] == MODEL, "the worker served {}", json["model"]);
        let content = json["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        tiny_model::check_continuation("", content)?;
        ensure!(json["usage"]["completion_tokens"] == 24, "not the usage of 24 tokens: {}", json["usage"]);
    }
    Ok(())
}

pub(super) async fn two_at_once(c: &mut Cluster) -> anyhow::Result<()> {
    // So slowly that they are under way together, and one ends before the other.
    c.script_all(serde_json::json!({ "worker": { "token_ms": 30 } })).await?;
    c.warm(MODEL).await?;
    for outcome in c.infer_all(&[c.ask(MODEL), c.ask(MODEL).tokens(12)]).await? {
        outcome.complete()?;
    }
    Ok(())
}

pub(super) async fn fifty_clients(c: &mut Cluster) -> anyhow::Result<()> {
    c.script_all(serde_json::json!({ "worker": { "token_ms": 1 } })).await?;
    c.warm(MODEL).await?;
    let asks: Vec<_> =
        (0..50).map(|n| if n % 2 == 0 { c.ask(MODEL) } else { c.ask(MODEL).whole() }).collect();
    for outcome in c.infer_all(&asks).await? {
        outcome.complete()?;
    }
    let busiest =
        c.workers_list().await?.iter().map(|worker| worker["in_flight"].clone()).max_by_key(Value::as_u64);
    ensure!(busiest == Some(0.into()), "slots are taken and nobody asks: {busiest:?}");
    Ok(())
}

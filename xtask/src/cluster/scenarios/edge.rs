//! What does not get past the surface.

use anyhow::ensure;
use reqwest::Method;
use serde_json::json;

use crate::cluster::fleet::Cluster;

const MODEL: &str = "hf:fake/alpha";

pub(super) async fn bad_bodies(c: &mut Cluster) -> anyhow::Result<()> {
    let deep =
        format!("{{\"model\":\"{MODEL}\",\"prompt\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: &[(&str, &str)] = &[
        ("/v1/infer", ""),
        ("/v1/infer", "{"),
        ("/v1/infer", "[]"),
        ("/v1/infer", "null"),
        ("/v1/infer", "{\"model\":\"a/b\"}"),
        ("/v1/infer", "{\"prompt\":\"x\"}"),
        ("/v1/infer", "{\"model\":\"a/b\",\"prompt\":7}"),
        ("/v1/infer", "{\"model\":\"a/b\",\"prompt\":\"x\",\"max_token\":1}"),
        ("/v1/infer", "{\"model\":\"a/b\",\"model\":\"a/c\",\"prompt\":\"x\"}"),
        ("/v1/infer", "{\"model\":\"a/b\",\"prompt\":\"x\"} {}"),
        ("/v1/infer", &deep),
        ("/v1/chat/completions", ""),
        ("/v1/chat/completions", "{\"messages\":[]}"),
        ("/v1/chat/completions", "{\"model\":\"a/b\",\"model\":\"a/c\",\"messages\":[]}"),
        ("/v1/chat/completions", "{\"model\":7,\"messages\":[]}"),
        ("/v1/chat/completions", "{\"model\":\"a/b\""),
        ("/v1/chat/completions", &deep),
        ("/v1/hives/register", "{\"prot\":1}"),
        ("/v1/hives/register", "{\"hostname\":\"-oProxyCommand=x\",\"token\":\"t\"}"),
    ];
    for (path, body) in bodies {
        let reply = c.queen.server.post_raw(path, body.as_bytes().to_vec()).await?;
        let shown: String = body.chars().take(80).collect();
        reply
            .expect_error(400, "invalid_request")
            .map_err(|error| error.context(format!("{path} {shown:?}")))?;
    }
    let not_utf8 = b"{\"model\":\"a/b\",\"prompt\":\"\xff\"}".to_vec();
    c.queen.server.post_raw("/v1/infer", not_utf8).await?.expect_error(400, "invalid_request")?;
    let huge = format!("{{\"model\":\"{MODEL}\",\"prompt\":\"{}\"}}", "x".repeat(33 << 20));
    for path in ["/v1/infer", "/v1/chat/completions"] {
        c.queen
            .server
            .post_raw(path, huge.clone().into_bytes())
            .await?
            .expect_error(413, "body_too_large")?;
    }
    ensure!(c.count("spawn").await? == 0, "a worker was started for a body that is no request");
    c.infer(&c.ask(MODEL)).await?.complete().map(drop)
}

pub(super) async fn bad_models(c: &mut Cluster) -> anyhow::Result<()> {
    let bad = [
        "hf:fake/../../etc/passwd",
        "file:../x.gguf",
        "file:/tmp/../etc/passwd",
        "a/b;id",
        "a/$(id)",
        "a/`id`",
        "-a/b",
        "a/-b",
        ".a/b",
        "a/b|c",
        "a b/c",
        "",
        "a",
        "hf:",
        "hf:a/b@../x",
        "http://a/b",
        "a/b\n",
        "ä/b",
    ];
    for model in bad {
        for (path, body) in [
            ("/v1/infer", json!({ "model": model, "prompt": "x" })),
            ("/v1/chat/completions", json!({ "model": model, "messages": [] })),
        ] {
            let reply = c.post(path, &body).await?;
            reply
                .expect_error(400, "invalid_request")
                .map_err(|error| error.context(format!("{path} {model:?}")))?;
        }
    }
    // The hub of the fakes has nothing of this owner.
    for ask in [c.ask("hf:missing/model").whole(), c.ask("hf:missing/model")] {
        let outcome = c.infer(&ask).await?;
        outcome.failed(queen_api::ErrorCode::ModelNotFound)?;
        ensure!(ask.stream || outcome.status == 404, "unknown is {}", outcome.status);
    }
    let body = json!({ "model": "hf:missing/model", "messages": [] });
    c.post("/v1/chat/completions", &body).await?.expect_error(404, "model_not_found")?;
    ensure!(c.count("spawn").await? == 0, "a worker was started for no model");
    Ok(())
}

pub(super) async fn no_token(c: &mut Cluster) -> anyhow::Result<()> {
    let mut stranger = c.queen.server.clone();
    for token in [None, Some("wrong".to_owned()), Some(String::new())] {
        stranger.token = token;
        for path in ["/v1/hives/list", "/v1/workers/list", "/v1/models", "/v1/events", "/v1/nothing"] {
            stranger.get(path).await?.expect_error(401, "unauthorized")?;
        }
        let body = c.ask(MODEL).infer_body();
        for path in ["/v1/infer", "/v1/chat/completions", "/v1/shutdown", "/v1/hives/register"] {
            stranger.post(path, &body).await?.expect_error(401, "unauthorized")?;
        }
        for path in ["/healthz", "/readyz"] {
            stranger.get(path).await?.expect(200)?;
        }
    }
    ensure!(c.count("spawn").await? == 0, "a stranger started a worker");
    Ok(())
}

pub(super) async fn unknown_paths(c: &mut Cluster) -> anyhow::Result<()> {
    let queen = &c.queen.server;
    queen.get("/v1/nothing").await?.expect_error(404, "not_found")?;
    queen.get("/").await?.expect_error(404, "not_found")?;
    queen.get("/v1/infer").await?.expect_error(405, "method_not_allowed")?;
    queen.post("/v1/hives/list", &json!({})).await?.expect_error(405, "method_not_allowed")?;
    queen.send(queen.request(Method::DELETE, "/healthz")).await?.expect(405)?;
    queen.get("/v1/events?since=x").await?.expect_error(400, "invalid_request").map(drop)
}

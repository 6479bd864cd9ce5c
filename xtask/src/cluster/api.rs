//! HTTP as a client of the queen speaks it.

use std::time::Duration;

use anyhow::Context as _;
use http_client::Trust;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

/// How long any single answer may take before a scenario fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client that follows nothing and uses no proxy.
pub(crate) fn client() -> anyhow::Result<Client> {
    http_client::builder(Trust::Nobody)
        .connect_timeout(Duration::from_secs(5))
        .build()
        .context("could not set up HTTP")
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an error, in either of the queen's shapes.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The message of an error.
    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Fails unless the status is this one.
    pub(crate) fn expect(self, status: u16) -> anyhow::Result<Self> {
        anyhow::ensure!(
            self.status.as_u16() == status,
            "{status} was due, not {}: {}",
            self.status,
            self.text()
        );
        Ok(self)
    }

    /// Fails unless it is this error.
    pub(crate) fn expect_error(self, status: u16, code: &str) -> anyhow::Result<Self> {
        let reply = self.expect(status)?;
        anyhow::ensure!(
            reply.code() == code,
            "the code {code} was due, not {:?}: {}",
            reply.code(),
            reply.text()
        );
        anyhow::ensure!(!reply.message().is_empty(), "an error without a message: {}", reply.text());
        Ok(reply)
    }
}

/// A server, and the token it wants.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) base: String,
    pub(crate) token: Option<String>,
}

impl Server {
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Reply> {
        let answer = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await?.to_vec();
            anyhow::Ok(Reply { status, headers, body })
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        answer.with_context(|| format!("no whole answer within {PATIENCE:?}"))?
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(self.request(Method::GET, path)).await.with_context(|| format!("GET {path}"))
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.post_raw(path, body.to_string().into_bytes()).await
    }

    pub(crate) async fn post_raw(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Reply> {
        let request = self.request(Method::POST, path).header("content-type", "application/json").body(body);
        self.send(request).await.with_context(|| format!("POST {path}"))
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        let request = self.request(Method::PUT, path).json(body);
        self.send(request).await.with_context(|| format!("PUT {path}"))
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(self.request(Method::DELETE, path)).await.with_context(|| format!("DELETE {path}"))
    }
}

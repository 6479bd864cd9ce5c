//! The hive under test, and ways to ask it.

use std::time::Duration;

use fleet::{HiveEndpoint, Hostname, ModelRef, TlsFingerprint, Token, WorkerRecord};
use futures_util::{StreamExt, stream::BoxStream};
use hive_api::{
    ErrorBody, ErrorCode, Health, LAUNCH_HEADER, WatchEvent,
    client::{ClientError, Connections, HiveClient, Timeouts},
};
use reqwest::{Method, RequestBuilder, Response};
use tokio::sync::OnceCell;

use crate::verdict::{Check, Fault, ensure, same};

/// Longest answer that a check reads.
const ANSWER_MAX: usize = 16 << 20;

/// A hive to be checked.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it answers.
    pub host: Hostname,
    /// On which port.
    pub port: u16,
    /// Its token.
    pub token: Token,
    /// Its certificate; without one it is reached over plain HTTP.
    pub pin: Option<TlsFingerprint>,
    /// A model that it has or can get; without one, what needs a model is not run.
    pub model: Option<ModelRef>,
    /// Longest time for one check. Loading a large model takes minutes.
    pub patience: Duration,
}

/// Text that names no hive.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no hive's address; write it as http://host:port")]
pub struct TargetError(String);

impl Target {
    /// The hive at `http://host:port`, with five minutes for each check. One of `https` needs [`Self::with_pin`], too.
    ///
    /// # Errors
    /// Another form of address.
    pub fn at(url: &str, token: Token) -> Result<Self, TargetError> {
        let refused = || TargetError(url.to_owned());
        let parsed = reqwest::Url::parse(url).map_err(|_| refused())?;
        let host = parsed.host_str().map(|host| host.trim_matches(['[', ']']));
        if !matches!(parsed.scheme(), "http" | "https") || parsed.path() != "/" {
            return Err(refused());
        }
        Ok(Self {
            host: host.and_then(|host| host.parse().ok()).ok_or_else(refused)?,
            port: parsed.port().ok_or_else(refused)?,
            token,
            pin: None,
            model: None,
            patience: Duration::from_secs(300),
        })
    }

    /// The same, over TLS with this certificate.
    #[must_use]
    pub fn with_pin(self, pin: TlsFingerprint) -> Self {
        Self { pin: Some(pin), ..self }
    }

    /// The same, with a model.
    #[must_use]
    pub fn with_model(self, model: ModelRef) -> Self {
        Self { model: Some(model), ..self }
    }
}

/// A hive that answered to its health.
pub(crate) struct Probe {
    pub(crate) target: Target,
    pub(crate) health: Health,
    pub(crate) client: HiveClient,
    /// Ids that no other run of the checks uses.
    pub(crate) run: String,
    /// The worker that the checks started, once it was ready.
    pub(crate) worker: OnceCell<WorkerRecord>,
    http: reqwest::Client,
    base: String,
}

/// A watch that is read with a deadline.
pub(crate) struct Watch(BoxStream<'static, Result<WatchEvent, ClientError>>);

impl Watch {
    pub(crate) async fn next(&mut self, within: Duration) -> Result<WatchEvent, Fault> {
        match tokio::time::timeout(within, self.0.next()).await {
            Ok(Some(event)) => Ok(event?),
            Ok(None) => Err(Fault::failed("the watch ended")),
            Err(_) => Err(Fault::Failed(format!("the watch said nothing for {within:?}"))),
        }
    }
}

impl Probe {
    /// Asks the hive who it is.
    pub(crate) async fn new(target: &Target) -> Result<Self, Fault> {
        let connections = Connections::new(Timeouts::default())?;
        let health = connections.health(&target.host, target.port, target.pin).await?;
        let client = connections.client(HiveEndpoint {
            hive_id: health.hive_id.clone(),
            launch_id: health.launch_id.clone(),
            host: target.host.clone(),
            port: target.port,
            token: target.token.clone(),
            pin: target.pin,
        });
        let http = http_client::builder(target.pin.into()).connect_timeout(Duration::from_secs(2)).build()?;
        let random = getrandom::u64().map_err(|e| Fault::NotRun(format!("no randomness: {e}")))?;
        Ok(Self {
            target: target.clone(),
            health,
            base: client.endpoint().base_url(),
            client,
            run: format!("{random:016x}"),
            worker: OnceCell::new(),
            http,
        })
    }

    /// A request without launch and token.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// A request that is let in.
    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.bare(method, path).header(LAUNCH_HEADER, self.health.launch_id.as_str());
        request.bearer_auth(self.target.token.reveal())
    }

    pub(crate) fn model(&self) -> Result<&ModelRef, Fault> {
        self.target.model.as_ref().ok_or_else(|| Fault::NotRun("no model was given".to_owned()))
    }

    /// The worker that an earlier check made ready.
    pub(crate) fn ready_worker(&self) -> Result<&WorkerRecord, Fault> {
        self.worker.get().ok_or_else(|| Fault::NotRun("there is no ready worker".to_owned()))
    }

    pub(crate) async fn watch(&self) -> Result<Watch, Fault> {
        Ok(Watch(self.client.watch().await?))
    }
}

/// The whole body of an answer, within a bound.
pub(crate) async fn body_of(response: Response) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece?);
        ensure(body.len() <= ANSWER_MAX, || format!("the answer is longer than {ANSWER_MAX} bytes"))?;
    }
    Ok(body)
}

/// The error that an answer must be: one of these codes, with its status and the shape of all errors.
pub(crate) async fn error_of(request: RequestBuilder, codes: &[ErrorCode]) -> Result<ErrorBody, Fault> {
    let (client, request) = request.build_split();
    let request = request?;
    let what = format!("{} {}", request.method(), request.url().path());
    let told = |fault: String| Fault::Failed(format!("{what}: {fault}"));
    let response = client.execute(request).await?;
    let status = response.status().as_u16();
    let body = body_of(response).await?;
    let error: ErrorBody = serde_json::from_slice(&body)
        .map_err(|e| told(format!("answered {status} without an error body: {e}")))?;
    let code = error.error.code;
    if !codes.contains(&code) {
        return Err(told(format!("answered {status} {code:?}, not one of {codes:?}")));
    }
    same(&format!("{what}: the status of {code:?}"), &status, &code.status())?;
    ensure(!error.error.message.is_empty(), || format!("{what}: the error has no message"))?;
    Ok(error)
}

/// Several requests that must all be refused with the same code.
pub(crate) async fn all_refused(
    requests: impl IntoIterator<Item = RequestBuilder>,
    codes: &[ErrorCode],
) -> Check {
    for request in requests {
        error_of(request, codes).await?;
    }
    Ok(())
}

//! The client and its calls.

use std::time::Duration;

use causes::with_causes;
use fleet::{Desired, HiveId, RequestDecisions, RequestId, Token};
use futures_util::{Stream, StreamExt};
use queen_api::{
    CatalogModel, CatalogReply, EnsureEvent, EnsureRequest, ErrorBody, HealthReply, HiveInfo, HivesOnStop,
    HivesReply, InferEvent, InferReply, InferRequest, LogSource, LogsReply, ModelCard, ModelsReply,
    OpenAiErrorBody, ReadyReply, RegisterReply, RegisterRequest, RemoveModelReply, ShutdownReply,
    ShutdownRequest, WorkerInfo, WorkersReply,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{AddressError, ClientError, ClientErrorKind, Happening, collect, streams};

/// Where a queen listens that was told nothing else.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7833";

/// Longest answer of a control call, in bytes.
const REPLY_MAX: usize = 64 * 1024 * 1024;

/// Bounds of the calls.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To open a connection.
    pub connect: Duration,
    /// For a control call, from start to the last byte of the answer.
    pub call: Duration,
    /// For a call that waits until a hive has ended, whose workers may finish what they have first.
    pub hive_end: Duration,
    /// Without a byte on a stream. The queen sends a comment every 10 s.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(10),
            hive_end: Duration::from_secs(120),
            silence: Duration::from_secs(60),
        }
    }
}

/// A client of one queen. Clones share their connections.
#[derive(Debug, Clone)]
pub struct QueenClient {
    http: reqwest::Client,
    base: String,
    token: Option<Token>,
    timeouts: Timeouts,
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

impl QueenClient {
    /// A client of the queen at this address, such as `http://127.0.0.1:7833` or `box:7833`. Nothing is sent yet.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(address: &str, token: Option<Token>) -> Result<Self, AddressError> {
        Self::with_timeouts(address, token, Timeouts::default())
    }

    /// The same with other bounds.
    ///
    /// # Errors
    /// An address that is none.
    pub fn with_timeouts(
        address: &str,
        token: Option<Token>,
        timeouts: Timeouts,
    ) -> Result<Self, AddressError> {
        let base = base(address)?;
        let http = http_client::builder(http_client::Trust::Nobody)
            .connect_timeout(timeouts.connect)
            // Below the 10 s after which a queen closes an idle connection, so that a pooled one is rarely stale.
            .pool_idle_timeout(Duration::from_secs(8))
            .build()
            .map_err(|error| AddressError::Setup { reason: with_causes(&error) })?;
        Ok(Self { http, base, token, timeouts })
    }

    /// The queen's address, without a slash at its end.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.base
    }

    /// Whether the queen's process answers. Needs no token.
    ///
    /// # Errors
    /// As every call: [`ClientError`] tells what was asked and what happened.
    pub async fn health(&self) -> Result<HealthReply> {
        self.call("ask the queen for its health", self.request(Method::GET, "/healthz")).await
    }

    /// Whether the queen takes requests, and what it has. Needs no token; a queen that stops says so here, too.
    ///
    /// # Errors
    /// As every call.
    pub async fn ready(&self) -> Result<ReadyReply> {
        let action = "ask the queen whether it is ready";
        let whole = async {
            let response = self.send(action, self.request(Method::GET, "/readyz")).await?;
            match response.status() {
                StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => self.json(action, response).await,
                _ => Err(self.refusal(action, response).await),
            }
        };
        self.bounded(action, whole).await
    }

    /// All registered hives, by id.
    ///
    /// # Errors
    /// As every call.
    pub async fn hives(&self) -> Result<Vec<HiveInfo>> {
        let reply = self.call("list the hives", self.request(Method::GET, "/v1/hives/list")).await;
        reply.map(|reply: HivesReply| reply.hives)
    }

    /// One hive.
    ///
    /// # Errors
    /// As every call; one that is not registered is `hive_not_found`.
    pub async fn hive(&self, id: &HiveId) -> Result<HiveInfo> {
        self.call("look at the hive", self.request(Method::GET, &format!("/v1/hives/{id}"))).await
    }

    /// Notes what is wanted of a hive from now on, and returns it as it stands then. Asking again changes nothing.
    ///
    /// # Errors
    /// As every call; one that is not registered is `hive_not_found`.
    pub async fn desire(&self, id: &HiveId, desired: Desired) -> Result<HiveInfo> {
        let (action, verb) = match desired {
            Desired::Running => ("start the hive", "start"),
            Desired::Stopped => ("stop the hive", "stop"),
            Desired::Drained => ("drain the hive", "drain"),
            Desired::Paused => ("pause the hive", "pause"),
        };
        self.call(action, self.request(Method::POST, &format!("/v1/hives/{id}/{verb}"))).await
    }

    /// Why a request went where it went, by its name in `x-request-id`.
    ///
    /// # Errors
    /// As every call; one that the queen does not remember is `not_found`.
    pub async fn decisions(&self, id: &RequestId) -> Result<RequestDecisions> {
        let path = format!("/v1/decisions/{id}");
        self.call("ask why the request went where it went", self.request(Method::GET, &path)).await
    }

    /// The last lines of a hive's or a worker's log, oldest first.
    ///
    /// # Errors
    /// As every call; a log that nobody can read just now is `hive_failed`.
    pub async fn logs(&self, source: &LogSource, lines: usize) -> Result<Vec<String>> {
        let path = format!("/v1/logs?source={source}&lines={lines}");
        let reply = self.call("read the log", self.request(Method::GET, &path)).await;
        reply.map(|reply: LogsReply| reply.lines)
    }

    /// Registers a hive. Registering it the same way again changes nothing.
    ///
    /// # Errors
    /// As every call; another hive under that id is refused with `hive_conflict`.
    pub async fn register(&self, request: &RegisterRequest) -> Result<RegisterReply> {
        self.call("register the hive", self.request(Method::POST, "/v1/hives/register").json(request)).await
    }

    /// Removes a hive. One that the queen started is stopped first, which this waits for; one that is attached is only
    /// forgotten.
    ///
    /// # Errors
    /// As every call; one that the configuration file has is refused with `hive_conflict`.
    pub async fn remove_hive(&self, id: &HiveId) -> Result<()> {
        let action = "remove the hive";
        let whole = async {
            let response =
                self.send(action, self.request(Method::DELETE, &format!("/v1/hives/{id}"))).await?;
            if response.status().is_success() { Ok(()) } else { Err(self.refusal(action, response).await) }
        };
        self.within(self.timeouts.hive_end, action, whole).await
    }

    /// The workers of all hives, by hive and id.
    ///
    /// # Errors
    /// As every call.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let reply = self.call("list the workers", self.request(Method::GET, "/v1/workers/list")).await;
        reply.map(|reply: WorkersReply| reply.workers)
    }

    /// The models that can be asked, running or not.
    ///
    /// # Errors
    /// As every call.
    pub async fn models(&self) -> Result<Vec<ModelCard>> {
        let reply = self.call("list the models", self.request(Method::GET, "/v1/models")).await;
        reply.map(|reply: ModelsReply| reply.data)
    }

    /// Every model that is known, and where it is.
    ///
    /// # Errors
    /// As every call.
    pub async fn catalog(&self) -> Result<Vec<CatalogModel>> {
        let reply = self.call("read the catalog", self.request(Method::GET, "/v1/models/catalog")).await;
        reply.map(|reply: CatalogReply| reply.models)
    }

    /// Brings a model to a hive, and yields how far it is. The stream ends behind a `complete`, or with one error. Dropping
    /// it ends nothing: a transfer that began goes on.
    ///
    /// # Errors
    /// As every call, for the head of the answer.
    pub async fn ensure(
        &self,
        request: &EnsureRequest,
    ) -> Result<impl Stream<Item = Result<EnsureEvent>> + Send + Unpin + use<>> {
        let action = "bring the model";
        let request = self.request(Method::POST, "/v1/models/ensure").json(request);
        let response = self.stream(action, request).await?;
        Ok(streams::ensure(response, action, self.base.clone(), self.timeouts.silence).boxed())
    }

    /// Removes a model's files from one hive, or from all.
    ///
    /// # Errors
    /// As every call; one that a worker uses is `model_in_use`, one that is nowhere `model_not_found`.
    pub async fn remove_model(&self, model: &str, hive: Option<&HiveId>) -> Result<RemoveModelReply> {
        let hive = hive.map(|hive| format!("&hive={hive}")).unwrap_or_default();
        let path = format!("/v1/models/catalog?ref={}{hive}", query_value(model));
        self.call("remove the model", self.request(Method::DELETE, &path)).await
    }

    /// Asks a model, and yields what happens and what it says. The stream ends behind an `end`, or with one error; dropping
    /// it cancels the generation.
    ///
    /// # Errors
    /// As every call, for the head of the answer.
    pub async fn infer(
        &self,
        request: &InferRequest,
    ) -> Result<impl Stream<Item = Result<InferEvent>> + Send + Unpin + use<>> {
        let action = "ask the model";
        let request = InferRequest { stream: true, ..request.clone() };
        let response = self.stream(action, self.request(Method::POST, "/v1/infer").json(&request)).await?;
        Ok(streams::infer(response, action, self.base.clone(), self.timeouts.silence).boxed())
    }

    /// Asks a model and waits for the whole answer, however long that takes: as long as the queen tells that something
    /// happens, there is no bound. Dropping the future cancels the generation.
    ///
    /// # Errors
    /// As every call.
    pub async fn infer_whole(&self, request: &InferRequest) -> Result<InferReply> {
        collect(self.infer(request).await?, |_| ()).await
    }

    /// What happens in the fleet from now on, or from behind the event `since`. Ends when the queen stops.
    ///
    /// # Errors
    /// As every call, for the head of the answer.
    pub async fn events(
        &self,
        since: Option<u64>,
    ) -> Result<impl Stream<Item = Result<Happening>> + Send + Unpin + use<>> {
        let action = "follow the events";
        let path = since.map_or_else(|| "/v1/events".to_owned(), |seq| format!("/v1/events?since={seq}"));
        let response = self.stream(action, self.request(Method::GET, &path)).await?;
        Ok(streams::events(response, action, self.base.clone(), self.timeouts.silence).boxed())
    }

    /// Has the queen stop. It answers before it does.
    ///
    /// # Errors
    /// As every call.
    pub async fn shutdown(&self, hives: HivesOnStop) -> Result<ShutdownReply> {
        let request = self.request(Method::POST, "/v1/shutdown").json(&ShutdownRequest { hives });
        self.call("stop the queen", request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    async fn call<T: DeserializeOwned>(&self, action: &'static str, request: RequestBuilder) -> Result<T> {
        let whole = async {
            let response = self.send(action, request).await?;
            if response.status().is_success() {
                self.json(action, response).await
            } else {
                Err(self.refusal(action, response).await)
            }
        };
        self.bounded(action, whole).await
    }

    /// The head of a stream; the stream itself is bounded by its silence.
    async fn stream(&self, action: &'static str, request: RequestBuilder) -> Result<Response> {
        let head = async {
            let response = self.send(action, request).await?;
            if response.status().is_success() {
                Ok(response)
            } else {
                Err(self.refusal(action, response).await)
            }
        };
        self.bounded(action, head).await
    }

    async fn bounded<T>(&self, action: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.within(self.timeouts.call, action, work).await
    }

    async fn within<T>(
        &self,
        bound: Duration,
        action: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let late = |_| ClientError::new(action, ClientErrorKind::Timeout { address: self.base.clone() });
        timeout(bound, work).await.map_err(late)?
    }

    async fn send(&self, action: &'static str, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|error| {
            let address = self.base.clone();
            let kind = if error.is_connect() {
                ClientErrorKind::NotRunning { address, reason: root(&error) }
            } else if error.is_timeout() {
                ClientErrorKind::Timeout { address }
            } else {
                ClientErrorKind::NotAQueen { address, reason: with_causes(&error.without_url()) }
            };
            ClientError::new(action, kind)
        })
    }

    async fn refusal(&self, action: &'static str, response: Response) -> ClientError {
        let status = response.status();
        let body = match self.body(action, response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let detail = serde_json::from_slice::<ErrorBody>(&body)
            .map(|body| body.error)
            .or_else(|_| serde_json::from_slice::<OpenAiErrorBody>(&body).map(streams::detail));
        let kind = detail.map_or_else(
            |_| ClientErrorKind::NotAQueen {
                address: self.base.clone(),
                reason: format!("it answered {status} without saying why"),
            },
            ClientErrorKind::Refused,
        );
        ClientError::new(action, kind)
    }

    async fn json<T: DeserializeOwned>(&self, action: &'static str, response: Response) -> Result<T> {
        let body = self.body(action, response).await?;
        serde_json::from_slice(&body).map_err(|error| {
            let reason = format!("its answer cannot be read: {error}");
            ClientError::new(action, ClientErrorKind::NotAQueen { address: self.base.clone(), reason })
        })
    }

    async fn body(&self, action: &'static str, response: Response) -> Result<Vec<u8>> {
        let address = || self.base.clone();
        let mut body = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| {
                let reason = with_causes(&error.without_url());
                ClientError::new(action, ClientErrorKind::Broke { address: address(), reason })
            })?;
            if body.len() + piece.len() > REPLY_MAX {
                let reason = format!("its answer is longer than {REPLY_MAX} bytes");
                return Err(ClientError::new(
                    action,
                    ClientErrorKind::NotAQueen { address: address(), reason },
                ));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

fn base(address: &str) -> Result<String, AddressError> {
    let malformed = || AddressError::Malformed { address: address.to_owned() };
    let text = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url = Url::parse(&text).map_err(|_| malformed())?;
    if url.scheme() != "http" {
        return Err(AddressError::Scheme { address: address.to_owned() });
    }
    // Anything more than host and port would be lost or, as a user and password are, sent to wherever.
    let bare =
        url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if !bare || !url.has_host() || url.password().is_some() {
        return Err(malformed());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// A text as the value of a query.
fn query_value(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'/' | b':' | b'@');
    let encoded =
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") });
    encoded.collect()
}

/// What the system said, without the layers above it.
fn root(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_or_without_its_protocol() {
        for (address, expected) in [
            ("http://127.0.0.1:7833", "http://127.0.0.1:7833"),
            ("http://127.0.0.1:7833/", "http://127.0.0.1:7833"),
            ("box:7833", "http://box:7833"),
            ("[::1]:7833", "http://[::1]:7833"),
            ("localhost", "http://localhost"),
        ] {
            assert_eq!(base(address).as_deref(), Ok(expected), "{address}");
        }
        for address in
            ["", "http://", "http://a/b", "http://u:p@a", "http://a?x", "a b", "file:///etc/passwd"]
        {
            assert!(base(address).is_err(), "{address:?} was taken");
        }
        assert!(matches!(base("https://box"), Err(AddressError::Scheme { .. })));
    }
}

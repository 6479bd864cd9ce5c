//! The asking side: a typed client of one hive.
//!
//! Control calls only; whoever forwards requests to workers does so by itself. Every call has a deadline and a bound on what
//! it reads, follows no redirect, asks no proxy and decompresses nothing, so a broken or hostile hive costs at most its
//! own deadline. A hive whose certificate is known is reached over TLS and shown nothing before its certificate was right.

mod blobs;
mod call;
mod error;
mod events;

use std::{sync::Arc, time::Duration};

use fleet::{HiveEndpoint, Hostname, ModelRef, TlsFingerprint, WorkerId, WorkerRecord};
use http_client::{PerPin, Trust};
use reqwest::Method;

pub use error::{ClientError, ClientErrorKind};

use crate::{
    API_VERSION, CapabilitiesReply, DownloadReply, DownloadRequest, Health, Inspection, LogsReply,
    ModelsReply, ShutdownReply, ShutdownRequest, SpawnReply, SpawnRequest, StopWorkerRequest, WorkersReply,
};

/// Bounds of the calls.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To open a connection.
    pub connect: Duration,
    /// For a control call, from start to the last byte of the answer.
    pub call: Duration,
    /// For a model's header, which the hive may have to fetch from a hub.
    pub inspect: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(5),
            inspect: Duration::from_secs(30),
        }
    }
}

/// Connections to hives, shared by all [`HiveClient`]s.
#[derive(Debug, Clone)]
pub struct Connections {
    http: Arc<PerPin<reqwest::Client>>,
    /// Without a pool, for questions that only a new connection can answer.
    fresh: Arc<PerPin<reqwest::Client>>,
    timeouts: Timeouts,
}

/// A client that is kept open for this long after a call. Below the 10 s after which a hive closes an idle connection, so that
/// a pooled one is rarely stale.
const IDLE: Duration = Duration::from_secs(8);

fn clients(
    connect: Duration,
    pool: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync + 'static,
) -> Result<Arc<PerPin<reqwest::Client>>, reqwest::Error> {
    let make = move |trust| pool(http_client::builder(trust).connect_timeout(connect)).build();
    // Should a later one fail, this one stands in: it accepts no certificate at all.
    let plain = make(Trust::Nobody)?;
    Ok(Arc::new(PerPin::new(move |trust| make(trust).unwrap_or_else(|_| plain.clone()))))
}

impl Connections {
    /// Opens none yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up, which a broken system resolver can cause.
    pub fn new(timeouts: Timeouts) -> Result<Self, reqwest::Error> {
        let http = clients(timeouts.connect, |builder| builder.pool_idle_timeout(IDLE))?;
        let fresh = clients(timeouts.connect, |builder| builder.pool_max_idle_per_host(0))?;
        Ok(Self { http, fresh, timeouts })
    }

    /// Asks whoever listens there who it is, on a fresh connection of its own: over TLS if its certificate is known, else
    /// over plain HTTP.
    ///
    /// # Errors
    /// When nobody answers in time, or what answers shows another certificate or is not a hive of this contract.
    pub async fn health(
        &self,
        host: &Hostname,
        port: u16,
        pin: Option<TlsFingerprint>,
    ) -> Result<Health, ClientError> {
        let scheme = if pin.is_some() { "https" } else { "http" };
        let who = host.with_port(port);
        let request =
            self.fresh.of(pin).get(format!("{scheme}://{who}/v1/health")).timeout(self.timeouts.call);
        let health: Health = call::json(request, &who, "health").await?;
        if health.api_version == API_VERSION {
            Ok(health)
        } else {
            let reason = format!(
                "it speaks version {} of the hive contract, this is {API_VERSION}",
                health.api_version
            );
            Err(ClientError::new(who, "health", ClientErrorKind::NotAHive { reason }))
        }
    }

    /// A client of the hive at this endpoint.
    #[must_use]
    pub fn client(&self, endpoint: HiveEndpoint) -> HiveClient {
        HiveClient { http: self.http.of(endpoint.pin), timeouts: self.timeouts, endpoint }
    }
}

/// A client of one launch of one hive.
#[derive(Debug, Clone)]
pub struct HiveClient {
    http: reqwest::Client,
    timeouts: Timeouts,
    endpoint: HiveEndpoint,
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

impl HiveClient {
    /// Where it sends its calls.
    #[must_use]
    pub const fn endpoint(&self) -> &HiveEndpoint {
        &self.endpoint
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.endpoint.base_url()))
            .header(crate::LAUNCH_HEADER, self.endpoint.launch_id.as_str())
            .bearer_auth(self.endpoint.token.reveal())
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        action: &'static str,
    ) -> Result<T> {
        call::json(request.timeout(self.timeouts.call), self.endpoint.hive_id.as_str(), action).await
    }

    /// The machine.
    ///
    /// # Errors
    /// As every call: [`ClientError`] tells hive, action and kind.
    pub async fn capabilities(&self) -> Result<CapabilitiesReply> {
        self.call(self.request(Method::GET, "/v1/capabilities"), "capabilities").await
    }

    /// All workers.
    ///
    /// # Errors
    /// As every call.
    pub async fn workers(&self) -> Result<WorkersReply> {
        self.call(self.request(Method::GET, "/v1/workers/list"), "list workers").await
    }

    /// Starts a worker, or finds the one of the same key.
    ///
    /// # Errors
    /// As every call.
    pub async fn spawn(&self, request: &SpawnRequest) -> Result<SpawnReply> {
        self.call(self.request(Method::POST, "/v1/workers/spawn").json(request), "spawn worker").await
    }

    /// Begins to stop a worker.
    ///
    /// # Errors
    /// As every call.
    pub async fn stop_worker(&self, worker: &WorkerId, request: &StopWorkerRequest) -> Result<WorkerRecord> {
        let path = format!("/v1/workers/{worker}/stop");
        self.call(self.request(Method::POST, &path).json(request), "stop worker").await
    }

    /// All complete models.
    ///
    /// # Errors
    /// As every call.
    pub async fn models(&self) -> Result<ModelsReply> {
        self.call(self.request(Method::GET, "/v1/models/list"), "list models").await
    }

    /// A model's header.
    ///
    /// # Errors
    /// As every call.
    pub async fn inspect(&self, model: &ModelRef) -> Result<Inspection> {
        let request = self.request(Method::GET, &format!("/v1/models/inspect?ref={}", query_value(model)));
        call::json(request.timeout(self.timeouts.inspect), self.endpoint.hive_id.as_str(), "inspect model")
            .await
    }

    /// Starts a transfer, or finds the one of the same resolved model.
    ///
    /// # Errors
    /// As every call.
    pub async fn download(&self, request: &DownloadRequest) -> Result<DownloadReply> {
        self.call(self.request(Method::POST, "/v1/models/download").json(request), "download model").await
    }

    /// Removes a model from the store.
    ///
    /// # Errors
    /// As every call.
    pub async fn delete_model(&self, model: &ModelRef) -> Result<()> {
        let request = self.request(Method::DELETE, &format!("/v1/models?ref={}", query_value(model)));
        call::empty(request.timeout(self.timeouts.call), self.endpoint.hive_id.as_str(), "delete model").await
    }

    /// The last lines of the hive's log, or of a worker's.
    ///
    /// # Errors
    /// As every call.
    pub async fn logs(&self, worker: Option<&WorkerId>, lines: usize) -> Result<LogsReply> {
        let source = worker.map_or("hive", WorkerId::as_str);
        let path = format!("/v1/logs?source={source}&lines={lines}");
        self.call(self.request(Method::GET, &path), "read logs").await
    }

    /// Begins to stop all workers and then the hive.
    ///
    /// # Errors
    /// As every call.
    pub async fn shutdown(&self, request: &ShutdownRequest) -> Result<ShutdownReply> {
        self.call(self.request(Method::POST, "/v1/shutdown").json(request), "shut down").await
    }
}

/// A model reference in a query: its characters are legal there but for `+` and the few that separate.
fn query_value(model: &ModelRef) -> String {
    model.to_string().replace('+', "%2B").replace('=', "%3D")
}

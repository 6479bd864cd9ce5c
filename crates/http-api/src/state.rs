//! What the handlers share, and the table of routes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{Method, Uri},
    response::Response,
    routing::{get, post},
};
use fleet::{ModelRef, ProcessIdentity, Token};
use hive_manager::HiveManager;
use journal::Journal;
use model_provisioner::ModelProvisioner;
use placement::Placement;
use queen_api::{ErrorCode, ErrorDetail, HivesOnStop};
use registry_ram::WorkerRegistry;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Surface, auth, hives, infer, models, named::Named, openai, operations, workers};

/// All routes: method, path, and whether everybody may call it. What is not among them gets 404 or 405.
pub const ROUTES: &[(&str, &str, bool)] = &[
    ("GET", "/healthz", true),
    ("GET", "/readyz", true),
    ("POST", "/v1/infer", false),
    ("GET", "/v1/hives/list", false),
    ("POST", "/v1/hives/register", false),
    ("GET", "/v1/hives/{id}", false),
    ("DELETE", "/v1/hives/{id}", false),
    ("POST", "/v1/hives/{id}/start", false),
    ("POST", "/v1/hives/{id}/stop", false),
    ("POST", "/v1/hives/{id}/drain", false),
    ("POST", "/v1/hives/{id}/pause", false),
    ("POST", "/v1/hives/{id}/resume", false),
    ("GET", "/v1/workers/list", false),
    ("GET", "/v1/models", false),
    ("GET", "/v1/models/catalog", false),
    ("DELETE", "/v1/models/catalog", false),
    ("POST", "/v1/models/ensure", false),
    ("POST", "/v1/chat/completions", false),
    ("POST", "/v1/completions", false),
    ("GET", "/v1/events", false),
    ("GET", "/v1/decisions/{request_id}", false),
    ("GET", "/v1/logs", false),
    ("POST", "/v1/shutdown", false),
];

/// Somebody asked the queen to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopOrder {
    /// What becomes of the hives.
    pub hives: HivesOnStop,
}

/// Bounds of the surface.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest request body, in bytes.
    pub body: usize,
    /// How long a request body may pause.
    pub body_pause: Duration,
    /// How long a request body may take.
    pub body_whole: Duration,
    /// How long an OpenAI stream waits before its head goes out, so that clients and proxies do not give up.
    pub early_head: Duration,
    /// How often a silent event stream carries a comment.
    pub comment_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 * 1024 * 1024,
            body_pause: Duration::from_secs(10),
            body_whole: Duration::from_secs(300),
            early_head: Duration::from_secs(5),
            comment_every: Duration::from_secs(10),
        }
    }
}

/// What the surface is made of.
pub struct Parts {
    /// The hives.
    pub manager: Arc<HiveManager>,
    /// What is observed of them.
    pub registry: Arc<WorkerRegistry>,
    /// The request path.
    pub router: Arc<router::Router>,
    /// Workers that are started, and how many.
    pub placement: Arc<Placement>,
    /// The catalog.
    pub provisioner: Arc<ModelProvisioner>,
    /// What happened.
    pub journal: Journal,
    /// What every caller must send, if anything.
    pub token: Option<Token>,
    /// Short names of models.
    pub aliases: BTreeMap<String, ModelRef>,
    /// Whether a model that nobody asked for before may be introduced.
    pub may_introduce: Box<dyn Fn(&ModelRef) -> bool + Send + Sync>,
    /// Bounds.
    pub limits: Limits,
    /// The queen's own process, where the system tells which it is.
    pub process: Option<ProcessIdentity>,
    /// Where an order to stop goes.
    pub stop: mpsc::Sender<StopOrder>,
}

/// The surface.
pub struct Api {
    pub(crate) parts: Parts,
    pub(crate) stopping: CancellationToken,
    pub(crate) streams: TaskTracker,
    pub(crate) named: Named,
}

impl Api {
    /// Serves nothing by itself; [`Api::surface`] is what an accept loop serves.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            stopping: CancellationToken::new(),
            streams: TaskTracker::new(),
            named: Named::default(),
        })
    }

    /// From now on `/readyz` says 503, new requests are refused, and event streams that never end by themselves end.
    pub fn stopping(&self) {
        self.stopping.cancel();
        self.streams.close();
    }

    /// All routes.
    #[must_use]
    pub fn surface(self: Arc<Self>) -> Surface {
        Surface::new(self)
    }
}

/// All routes but those of completions.
pub(crate) fn routes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(operations::health))
        .route("/readyz", get(operations::ready))
        .route("/v1/infer", post(infer::infer))
        .route("/v1/hives/list", get(hives::list))
        .route("/v1/hives/register", post(hives::register))
        .route("/v1/hives/{id}", get(hives::get).delete(hives::remove))
        .route("/v1/hives/{id}/start", post(hives::start))
        .route("/v1/hives/{id}/stop", post(hives::stop))
        .route("/v1/hives/{id}/drain", post(hives::drain))
        .route("/v1/hives/{id}/pause", post(hives::pause))
        .route("/v1/hives/{id}/resume", post(hives::start))
        .route("/v1/workers/list", get(workers::list))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/catalog", get(models::catalog).delete(models::remove))
        .route("/v1/models/ensure", post(models::ensure))
        .route("/v1/events", get(operations::events))
        .route("/v1/decisions/{request_id}", get(operations::decisions))
        .route("/v1/logs", get(operations::logs))
        .route("/v1/shutdown", post(operations::shutdown))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

async fn no_such_path(uri: Uri) -> Response {
    let message = format!("no such path: {}; see docs/queen-api.md", uri.path().escape_debug());
    auth::refusal(uri.path(), ErrorDetail::new(ErrorCode::NotFound, message))
}

pub(crate) async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}; see docs/queen-api.md", uri.path().escape_debug());
    auth::refusal(uri.path(), ErrorDetail::new(ErrorCode::MethodNotAllowed, message))
}

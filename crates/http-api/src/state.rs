//! What the handlers share, and the table of routes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use fleet::{ModelRef, Token};
use hive_manager::HiveManager;
use journal::Journal;
use model_provisioner::ModelProvisioner;
use queen_api::{ErrorCode, HivesOnStop};
use registry_ram::WorkerRegistry;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{auth, error, error::ApiError, hives, infer, openai, operations, workers};

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
    /// How long an OpenAI stream waits before its head goes out, so that clients and proxies do not give up.
    pub early_head: Duration,
    /// How often a silent event stream carries a comment.
    pub comment_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 * 1024 * 1024,
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
    /// Where an order to stop goes.
    pub stop: mpsc::Sender<StopOrder>,
}

/// The surface.
pub struct Api {
    pub(crate) parts: Parts,
    pub(crate) stopping: CancellationToken,
    pub(crate) streams: TaskTracker,
}

impl Api {
    /// Serves nothing by itself; [`Api::router`] is what an accept loop serves.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, stopping: CancellationToken::new(), streams: TaskTracker::new() })
    }

    /// From now on `/readyz` says 503, new requests are refused, and event streams that never end by themselves end.
    pub fn stopping(&self) {
        self.stopping.cancel();
        self.streams.close();
    }

    /// All routes.
    pub fn router(self: Arc<Self>) -> Router {
        let guarded = Router::new()
            .route("/v1/infer", post(infer::infer))
            .route("/v1/hives/list", get(hives::list))
            .route("/v1/hives/register", post(hives::register))
            .route("/v1/workers/list", get(workers::list))
            .route("/v1/models", get(openai::models))
            .route("/v1/chat/completions", post(openai::chat_completions))
            .route("/v1/completions", post(openai::completions))
            .route("/v1/events", get(operations::events))
            .route("/v1/shutdown", post(operations::shutdown))
            .fallback(|| async { ApiError::new(ErrorCode::NotFound, "no such path; see docs/queen-api.md") })
            .method_not_allowed_fallback(|| async {
                ApiError::new(
                    ErrorCode::MethodNotAllowed,
                    "this path takes another method; see docs/queen-api.md",
                )
            })
            .layer(middleware::from_fn_with_state(Arc::clone(&self), auth::guard));
        Router::new()
            .route("/healthz", get(operations::health))
            .route("/readyz", get(operations::ready))
            .merge(guarded)
            .layer(CatchPanicLayer::custom(error::panicked))
            .with_state(self)
    }
}

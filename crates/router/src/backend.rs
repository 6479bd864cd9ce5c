//! A worker with everything that it takes to send it a request, put together once for all requests.

use std::{borrow::Cow, sync::Arc};

use fleet::{HiveEndpoint, HiveId, WorkerId};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use http_client::{Peer, Preface};
use registry_ram::{HiveView, WorkerView};
use scheduler::WorkerKey;
use tokio_util::sync::CancellationToken;

use crate::engine::Skills;

/// Paths that nearly all requests are for.
const PATHS: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static(queen_api::REQUEST_ID_HEADER);

/// What the scheduler knows a worker by.
pub(crate) fn key(worker: &WorkerView) -> WorkerKey {
    WorkerKey {
        hive_id: worker.hive_id.clone(),
        launch_id: worker.record.launch_id.clone(),
        worker_id: worker.record.worker_id.clone(),
    }
}

/// The names of a worker and of its hive, for the head of an answer.
#[must_use]
pub fn names(worker: &WorkerId, hive: &HiveId) -> [HeaderValue; 2] {
    [worker.as_str(), hive.as_str()].map(|name| {
        HeaderValue::from_str(name).unwrap_or_else(|_| unreachable!("ids are letters, digits and `._-`"))
    })
}

/// A worker, and how it is reached.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) worker: Arc<WorkerView>,
    /// As in [`names`].
    pub(crate) names: [HeaderValue; 2],
    /// Or why it cannot be reached.
    pub(crate) way: Result<Arc<Way>, &'static str>,
    /// What its engine can do.
    pub(crate) skills: Skills,
    /// Cancelled when its hive stops answering.
    pub(crate) lost: CancellationToken,
}

impl Backend {
    /// The worker as its hive stands now. What is the same as in `before` is taken from there.
    pub(crate) fn new(worker: &Arc<WorkerView>, hive: &HiveView, before: Option<&Self>) -> Self {
        let engines = hive.capabilities.as_ref().map(|capabilities| capabilities.engines.iter());
        let engine = engines.and_then(|mut engines| engines.find(|e| e.name == worker.record.engine));
        let skills = engine.map(Skills::of).unwrap_or_default();
        let known = before.and_then(|before| before.way.as_ref().ok());
        let way = match &hive.endpoint {
            None => Err("its hive is gone"),
            Some(endpoint) if endpoint.launch_id != worker.record.launch_id => {
                Err("its hive is in another launch")
            }
            Some(endpoint) => match known.filter(|way| way.endpoint == *endpoint) {
                Some(known) => Ok(Arc::clone(known)),
                None => Way::new(endpoint, worker).map(Arc::new).ok_or("its address cannot be written down"),
            },
        };
        let names = match before {
            Some(before) => before.names.clone(),
            None => names(&worker.record.worker_id, &worker.hive_id),
        };
        Self { worker: Arc::clone(worker), names, way, skills, lost: hive.lost.clone() }
    }
}

/// The way to a worker through its hive.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) endpoint: HiveEndpoint,
    /// The hive.
    pub(crate) peer: Peer,
    /// What all requests have in their heads.
    headers: HeaderMap,
    /// What stands before a worker's own path.
    prefix: String,
    /// How requests for [`PATHS`] begin.
    prefaces: [Preface; 2],
}

impl Way {
    fn new(endpoint: &HiveEndpoint, worker: &WorkerView) -> Option<Self> {
        let hive: Uri = endpoint.base_url().parse().ok()?;
        let prefix = format!("/v1/workers/{}/proxy", worker.record.worker_id);
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", endpoint.token.reveal())).ok()?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::HOST, HeaderValue::try_from(hive.authority()?.as_str()).ok()?);
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(hive_api::LAUNCH_HEADER, HeaderValue::try_from(endpoint.launch_id.as_str()).ok()?);
        let [chat, text] = PATHS.map(|path| preface(&prefix, path, &headers));
        let (endpoint, peer, prefaces) = (endpoint.clone(), Peer::of(hive)?, [chat?, text?]);
        Some(Self { endpoint, peer, headers, prefix, prefaces })
    }

    /// How a request to the worker begins; none if the path is none. What tells this request from others is the caller's.
    pub(crate) fn preface(&self, path: &str) -> Option<Cow<'_, Preface>> {
        match PATHS.iter().zip(&self.prefaces).find(|(known, _)| **known == path) {
            Some((_, preface)) => Some(Cow::Borrowed(preface)),
            None => preface(&self.prefix, path, &self.headers).map(Cow::Owned),
        }
    }
}

fn preface(prefix: &str, path: &str, headers: &HeaderMap) -> Option<Preface> {
    let path = format!("{prefix}{path}").parse().ok()?;
    Some(Preface::new(http::Method::POST, &path, headers))
}

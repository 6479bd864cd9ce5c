//! A model hub on loopback: the two requests that a store makes, and the faults of a bad day.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, stream};
use sha2::{Digest as _, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with the answers to come; each entry is used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends behind this many bytes of the answer.
    BreaksAfter(usize),
    /// Nothing comes behind this many bytes.
    StallsAfter(usize),
    /// One byte is another.
    Corrupt,
    /// The range is overlooked.
    IgnoresRange,
    /// This status, with nothing.
    Status(u16),
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) lists: usize,
    /// Where each request for a file began, and whether it carried the hub's token.
    pub(crate) files: Vec<(u64, bool)>,
    pub(crate) faults: Vec<Fault>,
    /// Whether files are kept at the second address.
    pub(crate) redirects_to: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) url: String,
    pub(crate) seen: Arc<Mutex<Seen>>,
    files: Arc<Vec<(String, Vec<u8>)>>,
}

impl Hub {
    pub(crate) async fn start(files: Vec<(&str, Vec<u8>)>) -> Self {
        let listener = http_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let hub = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            seen: Arc::default(),
            files: Arc::new(files),
        };
        let router = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(list))
            .route("/{owner}/{name}/resolve/{commit}/{*file}", get(file))
            .route("/blob/{digest}", get(blob))
            .with_state(hub.clone());
        tokio_util::task::TaskTracker::new()
            .spawn(http_serve::Server::new(listener, router, http_serve::Limits::default()).run());
        hub
    }

    pub(crate) fn fault(&self, faults: &[Fault]) {
        self.seen.lock().unwrap().faults = faults.to_vec();
    }

    pub(crate) fn starts(&self) -> Vec<u64> {
        self.seen.lock().unwrap().files.iter().map(|(start, _)| *start).collect()
    }

    fn answer(&self, bytes: &[u8], headers: &HeaderMap) -> Response {
        let start = headers
            .get(header::RANGE)
            .and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split('-').next()?.parse().ok())
            .unwrap_or(0);
        let mut seen = self.seen.lock().unwrap();
        seen.files.push((start, headers.contains_key(header::AUTHORIZATION)));
        let fault = if seen.faults.is_empty() { None } else { Some(seen.faults.remove(0)) };
        drop(seen);
        if let Some(Fault::Status(status)) = fault {
            return StatusCode::from_u16(status).unwrap().into_response();
        }
        let total = bytes.len() as u64;
        if start > total || (start == total && total > 0) {
            return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
        }
        let whole = fault == Some(Fault::IgnoresRange);
        let mut part = bytes[if whole { 0 } else { usize::try_from(start).unwrap() }..].to_vec();
        if fault == Some(Fault::Corrupt) {
            part[0] ^= 1;
        }
        let length = part.len();
        let body = match fault {
            Some(Fault::BreaksAfter(count)) => {
                part.truncate(count);
                // An error drops what was not flushed yet, so it comes when the bytes have gone out.
                let broken = stream::once(async {
                    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                    Err(std::io::Error::other("broken"))
                });
                Body::from_stream(stream::iter([Ok(Bytes::from(part))]).chain(broken))
            }
            Some(Fault::StallsAfter(count)) => {
                part.truncate(count);
                Body::from_stream(
                    stream::iter([Ok::<_, Infallible>(Bytes::from(part))]).chain(stream::pending()),
                )
            }
            _ => Body::from(part),
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        if !whole {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{total}", total.saturating_sub(1));
            response.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
        }
        response
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> fleet::Digest {
    fleet::Digest::from_bytes(Sha256::digest(bytes).into())
}

async fn list(State(hub): State<Hub>, Path((owner, _, _)): Path<(String, String, String)>) -> Response {
    hub.seen.lock().unwrap().lists += 1;
    if owner == "private" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let siblings: Vec<_> = hub
        .files
        .iter()
        .map(|(name, bytes)| {
            let lfs = serde_json::json!({ "sha256": sha256(bytes).to_string(), "size": bytes.len() });
            serde_json::json!({ "rfilename": name, "size": bytes.len(), "lfs": lfs })
        })
        .collect();
    Json(serde_json::json!({ "sha": COMMIT, "siblings": siblings })).into_response()
}

async fn file(
    State(hub): State<Hub>,
    Path((_, _, _, name)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let Some((_, bytes)) = hub.files.iter().find(|(known, _)| *known == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let elsewhere = hub.seen.lock().unwrap().redirects_to.clone();
    match elsewhere {
        Some(url) => {
            let target = format!("{url}/blob/{}", sha256(bytes));
            (StatusCode::FOUND, [(header::LOCATION, target)]).into_response()
        }
        None => hub.answer(bytes, &headers),
    }
}

async fn blob(State(hub): State<Hub>, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    match hub.files.iter().find(|(_, bytes)| sha256(bytes).to_string() == digest) {
        Some((_, bytes)) => hub.answer(bytes, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

//! Sending a request to one worker, up to the first byte of its answer.

use std::time::Duration;

use bytes::Bytes;
use fleet::HiveEndpoint;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use registry_ram::{Lease, WorkerRegistry, WorkerView};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{Job, Settings, answer::BodyParts};

pub(crate) type Client =
    hyper_util::client::legacy::Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

/// How one worker failed to answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not a byte was sent to it.
    NotSent(String),
    /// It has too much to do.
    Busy(Box<Opened>),
    /// It answered with an error, or with what is no answer.
    Failed(String),
    /// The connection broke after the request was sent.
    Died(String),
    /// It sent nothing for too long.
    Silent(Duration),
}

/// An answer whose first byte is here, without the request's own guards.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) head: http::response::Parts,
    pub(crate) body: BodyParts,
}

impl std::fmt::Debug for BodyParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyParts").field("worker_id", &self.worker_id).finish_non_exhaustive()
    }
}

pub(crate) struct Target<'a> {
    pub(crate) worker: &'a WorkerView,
    pub(crate) endpoint: &'a HiveEndpoint,
    /// Cancelled when the hive stops answering.
    pub(crate) lost: CancellationToken,
}

fn request(target: &Target<'_>, job: &Job) -> Result<Request<Full<Bytes>>, Failure> {
    let Target { worker, endpoint, .. } = target;
    let uri = format!("{}/v1/workers/{}/proxy{}", endpoint.base_url(), worker.record.worker_id, job.path);
    let bearer = format!("Bearer {}", endpoint.token.reveal());
    let mut bearer = HeaderValue::try_from(bearer).map_err(|e| Failure::NotSent(e.to_string()))?;
    bearer.set_sensitive(true);
    Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::AUTHORIZATION, bearer)
        .header(header::CONTENT_TYPE, "application/json")
        .header(hive_api::LAUNCH_HEADER, endpoint.launch_id.as_str())
        .header(queen_api::REQUEST_ID_HEADER, job.request_id.as_str())
        .body(Full::new(job.body.clone()))
        .map_err(|e| Failure::NotSent(e.to_string()))
}

/// Sends the request and waits for the first byte of the answer.
pub(crate) async fn attempt(
    client: &Client,
    registry: &WorkerRegistry,
    settings: &Settings,
    target: Target<'_>,
    lease: Lease,
    job: &Job,
) -> Result<Opened, Failure> {
    let request = request(&target, job)?;
    let first = async {
        let response = client.request(request).await.map_err(|error| {
            if error.is_connect() { Failure::NotSent(chain(&error)) } else { Failure::Died(chain(&error)) }
        })?;
        let (head, body) = response.into_parts();
        let (head, mut body) = checked(&target, job, head, body).await?;
        let first = first_piece(&mut body).await?;
        Ok((head, body, first))
    };
    let lost = target.lost.clone();
    let (head, incoming, first) = tokio::select! {
        first = first => first?,
        () = lost.cancelled() => return Err(Failure::Died("its hive stopped answering".to_owned())),
        waited = silent(registry, settings.first_byte, target.worker) => return Err(Failure::Silent(waited)),
    };
    let events = is_event_stream(&head);
    let body = BodyParts {
        incoming,
        first: Some(first),
        lease,
        lost: Box::pin(target.lost.cancelled_owned()),
        worker_id: target.worker.record.worker_id.clone(),
        hive_id: target.worker.hive_id.clone(),
        inter_token: settings.inter_token,
        events,
    };
    let busy = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let opened = Opened { head, body };
    if busy { Err(Failure::Busy(Box::new(opened))) } else { Ok(opened) }
}

fn is_event_stream(head: &http::response::Parts) -> bool {
    let value = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    value.is_some_and(|v| v.starts_with("text/event-stream"))
}

/// Lets through what can be an answer of this worker to this request.
async fn checked(
    target: &Target<'_>,
    job: &Job,
    head: http::response::Parts,
    body: Incoming,
) -> Result<(http::response::Parts, Incoming), Failure> {
    let from = head.headers.get(hive_api::WORKER_HEADER).map(HeaderValue::as_bytes);
    if from != Some(target.worker.record.worker_id.as_str().as_bytes()) {
        // The hive itself answered: it could not reach the worker, or is in another launch.
        let text = excerpt(body).await;
        return Err(Failure::Failed(format!("its hive answered {}: {text}", head.status)));
    }
    if head.status.is_server_error() && head.status != StatusCode::SERVICE_UNAVAILABLE {
        let text = excerpt(body).await;
        return Err(Failure::Failed(format!("it answered {}: {text}", head.status)));
    }
    if head.status.is_informational() || head.status.is_redirection() {
        return Err(Failure::Failed(format!(
            "it answered {}, which is no answer to a completion",
            head.status
        )));
    }
    let json =
        head.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    let fits = if head.status.is_success() && job.stream { is_event_stream(&head) } else { json };
    if head.status.is_success() && !fits {
        let found = head
            .headers
            .get(header::CONTENT_TYPE)
            .map_or("no content type".into(), |v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        return Err(Failure::Failed(format!("it answered with {}", found.escape_default())));
    }
    Ok((head, body))
}

async fn first_piece(body: &mut Incoming) -> Result<Bytes, Failure> {
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data()
                    && !piece.is_empty()
                {
                    return Ok(piece);
                }
            }
            Some(Err(error)) => return Err(Failure::Died(chain(&error))),
            None => return Err(Failure::Died("it ended its answer before the first byte".to_owned())),
        }
    }
}

/// Ends when the worker has shown no sign of life for `bound`. A long prefill moves its token counts, and is life.
async fn silent(registry: &WorkerRegistry, bound: Duration, worker: &WorkerView) -> Duration {
    let progress = || {
        let view = registry.view();
        let record = view.hive(&worker.hive_id)?.workers.get(&worker.record.worker_id)?.record.clone();
        Some((record.prompt_tokens_total, record.output_tokens_total))
    };
    let mut last = progress();
    let mut deadline = Instant::now() + bound;
    loop {
        let _ = timeout_at(deadline, std::future::pending::<()>()).await;
        let now = progress();
        if now == last {
            return bound;
        }
        last = now;
        deadline = Instant::now() + bound;
    }
}

/// The beginning of an error's body, for a message. Never of a success: that would be an answer.
pub(crate) async fn excerpt<B>(body: B) -> String
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    const MOST: usize = 2048;
    let mut body = body;
    let mut text = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        if let Ok(piece) = frame.into_data() {
            text.extend_from_slice(&piece[..piece.len().min(MOST - text.len())]);
        }
        if text.len() == MOST {
            break;
        }
    }
    message(&text).unwrap_or_else(|| String::from_utf8_lossy(&text).escape_debug().to_string())
}

/// `error.message` of the common error shapes.
fn message(text: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let error = value.get("error")?;
    error.get("message").or(Some(error))?.as_str().map(str::to_owned)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

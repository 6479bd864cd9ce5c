//! Answers that come piece by piece.

use std::{io, time::Duration};

use bytes::Bytes;
use fleet::Event;
use futures_util::{Stream, StreamExt, stream};
use queen_api::{EnsureEvent, ErrorCode, ErrorDetail, InferEvent, InferReply, OpenAiErrorBody};
use reqwest::Response;
use serde::Deserialize;
use tokio::time::timeout;

use crate::{ClientError, ClientErrorKind};

/// Longest event, in bytes.
const EVENT_MAX: usize = 1024 * 1024;

/// Something in the stream of events.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// Something happened.
    Event(Event),
    /// The reader was too slow: so many events were forgotten before they were read.
    Missed(u64),
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    missed: u64,
}

/// The queen's error in OpenAI's shape, in its own.
pub(crate) fn detail(body: OpenAiErrorBody) -> ErrorDetail {
    let code = body.error.code.and_then(|code| serde_json::from_value(code.into()).ok());
    let code = code.unwrap_or(ErrorCode::Unknown);
    ErrorDetail { code, message: body.error.message, details: body.error.details }
}

/// What the errors of one stream say of it.
#[derive(Clone)]
struct Origin {
    action: &'static str,
    address: String,
}

impl Origin {
    fn error(&self, kind: impl FnOnce(String) -> ClientErrorKind) -> ClientError {
        ClientError::new(self.action, kind(self.address.clone()))
    }

    fn not_a_queen(&self, reason: String) -> ClientError {
        self.error(|address| ClientErrorKind::NotAQueen { address, reason })
    }

    fn of(&self, error: &sse::StreamError<io::Error>) -> ClientError {
        match error {
            sse::StreamError::Transport(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.error(|address| ClientErrorKind::Timeout { address })
            }
            sse::StreamError::Transport(error) => {
                self.error(|address| ClientErrorKind::Broke { address, reason: error.to_string() })
            }
            sse::StreamError::Overlong(error) => self.not_a_queen(error.to_string()),
        }
    }
}

/// The bytes of an answer; silence is an error of its own. Comments count as life here, before they are filtered out.
fn pieces(response: Response, silence: Duration) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(response.bytes_stream().boxed()), move |pieces| async move {
        let mut pieces = pieces?;
        match timeout(silence, pieces.next()).await {
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => {
                Some((Err(io::Error::other(causes::with_causes(&error.without_url()))), None))
            }
        }
    })
}

/// What an event of the answer means for the reader.
enum Read {
    Event(InferEvent),
    Done,
    /// Of a newer queen.
    Unknown,
}

fn read(data: &[u8]) -> Result<Read, serde_json::Error> {
    const KNOWN: [&str; 6] = ["queued", "loading", "started", "token", "end", "error"];
    if data == b"[DONE]" {
        return Ok(Read::Done);
    }
    match serde_json::from_slice(data) {
        Ok(event) => Ok(Read::Event(event)),
        Err(error) => match serde_json::from_slice::<Tag>(data) {
            Ok(tag) if !KNOWN.contains(&tag.kind.as_str()) => Ok(Read::Unknown),
            _ => Err(error),
        },
    }
}

pub(crate) fn infer(
    response: Response,
    action: &'static str,
    address: String,
    silence: Duration,
) -> impl Stream<Item = Result<InferEvent, ClientError>> + Send {
    let events = sse::events(pieces(response, silence).boxed(), EVENT_MAX).boxed();
    let origin = Origin { action, address };
    // The last event is given out once its terminator is here.
    stream::unfold(Some((events, None::<InferEvent>)), move |state| {
        let origin = origin.clone();
        async move {
            let (mut events, mut end) = state?;
            loop {
                let read = match events.next().await {
                    None => {
                        return Some((Err(origin.error(|_| ClientErrorKind::Truncated)), None));
                    }
                    Some(Err(error)) => return Some((Err(origin.of(&error)), None)),
                    Some(Ok(event)) => read(&event.data),
                };
                match read {
                    Ok(Read::Unknown) => {}
                    Ok(Read::Done) => {
                        return Some((
                            end.ok_or_else(|| origin.not_a_queen("its answer has no end".to_owned())),
                            None,
                        ));
                    }
                    Ok(Read::Event(InferEvent::Error { code, message, details })) => {
                        let detail = ErrorDetail { code, message, details };
                        return Some((
                            Err(ClientError::new(origin.action, ClientErrorKind::Refused(detail))),
                            None,
                        ));
                    }
                    Ok(Read::Event(event @ InferEvent::End { .. })) => end = Some(event),
                    Ok(Read::Event(event)) => return Some((Ok(event), Some((events, end)))),
                    Err(error) => {
                        let reason = format!("it sent an event that cannot be read: {error}");
                        return Some((Err(origin.not_a_queen(reason)), None));
                    }
                }
            }
        }
    })
}

/// The events of a transfer. `complete` is the last one that is given out, and only once its terminator is here.
pub(crate) fn ensure(
    response: Response,
    action: &'static str,
    address: String,
    silence: Duration,
) -> impl Stream<Item = Result<EnsureEvent, ClientError>> + Send {
    let events = sse::events(pieces(response, silence).boxed(), EVENT_MAX).boxed();
    let origin = Origin { action, address };
    stream::unfold(Some((events, None::<EnsureEvent>)), move |state| {
        let origin = origin.clone();
        async move {
            let (mut events, mut end) = state?;
            loop {
                let event = match events.next().await {
                    None => return Some((Err(origin.error(|_| ClientErrorKind::Truncated)), None)),
                    Some(Err(error)) => return Some((Err(origin.of(&error)), None)),
                    Some(Ok(event)) if event.data == b"[DONE]"[..] => {
                        let whole = end.ok_or_else(|| origin.not_a_queen("its answer has no end".to_owned()));
                        return Some((whole, None));
                    }
                    Some(Ok(event)) => serde_json::from_slice::<EnsureEvent>(&event.data),
                };
                match event {
                    Ok(EnsureEvent::Error(detail)) => {
                        return Some((
                            Err(ClientError::new(origin.action, ClientErrorKind::Refused(detail))),
                            None,
                        ));
                    }
                    Ok(complete @ EnsureEvent::Complete { .. }) => end = Some(complete),
                    Ok(event) => return Some((Ok(event), Some((events, end)))),
                    // Of a newer queen.
                    Err(_) => {}
                }
            }
        }
    })
}

/// Collects the events of an answer into the whole of it, showing each one on the way.
///
/// # Errors
/// The stream's own.
pub async fn collect<S>(mut events: S, mut show: impl FnMut(&InferEvent)) -> Result<InferReply, ClientError>
where
    S: Stream<Item = Result<InferEvent, ClientError>> + Unpin,
{
    let mut text = String::new();
    let mut started = None;
    while let Some(event) = events.next().await {
        let event = event?;
        show(&event);
        match event {
            InferEvent::Started { request_id, model, worker_id, hive_id, attempts, queued_ms } => {
                started = Some((request_id, model, worker_id, hive_id, attempts, queued_ms));
            }
            InferEvent::Token { t, .. } => text.push_str(&t),
            InferEvent::End { tokens_out, decode_time_ms, stop_reason, continued } => {
                let Some((request_id, model, worker_id, hive_id, attempts, queued_ms)) = started else {
                    break;
                };
                return Ok(InferReply {
                    request_id,
                    model,
                    worker_id,
                    hive_id,
                    attempts,
                    queued_ms,
                    text,
                    tokens_out,
                    decode_time_ms,
                    stop_reason,
                    continued,
                });
            }
            InferEvent::Queued { .. } | InferEvent::Loading { .. } | InferEvent::Error { .. } => {}
        }
    }
    Err(ClientError::new("ask the model", ClientErrorKind::Truncated))
}

pub(crate) fn events(
    response: Response,
    action: &'static str,
    address: String,
    silence: Duration,
) -> impl Stream<Item = Result<Happening, ClientError>> + Send {
    let origin = Origin { action, address };
    let events = sse::events(pieces(response, silence).boxed(), EVENT_MAX);
    events.filter_map(move |event| {
        let read = match event {
            Err(error) => Some(Err(origin.of(&error))),
            Ok(event) => happening(&event.data).map_err(|reason| origin.not_a_queen(reason)).transpose(),
        };
        std::future::ready(read)
    })
}

/// None for what this version does not know.
fn happening(data: &[u8]) -> Result<Option<Happening>, String> {
    let tag: Tag = serde_json::from_slice(data)
        .map_err(|error| format!("it sent an event that cannot be read: {error}"))?;
    if tag.kind == "lagged" {
        return Ok(Some(Happening::Missed(tag.missed)));
    }
    Ok(serde_json::from_slice(data).ok().map(Happening::Event))
}

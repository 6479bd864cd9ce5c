//! What every call passes first and last: the journal, and the faults of single calls.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hive_api::{ErrorDetail, LAUNCH_HEADER, WORKER_HEADER};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{
    garbage,
    journal::{HeaderCheck, OpenCall, Outcome},
    script::{Answer, CallName, CallScript, Cut, worker_of},
    state::{Core, FaultKey},
    wire::{Wire, lock},
    worker::ClaimedWorkerId,
};

/// Ends the journal's entry of a call whose handler was dropped, which is how a caller that left shows.
struct Dropped(Option<OpenCall>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(call) = &self.0 {
            call.end(Outcome::Cancelled);
        }
    }
}

pub(crate) async fn front(State(core): State<Arc<Core>>, mut request: Request, next: Next) -> Response {
    let wire = core.wires.current();
    let name = CallName::of(request.method(), request.uri().path());
    let call = note(&core, name, wire.as_deref(), &request);
    if let Some(wire) = &wire {
        *lock(&wire.call) = Some(call.clone());
    }
    let mut dropped = Dropped(Some(call.clone()));
    request.extensions_mut().insert(call.clone());
    let script = core.script();
    let fault = script.of_call(name).filter(|(key, fault)| core.may_use(FaultKey::Call(*key), fault.times));
    let fault = fault.map(|(_, fault)| fault.clone()).unwrap_or_default();
    let mut response = faulty(wire, fault, &call, request, next).await;
    if let Some(ClaimedWorkerId(claimed)) = response.extensions_mut().remove()
        && let Ok(value) = HeaderValue::from_str(claimed.as_str())
    {
        response.headers_mut().insert(WORKER_HEADER, value);
    }
    let offset = script.claims.date_offset_s;
    if offset != 0
        && let Ok(value) = HeaderValue::from_str(&http_date(offset))
    {
        response.headers_mut().insert(header::DATE, value);
    }
    call.note(|noted| noted.status = Some(response.status().as_u16()));
    dropped.0 = None;
    response.map(|body| Body::new(Tracked::new(body, call)))
}

async fn faulty(
    wire: Option<Arc<Wire>>,
    fault: CallScript,
    call: &OpenCall,
    request: Request,
    next: Next,
) -> Response {
    if let (Some(wire), Some(harm)) = (&wire, fault.wire) {
        wire.suffer(harm);
    }
    if fault.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
    }
    match fault.answer {
        Answer::Proper => next.run(request).await,
        Answer::Error { code, message, details } => ErrorDetail { code, message, details }.into_response(),
        Answer::Status { status, body, content_type, retry_after_s, location } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
            let mut response = (status, [(header::CONTENT_TYPE, content_type)], body).into_response();
            if let Some(seconds) = retry_after_s {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            if let Some(value) = location.and_then(|l| HeaderValue::from_str(&l).ok()) {
                response.headers_mut().insert(header::LOCATION, value);
            }
            response
        }
        Answer::Garbage { which } => {
            call.end(Outcome::Killed);
            garbage::answer(wire, which, None).await
        }
        Answer::Hang => std::future::pending().await,
        Answer::DropRequest => {
            call.end(Outcome::Killed);
            dropped(wire).await
        }
        Answer::DropReply => {
            let response = next.run(request).await;
            call.note(|noted| noted.status = Some(response.status().as_u16()));
            call.end(Outcome::Killed);
            drop(response);
            dropped(wire).await
        }
    }
}

/// Resets the connection in place of an answer. The returned answer is for callers without a socket.
async fn dropped(wire: Option<Arc<Wire>>) -> Response {
    let Some(wire) = wire else { return StatusCode::BAD_GATEWAY.into_response() };
    wire.cut(Cut::Rst);
    std::future::pending().await
}

fn check(headers: &HeaderMap, name: &str, right: &str) -> HeaderCheck {
    match headers.get(name).map(HeaderValue::as_bytes) {
        None => HeaderCheck::Missing,
        Some(found) if found == right.as_bytes() => HeaderCheck::Right,
        Some(_) => HeaderCheck::Wrong,
    }
}

fn note(core: &Core, name: CallName, wire: Option<&Wire>, request: &Request) -> OpenCall {
    let headers = request.headers();
    let launch_id = core.state().launch_id.clone();
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let worker = worker_of(request.uri().path()).and_then(|(id, _)| id.parse().ok());
    core.journal.open(|call| {
        call.call = name;
        call.connection = wire.map(|wire| wire.number);
        call.method = request.method().to_string();
        call.path = path;
        call.launch = check(headers, LAUNCH_HEADER, launch_id.as_str());
        call.token = check(headers, "authorization", &format!("Bearer {}", core.token.reveal()));
        call.request_id = headers.get("x-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
        call.worker = worker;
    })
}

/// A date that many seconds off, as RFC 9110 writes it.
fn http_date(offset_s: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let then = i64::try_from(now).unwrap_or(0).saturating_add(offset_s).max(0);
    let (days, second) = (then.div_euclid(86_400), then.rem_euclid(86_400));
    // Civil date from days, after Howard Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][days.rem_euclid(7) as usize];
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        [(month - 1) as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// A body that tells the journal how it ended.
struct Tracked {
    body: Body,
    call: OpenCall,
    /// Length that was promised, if one was.
    length: Option<u64>,
    sent: u64,
}

impl Tracked {
    fn new(body: Body, call: OpenCall) -> Self {
        let length = body.size_hint().exact();
        Self { body, call, length, sent: 0 }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.sent += bytes;
                self.call.note(|call| call.bytes_sent += bytes);
            }
            Some(Err(_)) => self.call.end(Outcome::Killed),
            None => self.call.end(Outcome::Completed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // A server need not ask for the end of a body whose length it knows.
        let whole = self.length.is_some_and(|length| self.sent >= length) || self.body.is_end_stream();
        self.call.end(if whole { Outcome::Completed } else { Outcome::Cancelled });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_does() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        // RFC 9110, 5.6.7, gives this one as its example.
        assert_eq!(http_date(784_111_777 - now), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}

//! Answers that keep no contract: fixed bytes, written past HTTP.

use std::sync::Arc;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use fleet::WorkerId;
use hive_api::WORKER_HEADER;

use crate::{
    script::{Cut, Direction, Garbage, WireScript},
    wire::Wire,
};

/// What follows the first bytes.
enum Then {
    /// The end.
    End,
    /// These bytes for as long as somebody takes them.
    Repeat(&'static [u8]),
}

/// A slow answer.
pub(crate) fn slow(bytes_per_s: u64) -> WireScript {
    let from_hive = Direction { bytes_per_s: Some(bytes_per_s), ..Direction::default() };
    WireScript { from_hive, ..WireScript::default() }
}

/// A small gzip file; readers that decompress unasked show themselves by understanding it.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xab, 0xae, 0x05, 0x00, 0x43, 0xbf, 0xa6,
    0xa3, 0x02, 0x00, 0x00, 0x00,
];

const EVENT: &[u8] = b"data: {\"choices\":[{\"index\":0,\"text\":\" bzz\"}]}\n\n";

fn with_length(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{head}content-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

const JSON: &str = "content-type: application/json\r\n";

fn bytes_of(which: Garbage) -> (Vec<u8>, Then) {
    let endless = |head: &str, first: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n{first}").into_bytes();
    let once = |text: &str| (text.as_bytes().to_vec(), Then::End);
    match which {
        Garbage::Html => {
            let page = b"<!doctype html><title>Welcome to the hotel</title><p>Please log in.";
            (with_length("content-type: text/html\r\n", page), Then::End)
        }
        Garbage::InvalidUtf8 => (with_length(JSON, b"{\"status\":\"\xff\xfe\"}"), Then::End),
        Garbage::OtherJson => (with_length(JSON, b"{\"hello\":\"world\"}"), Then::End),
        Garbage::CutJson => (with_length(JSON, b"{\"status\":\"o"), Then::End),
        Garbage::WrongContentType => (with_length("content-type: image/png\r\n", EVENT), Then::End),
        Garbage::BadChunk => once(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\ndata",
        ),
        Garbage::LongContentLength => {
            once("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4096\r\n\r\n{\"a\":1")
        }
        Garbage::TwoContentLengths => once(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\ncontent-length: 4\r\n\r\n{}",
        ),
        Garbage::Flood1xx => (Vec::new(), Then::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n")),
        Garbage::Switching => once("HTTP/1.1 101 Switching Protocols\r\nupgrade: bees\r\n\r\nbzzz"),
        Garbage::NotHttp => once("SSH-2.0-OpenSSH_9.2\r\n"),
        Garbage::InjectedHeaders => {
            let head = "content-type: application/json\r\nset-cookie: session=stolen\r\nlocation: http://169.254.169.254/\r\n\
                        alt-svc: h3=\":443\"\r\n";
            (with_length(head, b"{}"), Then::End)
        }
        Garbage::EndlessLine => {
            (endless("content-type: text/event-stream\r\n", "data: "), Then::Repeat(&[b'a'; 16 * 1024]))
        }
        Garbage::EndlessEvents => (endless("content-type: text/event-stream\r\n", ""), Then::Repeat(EVENT)),
        Garbage::DeepJson => (with_length(JSON, "[".repeat(100_000).as_bytes()), Then::End),
        Garbage::EndlessJson => (endless(JSON, "[0"), Then::Repeat(b",0,1,2,3,4,5,6,7,8,9")),
        Garbage::GzipBomb => {
            (with_length("content-type: application/json\r\ncontent-encoding: gzip\r\n", GZIP), Then::End)
        }
    }
}

/// The answer with the header by which a hive says that it is a worker's.
fn signed(answer: &[u8], worker: &WorkerId) -> Vec<u8> {
    let is_http = answer.starts_with(b"HTTP/1.1 200");
    let end = answer.windows(2).position(|pair| pair == b"\r\n").filter(|_| is_http);
    let Some(end) = end else { return answer.to_vec() };
    let header = format!("\r\n{WORKER_HEADER}: {worker}");
    [&answer[..end], header.as_bytes(), &answer[end..]].concat()
}

/// Writes garbage in place of an answer, then ends the connection. The returned answer is for callers without a socket.
pub(crate) async fn answer(wire: Option<Arc<Wire>>, which: Garbage, worker: Option<&WorkerId>) -> Response {
    let Some(wire) = wire else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let (first, then) = bytes_of(which);
    let first = worker.map_or_else(|| first.clone(), |worker| signed(&first, worker));
    let mut taken = wire.write_raw(&first).await;
    if let Then::Repeat(bytes) = then {
        while taken.is_ok() {
            taken = wire.write_raw(bytes).await;
            tokio::task::yield_now().await;
        }
    }
    wire.cut_behind(Cut::Fin).await;
    // The cut takes this handler with it.
    std::future::pending().await
}

/// Garbage in the middle of an event stream: the first bytes, and what then follows without end.
pub(crate) const fn within_a_stream(which: Garbage) -> (&'static [u8], Option<&'static str>) {
    match which {
        Garbage::EndlessLine => {
            (b"data: ", Some("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
        }
        Garbage::EndlessEvents => (
            b"data: {\"choices\":[{\"index\":0,\"text\":\" bzz\"}]}\n\n",
            Some("data: {\"choices\":[{\"index\":0,\"text\":\" bzz\"}]}\n\n"),
        ),
        Garbage::InvalidUtf8 => (b"data: {\"choices\":[{\"index\":0,\"text\":\"\xff\xfe\"}]}\n\n", None),
        Garbage::CutJson => (b"data: {\"choices\":[{\"te\n\n", None),
        Garbage::OtherJson => (b"data: {\"hello\":\"world\"}\n\n", None),
        _ => (b"<html><body>502 Bad Gateway</body></html>\n\n", None),
    }
}

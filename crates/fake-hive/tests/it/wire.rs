//! Faults of the bytes.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use hive_api::client::ClientErrorKind;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::rig::{Rig, soon};

async fn raw(rig: &Rig, request: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = TcpStream::connect(("127.0.0.1", rig.fake.endpoint().port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = soon("the end", stream.read_to_end(&mut bytes)).await;
    (bytes, end.err().map(|e| e.kind()))
}

const HEALTH: &str = "GET /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fn from_hive(direction: Value) -> Value {
    json!({"wire": {"from_hive": direction}})
}

#[tokio::test]
async fn a_cut_comes_behind_exactly_so_many_bytes_and_in_its_own_way() {
    for (how, end) in [("rst", Some(ErrorKind::ConnectionReset)), ("fin", None)] {
        let rig = Rig::start(from_hive(json!({"cut": {"bytes": 20, "how": how}}))).await;
        let (bytes, ended) = raw(&rig, HEALTH).await;
        assert_eq!((bytes.len(), ended), (20, end), "{how}");
        assert!(bytes.starts_with(b"HTTP/1.1 200 OK"));
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn a_cut_of_the_request_is_never_answered() {
    let rig = Rig::start(json!({"wire": {"to_hive": {"cut": {"bytes": 10}}}})).await;
    let (bytes, _) = raw(&rig, HEALTH).await;
    assert!(bytes.is_empty());
    assert!(rig.fake.journal().is_empty());
    rig.fake.stop().await;
}

#[tokio::test]
async fn swallowed_bytes_leave_an_open_and_silent_connection() {
    for way in ["to_hive", "from_hive"] {
        let rig = Rig::start(json!({"wire": {way: {"swallow": true}}})).await;
        let mut stream = TcpStream::connect(("127.0.0.1", rig.fake.endpoint().port)).await.unwrap();
        stream.write_all(HEALTH.replace("connection: close\r\n", "").as_bytes()).await.unwrap();
        let mut bytes = [0; 64];
        let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut bytes)).await;
        assert!(read.is_err(), "{way}: nothing comes, not even an end");
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn a_hole_that_closes_lets_open_connections_go_on() {
    let rig = Rig::start(json!({})).await;
    let mut stream = TcpStream::connect(("127.0.0.1", rig.fake.endpoint().port)).await.unwrap();
    let request = HEALTH.replace("connection: close\r\n", "");
    rig.patch(json!({"wire": {"to_hive": {"delay_ms": 60_000}}}));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = [0; 64];
    assert!(tokio::time::timeout(Duration::from_millis(200), stream.read(&mut bytes)).await.is_err());
    rig.patch(json!({"wire": null}));
    assert!(soon("the answer", stream.read(&mut bytes)).await.unwrap() > 0);
    rig.fake.stop().await;
}

#[tokio::test]
async fn bytes_are_late_and_slow_as_the_script_says() {
    let rig = Rig::start(from_hive(json!({"delay_ms": 150}))).await;
    let asked = Instant::now();
    raw(&rig, HEALTH).await;
    assert!(asked.elapsed() >= Duration::from_millis(150));
    rig.patch(json!({"wire": null}));
    rig.patch(from_hive(json!({"bytes_per_s": 400})));
    let asked = Instant::now();
    let (bytes, _) = raw(&rig, HEALTH).await;
    let least = Duration::from_secs_f64(bytes.len() as f64 / 400.0 * 0.8);
    assert!(asked.elapsed() >= least, "{} bytes in {:?}", bytes.len(), asked.elapsed());
    rig.fake.stop().await;
}

#[tokio::test]
async fn exactly_one_byte_is_corrupted() {
    let rig = Rig::start(from_hive(json!({"corrupt_at": 9}))).await;
    let (bytes, _) = raw(&rig, HEALTH).await;
    assert!(bytes.starts_with(b"HTTP/1.1 300 OK"), "{:?}", String::from_utf8_lossy(&bytes[..20]));
    rig.fake.stop().await;
}

#[tokio::test]
async fn one_calls_bytes_can_suffer_while_others_do_not() {
    let slow = json!({"calls": {"workers": {"wire": {"from_hive": {"cut": {"bytes": 30}}}}}});
    let rig = Rig::start(slow).await;
    rig.client.models().await.unwrap();
    let error = rig.client.workers().await.unwrap_err();
    assert!(matches!(error.kind, ClientErrorKind::Unreachable { .. }), "{error}");
    rig.client.models().await.unwrap();
    rig.fake.stop().await;
}

//! Faults of single calls.

use std::time::{Duration, Instant};

use fake_hive::{CallName, HeaderCheck, Outcome};
use hive_api::{ErrorCode, WatchEvent, client::ClientErrorKind};
use serde_json::{Value, json};

use crate::rig::{Rig, eventually, spawn_request};

fn answer(call: &str, answer: Value) -> Value {
    json!({"calls": {call: {"answer": answer}}})
}

#[tokio::test]
async fn an_error_is_answered_as_often_as_the_script_says() {
    let error = json!({"kind": "error", "code": "storage_full", "message": "the disk is full"});
    let rig = Rig::start(json!({"calls": {"models": {"answer": error, "times": 2}}})).await;
    for _ in 0..2 {
        let error = rig.client.models().await.unwrap_err();
        assert_eq!(error.refused().unwrap().code, ErrorCode::StorageFull);
    }
    rig.client.models().await.unwrap();
    rig.fake.stop().await;
}

#[tokio::test]
async fn a_dropped_reply_leaves_the_work_done_and_a_dropped_request_does_not() {
    for (drop, workers) in [("drop_reply", 1), ("drop_request", 0)] {
        let rig = Rig::with_model(answer("spawn", json!({"kind": drop}))).await;
        let error = rig.client.spawn(&spawn_request("key")).await.unwrap_err();
        assert!(matches!(error.kind, ClientErrorKind::Unreachable { .. }), "{error}");
        assert_eq!(rig.fake.workers().len(), workers, "{drop}");
        let call = rig.fake.journal().into_iter().find(|c| c.call == CallName::Spawn).unwrap();
        assert_eq!(call.outcome, Outcome::Killed);
        rig.patch(json!({"calls": null}));
        rig.client.spawn(&spawn_request("key")).await.unwrap();
        assert_eq!(rig.fake.workers().len(), 1, "{drop}: the key finds it again");
        rig.fake.stop().await;
    }
}

#[tokio::test]
async fn a_hanging_call_is_noted_as_cancelled_when_its_caller_leaves() {
    let rig = Rig::start(answer("capabilities", json!({"kind": "hang"}))).await;
    let asked = tokio::time::timeout(Duration::from_millis(100), rig.client.capabilities());
    assert!(asked.await.is_err());
    let ended = || rig.fake.journal().into_iter().find(|c| c.ended_ms.is_some());
    assert_eq!(eventually("the end", ended).await.outcome, Outcome::Cancelled);
    rig.fake.stop().await;
}

#[tokio::test]
async fn garbage_of_every_kind_is_no_hive() {
    let kinds = [
        "html",
        "invalid_utf8",
        "other_json",
        "cut_json",
        "wrong_content_type",
        "bad_chunk",
        "long_content_length",
        "two_content_lengths",
        "flood1xx",
        "switching",
        "not_http",
        "injected_headers",
        "endless_line",
        "endless_events",
        "deep_json",
        "endless_json",
        "gzip_bomb",
    ];
    let each = kinds.map(async |which| {
        let rig = Rig::start(answer("workers", json!({"kind": "garbage", "which": which}))).await;
        let asked = Instant::now();
        let error = rig.client.workers().await.expect_err(which);
        assert!(error.refused().is_none(), "{which}: {error}");
        assert!(asked.elapsed() < Duration::from_secs(8), "{which}");
        rig.fake.stop().await;
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn a_status_comes_with_its_headers() {
    let status = json!({"kind": "status", "status": 302, "location": "http://169.254.169.254/"});
    let rig = Rig::start(answer("workers", status)).await;
    let error = rig.client.workers().await.unwrap_err();
    assert!(error.to_string().contains("302"), "{error}");
    rig.fake.stop().await;
}

#[tokio::test]
async fn the_journal_tells_right_headers_from_wrong_ones() {
    let rig = Rig::start(json!({})).await;
    let base = rig.fake.endpoint().base_url();
    rig.client.workers().await.unwrap();
    let stale = rig.http.get(format!("{base}/v1/workers/list")).header("x-rbee-launch", "l-0");
    let stale = stale.header("x-request-id", "r-1").send().await.unwrap();
    assert_eq!(stale.status(), 409);
    let calls = rig.fake.journal();
    assert_eq!((calls[0].launch, calls[0].token), (HeaderCheck::Right, HeaderCheck::Right));
    assert_eq!((calls[1].launch, calls[1].token), (HeaderCheck::Wrong, HeaderCheck::Missing));
    assert_eq!((calls[1].request_id.as_deref(), calls[1].status), (Some("r-1"), Some(409)));
    assert!(!serde_json::to_string(&calls).unwrap().contains(rig.fake.endpoint().token.reveal()));
    rig.fake.stop().await;
}

#[tokio::test]
async fn lies_show_in_lists_and_snapshot_and_nowhere_else() {
    let claims = json!({
        "hive_id": "other", "event_launch_id": "l-0", "models": ["x/y"], "bogus_workers": 3,
        "workers": [{"worker_id": "w-77", "model_ref": "x/y"}]
    });
    let rig = Rig::start(json!({"claims": claims})).await;
    let WatchEvent::Snapshot(snapshot) = rig.watch().await.next().await.unwrap().unwrap() else {
        panic!("no snapshot first")
    };
    assert_eq!((snapshot.hive_id.as_str(), snapshot.launch_id.as_str()), ("other", "l-0"));
    assert_eq!((snapshot.workers.len(), snapshot.models.len()), (4, 1));
    let worker = "w-77".parse().unwrap();
    let answer = rig.completion(&worker, json!({"prompt": ""})).await.unwrap();
    assert_eq!(answer.status(), 404);
    let mut request = spawn_request("k");
    request.model_ref = "x/y".parse().unwrap();
    let error = rig.client.spawn(&request).await.unwrap_err();
    assert_eq!(error.refused().unwrap().code, ErrorCode::ModelNotFound);
    rig.fake.stop().await;
}

#[tokio::test]
async fn only_its_dates_are_years_off() {
    let rig = Rig::start(json!({"claims": {"date_offset_s": -63_072_000}})).await;
    let base = rig.fake.endpoint().base_url();
    let answer = rig.http.get(format!("{base}/v1/health")).send().await.unwrap();
    let year: u32 = answer.headers()["date"].to_str().unwrap()[12..16].parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let this_year = 1970 + now / 31_556_952;
    assert!(u64::from(year) < this_year, "{year}");
    rig.fake.stop().await;
}

//! How answers end once their first byte is out.

use std::time::Duration;

use fake_hive::{Act, Script};
use fleet::RequestOutcome;
use http_body_util::BodyExt;
use queen_api::{ErrorCode, InferEvent};
use router::{Answer, BodyError};
use serde_json::json;

use crate::{
    fault,
    fleet_of_fakes::{Fleet, collect, error, job, request, text},
};

/// What an answer's body brings, and how it ends.
async fn read(mut answer: Answer) -> (String, Option<BodyError>) {
    let mut text = Vec::new();
    while let Some(frame) = answer.body.frame().await {
        match frame {
            Ok(frame) => text.extend_from_slice(frame.data_ref().expect("data")),
            Err(error) => return (String::from_utf8_lossy(&text).into_owned(), Some(error)),
        }
    }
    (String::from_utf8_lossy(&text).into_owned(), None)
}

async fn after_three_tokens(act: serde_json::Value) -> Fleet {
    let scripts = vec![fault(json!({ "tokens": 3 }), act), Script::default()];
    Fleet::serving(scripts, Default::default()).await
}

#[tokio::test]
async fn what_an_engine_itself_gives_up_is_an_error_and_is_not_repeated() {
    for act in [
        json!({ "kind": "error", "status": 500, "message": "cuda went away" }),
        json!({ "kind": "garbage", "which": "cut_json" }),
        json!({ "kind": "garbage", "which": "invalid_utf8" }),
    ] {
        let fleet = after_three_tokens(act.clone()).await;
        let events = collect(&fleet, request("hf:a/b", 8)).await;
        assert_eq!(error(&events), Some(ErrorCode::WorkerFailed), "{act}: {events:?}");
        let ends = events.iter().filter(|e| matches!(e, InferEvent::End { .. } | InferEvent::Error { .. }));
        assert_eq!(ends.count(), 1, "{act}");
        tiny_model::check_continuation("Tell me.", &text(&events)).expect("a part of the recital");
        assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 1)], "{act}");
        assert_eq!(fleet.in_flight(), 0, "{act}");
    }
}

#[tokio::test]
async fn a_worker_that_tells_its_failure_is_not_contradicted() {
    let fleet =
        after_three_tokens(json!({ "kind": "error", "status": 500, "message": "cuda went away" })).await;
    let answer = fleet.router.route(&job(true, 8), |_| {}).await.unwrap();
    let (text, failed) = read(answer).await;
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(text.matches("\"error\"").count(), 1, "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 1)]);
}

#[tokio::test]
async fn a_truncated_stream_is_an_error_of_the_body() {
    let fleet = after_three_tokens(json!({ "kind": "end" })).await;
    let (text, failed) = read(fleet.router.route(&job(true, 8), |_| {}).await.unwrap()).await;
    assert!(matches!(failed, Some(BodyError::Truncated { .. })), "{failed:?}, {text}");
    let fleet = after_three_tokens(json!({ "kind": "break", "how": "fin" })).await;
    let (_, failed) = read(fleet.router.route(&job(true, 8), |_| {}).await.unwrap()).await;
    assert!(failed.is_some());
}

#[tokio::test]
async fn an_event_without_end_is_cut_off() {
    let settings = router::Settings { event_max: 64 * 1024, ..Default::default() };
    let endless = fault(json!({ "tokens": 3 }), json!({ "kind": "garbage", "which": "endless_line" }));
    let fleet = Fleet::serving(vec![endless], settings).await;
    let (text, failed) = read(fleet.router.route(&job(true, 8), |_| {}).await.unwrap()).await;
    assert!(matches!(failed, Some(BodyError::Overlong { .. })), "{failed:?}");
    assert!(text.len() < 256 * 1024);
    let events = collect(&fleet, request("hf:a/b", 8)).await;
    assert_eq!(error(&events), Some(ErrorCode::WorkerFailed), "{events:?}");
}

#[tokio::test]
async fn a_worker_that_never_stops_is_stopped() {
    let fleet = after_three_tokens(json!({ "kind": "garbage", "which": "endless_events" })).await;
    let events = collect(&fleet, request("hf:a/b", 8)).await;
    assert_eq!(error(&events), Some(ErrorCode::WorkerFailed));
    assert!(events.len() < 64, "{} events", events.len());
}

#[tokio::test]
async fn a_worker_that_falls_silent_is_given_up() {
    let settings = router::Settings { inter_token: Duration::from_millis(200), ..Default::default() };
    let hung = fault(json!({ "tokens": 3 }), json!({ "kind": "hang" }));
    let fleet = Fleet::serving(vec![hung], settings).await;
    let events = collect(&fleet, request("hf:a/b", 8)).await;
    assert_eq!(error(&events), Some(ErrorCode::WorkerTimeout), "{events:?}");
    assert_eq!(fleet.in_flight(), 0);
}

#[tokio::test]
async fn a_hive_that_is_lost_cuts_its_streams() {
    let fleet = Fleet::serving(
        vec![fault(json!({ "tokens": 3 }), json!({ "kind": "hang" }))],
        router::Settings::default(),
    )
    .await;
    let mut events = fleet.ask(request("hf:a/b", 8));
    while !matches!(events.recv().await, Some(InferEvent::Token { i: 2, .. })) {}
    fleet.fakes[0].patch(&json!({ "wire": { "from_hive": { "swallow": true } } })).unwrap();
    let events = crate::fleet_of_fakes::rest(&mut events).await;
    assert_eq!(error(&events), Some(ErrorCode::WorkerFailed), "{events:?}");
    let _ = fleet.fakes[0].act(Act::CutAll { how: Default::default() }).await;
}

#[tokio::test]
async fn a_whole_answer_says_how_long_it_is() {
    use http_body::Body;
    let fleet = Fleet::serving(vec![Script::default()], Default::default()).await;
    let answer = fleet.router.route(&job(false, 8), |_| {}).await.unwrap();
    let told = answer.body.size_hint().exact().expect("the worker sent a length");
    let (text, failed) = read(answer).await;
    assert!(failed.is_none());
    assert_eq!(text.len() as u64, told);
    let mut answer = fleet.router.route(&job(false, 8), |_| {}).await.unwrap();
    let mut taken = 0;
    while taken < told {
        taken += answer.body.frame().await.unwrap().unwrap().data_ref().unwrap().len() as u64;
    }
    drop(answer);
    assert_eq!(
        fleet.endings(),
        [(RequestOutcome::Completed, 1); 2],
        "a server asks for no more than the length"
    );
}

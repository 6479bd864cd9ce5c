//! A queen that stops.

use fake_hive::{CallName, Outcome, Script};
use fleet::RequestOutcome;
use queen_api::{ErrorCode, InferEvent};
use serde_json::json;

use crate::{
    fleet_of_fakes::{Fleet, collect, error, eventually, request, rest},
    script,
};

#[tokio::test]
async fn a_request_that_a_worker_has_may_finish_and_a_new_one_is_refused() {
    let prefill = json!({ "worker": { "prefill_ms": 500, "early_head": false } });
    let fleet = Fleet::serving(vec![script(prefill)], Default::default()).await;
    let mut running = fleet.ask(request("hf:a/b", 8));
    let open = || {
        let calls = fleet.fakes[0].journal();
        calls.iter().any(|c| c.call == CallName::Proxy && c.outcome == Outcome::Open)
    };
    eventually("it is under way", open).await;
    fleet.router.close();
    let refused = collect(&fleet, request("hf:a/b", 8)).await;
    assert_eq!(error(&refused), Some(ErrorCode::Stopping), "{refused:?}");
    let finished = rest(&mut running).await;
    assert!(matches!(finished.last(), Some(InferEvent::End { .. })), "{finished:?}");
    fleet.router.idle().await;
    assert_eq!(fleet.endings().last(), Some(&(RequestOutcome::Completed, 1)));
}

#[tokio::test]
async fn at_the_end_of_the_grace_clients_are_told() {
    let fleet = Fleet::serving(
        vec![script(json!({ "worker": { "token_ms": 50 } })), Script::default()],
        Default::default(),
    )
    .await;
    let mut running = fleet.ask(request("hf:a/b", 200));
    assert!(matches!(running.recv().await, Some(InferEvent::Started { .. })));
    fleet.router.cut();
    let told = rest(&mut running).await;
    assert_eq!(error(&told), Some(ErrorCode::Stopping), "{told:?}");
    fleet.router.idle().await;
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 1)]);
}

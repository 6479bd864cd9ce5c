//! The whole request path over scripted hives: registry, provisioner, placement and router together.

mod fleet_of_fakes;

use fake_hive::{CallName, Script};
use fleet::{EventKind, RequestOutcome};
use fleet_of_fakes::{Fleet, collect, request, text};
use queen_api::{ErrorCode, InferEvent, LoadingStage};

fn script(patch: serde_json::Value) -> Script {
    Script::default().with(&patch).expect("a script")
}

fn endings(fleet: &Fleet) -> Vec<(RequestOutcome, u32)> {
    let ending = |event: &std::sync::Arc<fleet::Event>| match &event.kind {
        EventKind::RequestEnded { outcome, attempts, .. } => Some((*outcome, *attempts)),
        _ => None,
    };
    fleet.journal.since(0).iter().filter_map(ending).collect()
}

#[tokio::test]
async fn a_cold_model_is_fetched_and_started_once_for_two_requests() {
    let fleet = Fleet::start(1).await;
    let (first, second) =
        tokio::join!(collect(&fleet, request("hf:a/b", 8)), collect(&fleet, request("hf:a/b", 8)));
    for events in [&first, &second] {
        assert!(matches!(events.last(), Some(InferEvent::End { tokens_out: 8, .. })), "{events:?}");
        let loading = |e: &InferEvent| matches!(e, InferEvent::Loading { stage: LoadingStage::Loading, .. });
        assert!(events.iter().any(loading), "{events:?}");
        tiny_model::check_continuation("Tell me.", &text(events)).expect("the recital");
    }
    assert_eq!((fleet.count(CallName::Download), fleet.count(CallName::Spawn)), (1, 1));
    assert_eq!(endings(&fleet), [(RequestOutcome::Completed, 1); 2]);
}

#[tokio::test]
async fn a_model_that_no_hub_knows_is_told_so() {
    let fleet = Fleet::start(1).await;
    let events = collect(&fleet, request("hf:missing/b", 8)).await;
    assert!(
        matches!(events.last(), Some(InferEvent::Error { code: ErrorCode::ModelNotFound, .. })),
        "{events:?}"
    );
    assert_eq!(endings(&fleet), [(RequestOutcome::Failed, 0)]);
}

//! Every call.

use fake_hive::{FakeHive, Options, Outcome, Script};
use fleet::{Desired, EventKind};
use futures_util::StreamExt;
use queen_api::{ErrorCode, HivesOnStop, InferEvent, InferRequest, LogSource, ReadyState, RegisterRequest};
use queen_client::{ClientErrorKind, Happening, QueenClient};
use serde_json::json;

use crate::rig::{MODEL, Queen, Wishes, eventually, script};

const TOKEN: &str = "0123456789abcdef";

fn client(queen: &Queen) -> QueenClient {
    QueenClient::new(&queen.address.to_string(), None).unwrap()
}

fn request(max_tokens: u32) -> InferRequest {
    serde_json::from_value(json!({ "model": "a/b", "prompt": "Tell me.", "max_tokens": max_tokens })).unwrap()
}

#[tokio::test]
async fn what_the_queen_has_is_told() {
    let queen = Queen::serving(vec![Script::default()], Wishes::default()).await;
    let client = client(&queen);
    assert_eq!(client.health().await.unwrap().status, "ok");
    let ready = client.ready().await.unwrap();
    assert_eq!((ready.status, ready.hives_online, ready.workers_ready), (ReadyState::Ready, 1, 1));
    assert_eq!(client.hives().await.unwrap()[0].id.as_str(), "box-0");
    assert_eq!(client.workers().await.unwrap()[0].record.model_ref.to_string(), MODEL);
    let models: Vec<_> = client.models().await.unwrap().into_iter().map(|card| card.id).collect();
    assert_eq!(models, [MODEL, "small"]);
    queen.api.stopping();
    assert_eq!(client.ready().await.unwrap().status, ReadyState::Stopping);
}

#[tokio::test]
async fn a_hive_is_registered() {
    let queen = Queen::alone(Wishes::default()).await;
    let fake = FakeHive::start(Script::default(), Options::named("box").unwrap()).await.unwrap();
    let endpoint = fake.endpoint();
    let body = json!({ "id": "box", "port": endpoint.port, "token": endpoint.token.reveal() });
    let mut body: RegisterRequest = serde_json::from_value(body).unwrap();
    let client = client(&queen);
    assert!(client.register(&body).await.unwrap().created);
    assert!(!client.register(&body).await.unwrap().created);
    body.port = Some(1);
    let conflict = client.register(&body).await.unwrap_err();
    assert_eq!(conflict.code(), Some(ErrorCode::HiveConflict));
    let text = conflict.to_string();
    assert!(text.starts_with("could not register the hive: hive box is registered already"), "{text}");
}

#[tokio::test]
async fn an_answer_comes_in_pieces_or_whole() {
    let queen = Queen::serving(vec![Script::default()], Wishes::default()).await;
    let client = client(&queen);
    let mut answer = client.infer(&request(8)).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = answer.next().await {
        events.push(event.unwrap());
    }
    assert!(matches!(events.first(), Some(InferEvent::Started { .. })), "{events:?}");
    assert!(matches!(events.last(), Some(InferEvent::End { tokens_out: 8, .. })), "{events:?}");
    let whole = client.infer_whole(&request(8)).await.unwrap();
    let text = |e: &InferEvent| if let InferEvent::Token { t, .. } = e { Some(t.clone()) } else { None };
    assert_eq!(whole.text, events.iter().filter_map(text).collect::<String>());
    assert_eq!((whole.model.as_str(), whole.tokens_out), (MODEL, 8));
}

#[tokio::test]
async fn a_failure_in_the_middle_is_the_last_thing_and_an_error() {
    let dies = json!({ "worker": { "faults": [{ "at": { "tokens": 3 }, "act": { "kind": "die" } }] } });
    let queen = Queen::serving(vec![script(dies)], Wishes::default()).await;
    let mut answer = client(&queen).infer(&request(8)).await.unwrap();
    let mut last = None;
    while let Some(event) = answer.next().await {
        assert!(last.is_none(), "nothing follows an error");
        last = event.err();
    }
    assert_eq!(last.unwrap().code(), Some(ErrorCode::WorkerFailed));
    let alone = Queen::alone(Wishes::default()).await;
    let refused = client(&alone).infer_whole(&request(8)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NoHive));
    let mut wrong = request(8);
    wrong.max_tokens = 0;
    let wrong = client(&alone).infer_whole(&wrong).await.unwrap_err();
    assert_eq!(wrong.to_string(), "could not ask the model: max_tokens: at least 1");
}

#[tokio::test]
async fn dropping_an_answer_cancels_it() {
    let slow = script(json!({ "worker": { "token_ms": 50 } }));
    let queen = Queen::serving(vec![slow], Wishes::default()).await;
    let mut answer = client(&queen).infer(&request(200)).await.unwrap();
    while !matches!(answer.next().await, Some(Ok(InferEvent::Token { .. }))) {}
    drop(answer);
    eventually("the worker noticed", || queen.generations(Outcome::Cancelled) == 1).await;
}

#[tokio::test]
async fn events_are_followed_and_gaps_told() {
    let queen = Queen::alone(Wishes::default()).await;
    for _ in 0..1200 {
        queen.journal.record(EventKind::QueenStopping);
    }
    let mut events = client(&queen).events(Some(0)).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap(), Happening::Missed(200));
    let Happening::Event(event) = events.next().await.unwrap().unwrap() else { panic!("an event") };
    assert_eq!((event.seq, event.kind), (201, EventKind::QueenStopping));
    queen.api.stopping();
    queen.router.close();
    let rest = events.collect::<Vec<_>>().await;
    assert_eq!(rest.len(), 999);
    assert!(rest.iter().all(Result::is_ok));
}

#[tokio::test]
async fn the_queen_is_stopped() {
    let mut queen = Queen::alone(Wishes::default()).await;
    client(&queen).shutdown(HivesOnStop::Keep).await.unwrap();
    assert_eq!(queen.stop.recv().await.unwrap().hives, HivesOnStop::Keep);
}

#[tokio::test]
async fn the_token_opens_and_its_lack_is_told_with_what_to_do() {
    let queen = Queen::alone(Wishes { token: Some(TOKEN), ..Wishes::default() }).await;
    let address = queen.address.to_string();
    let known = QueenClient::new(&address, Some(TOKEN.parse().unwrap())).unwrap();
    assert!(known.hives().await.unwrap().is_empty());
    assert!(!format!("{known:?}").contains(TOKEN));
    let unknown = QueenClient::new(&address, None).unwrap();
    assert_eq!(unknown.health().await.unwrap().status, "ok");
    for refused in [unknown.hives().await.unwrap_err(), unknown.models().await.unwrap_err()] {
        assert_eq!(refused.code(), Some(ErrorCode::Unauthorized), "{refused:?}");
        assert!(
            matches!(&refused.kind, ClientErrorKind::Refused(d) if d.message.contains("QUEEN_RBEE_TOKEN"))
        );
    }
}

#[tokio::test]
async fn a_hive_is_looked_at_steered_and_its_logs_are_read() {
    let said = script(json!({ "worker": { "log": ["one", "two"] } }));
    let queen = Queen::serving(vec![said], Wishes::default()).await;
    let client = client(&queen);
    let id = "box-0".parse().unwrap();
    assert_eq!(client.desire(&id, Desired::Drained).await.unwrap().desired, Desired::Drained);
    assert_eq!(client.hive(&id).await.unwrap().desired, Desired::Drained);
    let worker = LogSource::Worker(id.clone(), "w-1".parse().unwrap());
    assert_eq!(client.logs(&worker, 1).await.unwrap(), ["two"]);
    assert!(!client.logs(&LogSource::Hive(id.clone()), 10).await.unwrap().is_empty());
    let configured = client.remove_hive(&id).await.unwrap_err();
    assert_eq!(configured.code(), Some(ErrorCode::HiveConflict));
    let unknown = client.desire(&"box-9".parse().unwrap(), Desired::Running).await.unwrap_err();
    assert_eq!(unknown.to_string(), "could not start the hive: no hive box-9 is registered");
}

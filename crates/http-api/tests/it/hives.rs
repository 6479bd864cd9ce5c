//! Hives and workers.

use fake_hive::{FakeHive, Options, Script};
use queen_api::{ErrorBody, ErrorCode, HivesReply, RegisterReply, WorkersReply};
use serde_json::{Value, json};

use crate::rig::{MODEL, Queen, Wishes, eventually, http};

async fn register(queen: &Queen, body: &Value) -> reqwest::Response {
    queen.post("/v1/hives/register", body.to_string()).send().await.unwrap()
}

#[tokio::test]
async fn a_hive_is_registered_once_and_listed() {
    let queen = Queen::alone(Wishes::default()).await;
    let fake = FakeHive::start(Script::default(), Options::named("box").unwrap()).await.unwrap();
    let endpoint = fake.endpoint();
    let mut body =
        json!({ "id": "box", "port": endpoint.port, "token": endpoint.token.reveal(), "labels": ["gpu"] });
    let first = register(&queen, &body).await;
    assert_eq!(first.status(), 201);
    let first: RegisterReply = first.json().await.unwrap();
    assert!(first.created && first.hive.attached);
    let again = register(&queen, &body).await;
    assert_eq!(again.status(), 200);
    assert!(!again.json::<RegisterReply>().await.unwrap().created);
    body["port"] = json!(1);
    let other = register(&queen, &body).await;
    assert_eq!(other.status(), 409);
    assert_eq!(other.json::<ErrorBody>().await.unwrap().error.code, ErrorCode::HiveConflict);
    let online = || queen.registry.view().hives().any(|h| h.phase == fleet::HivePhase::Online);
    eventually("it is online", online).await;
    let raw = queen.get("/v1/hives/list").send().await.unwrap().text().await.unwrap();
    assert!(!raw.contains(endpoint.token.reveal()), "a token is never shown: {raw}");
    let list: HivesReply = serde_json::from_str(&raw).unwrap();
    assert_eq!(list.hives.len(), 1);
    assert_eq!(list.hives[0].launch_id.as_ref(), Some(&endpoint.launch_id));
    assert!(list.hives[0].capabilities.is_some());
}

#[tokio::test]
async fn a_removed_hive_is_forgotten_and_goes_on() {
    let queen = Queen::alone(Wishes::default()).await;
    let fake = FakeHive::start(Script::default(), Options::named("box").unwrap()).await.unwrap();
    let endpoint = fake.endpoint();
    let body = json!({ "id": "box", "port": endpoint.port, "token": endpoint.token.reveal() });
    let remove = |id: &str| http().delete(queen.url(&format!("/v1/hives/{id}"))).send();
    assert_eq!(register(&queen, &body).await.status(), 201);
    assert_eq!(remove("box").await.unwrap().status(), 204);
    let list: HivesReply = queen.get("/v1/hives/list").send().await.unwrap().json().await.unwrap();
    assert!(list.hives.is_empty());
    assert!(
        !fake.journal().iter().any(|c| c.path.starts_with("/v1/shutdown")),
        "an attached hive is never stopped"
    );
    let again = remove("box").await.unwrap();
    assert_eq!(again.status(), 404);
    assert_eq!(again.json::<ErrorBody>().await.unwrap().error.code, ErrorCode::HiveNotFound);
    assert_eq!(remove("b%20x").await.unwrap().status(), 400);
    assert_eq!(register(&queen, &body).await.status(), 201, "the id is free again");
}

#[tokio::test]
async fn a_machine_that_this_queen_cannot_start_a_hive_on_is_refused() {
    let queen = Queen::alone(Wishes::default()).await;
    let refused = register(&queen, &json!({ "hostname": "box.example" })).await;
    assert_eq!(refused.status(), 422);
    let refused: ErrorBody = refused.json().await.unwrap();
    assert_eq!(refused.error.code, ErrorCode::Unsupported);
    assert!(refused.error.message.contains("rbee-hive"), "{}", refused.error.message);
    let list: HivesReply = queen.get("/v1/hives/list").send().await.unwrap().json().await.unwrap();
    assert!(list.hives.is_empty());
}

#[tokio::test]
async fn workers_of_all_hives_are_listed() {
    let queen = Queen::serving(vec![Script::default(); 2], Wishes::default()).await;
    let list: WorkersReply = queen.get("/v1/workers/list").send().await.unwrap().json().await.unwrap();
    let told: Vec<_> = list
        .workers
        .iter()
        .map(|w| (w.hive_id.to_string(), w.record.worker_id.to_string(), w.reachable, w.in_flight))
        .collect();
    let expected = |hive: &str| (hive.to_owned(), "w-1".to_owned(), true, 0);
    assert_eq!(told, [expected("box-0"), expected("box-1")]);
    assert!(list.workers.iter().all(|w| w.record.model_ref.to_string() == MODEL));
}

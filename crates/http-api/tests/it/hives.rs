//! Hives and workers.

use fake_hive::{FakeHive, Options, Script};
use fleet::{Desired, DesiredBy, HivePhase, StartPolicy};
use hive_api::client::{Connections, Timeouts};
use queen_api::{ErrorBody, ErrorCode, HiveInfo, HivesReply, LogsReply, RegisterReply, WorkersReply};
use serde_json::{Value, json};

use crate::rig::{MODEL, Queen, Wishes, eventually, http, script};

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
async fn a_hive_with_a_certificate_is_registered_by_its_fingerprint() {
    let queen = Queen::alone(Wishes::default()).await;
    let options = Options { tls: true, ..Options::named("box").unwrap() };
    let fake = FakeHive::start(Script::default(), options).await.unwrap();
    let endpoint = fake.endpoint();
    let mut body = json!({
        "id": "box", "port": endpoint.port, "token": endpoint.token.reveal(),
        "tls_fingerprint": "00".repeat(32),
    });
    assert_eq!(register(&queen, &body).await.status(), 201);
    let in_phase = |phase| queen.registry.view().hives().any(|h| h.phase == phase);
    eventually("another certificate is an error", || in_phase(HivePhase::Error)).await;
    let view = queen.registry.view();
    let reason = view.hives().next().unwrap().reason.clone().unwrap();
    assert!(reason.contains(&endpoint.pin.unwrap().to_string()), "{reason}");
    assert!(fake.journal().is_empty(), "it was asked nothing");
    body["tls_fingerprint"] = json!(endpoint.pin.unwrap().to_string());
    assert_eq!(register(&queen, &body).await.status(), 200);
    eventually("it is online", || in_phase(HivePhase::Online)).await;
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

#[tokio::test]
async fn a_worker_is_listed_where_the_queen_reaches_it() {
    let queen = Queen::alone(Wishes::default()).await;
    let stored = json!({ "models": { "known": [{ "model_ref": MODEL, "stored": true }] } });
    let script = Script::default().with(&stored).unwrap();
    let fake = FakeHive::start(script, Options::named("box").unwrap()).await.unwrap();
    let endpoint = fake.endpoint();
    let (port, token) = (endpoint.port, endpoint.token.reveal().to_owned());
    let request = serde_json::from_value(json!({ "model_ref": MODEL, "idempotency_key": "k" })).unwrap();
    Connections::new(Timeouts::default()).unwrap().client(endpoint).spawn(&request).await.unwrap();
    let body = json!({ "id": "box", "hostname": "localhost", "port": port, "token": token });
    assert_eq!(register(&queen, &body).await.status(), 201);
    eventually("its worker is known", || queen.registry.view().workers().count() == 1).await;
    let list: WorkersReply = queen.get("/v1/workers/list").send().await.unwrap().json().await.unwrap();
    assert_eq!(list.workers[0].record.url, format!("http://localhost:{port}/v1/workers/w-1/proxy"));
}

#[tokio::test]
async fn what_is_wanted_of_a_hive_is_noted_and_asking_twice_changes_nothing() {
    let queen = Queen::start(vec![Script::default()], Wishes::default()).await;
    let phase = || queen.registry.view().hives().next().map(|hive| hive.phase);
    for (verb, desired, becomes) in [
        ("drain", Desired::Drained, HivePhase::Draining),
        ("pause", Desired::Paused, HivePhase::Draining),
        ("resume", Desired::Running, HivePhase::Online),
        ("stop", Desired::Stopped, HivePhase::Offline),
        ("start", Desired::Running, HivePhase::Online),
    ] {
        for _ in 0..2 {
            let path = format!("/v1/hives/box-0/{verb}");
            let answer = queen.post(&path, "").send().await.unwrap();
            assert_eq!(answer.status(), 202, "{verb}");
            let hive: HiveInfo = answer.json().await.unwrap();
            assert_eq!((hive.desired, hive.desired_by), (desired, DesiredBy::Person));
            eventually(verb, || phase() == Some(becomes)).await;
        }
    }
    let one: HiveInfo = queen.get("/v1/hives/box-0").send().await.unwrap().json().await.unwrap();
    let list: HivesReply = queen.get("/v1/hives/list").send().await.unwrap().json().await.unwrap();
    assert_eq!(vec![one], list.hives);
}

#[tokio::test]
async fn a_hive_on_demand_waits_for_it_and_an_attached_one_cannot() {
    let queen = Queen::alone(Wishes::default()).await;
    let body = json!({ "id": "box", "start": "on_demand" });
    let reply: RegisterReply = register(&queen, &body).await.json().await.unwrap();
    assert_eq!(reply.hive.start, StartPolicy::OnDemand);
    assert_eq!((reply.hive.desired, reply.hive.desired_by), (Desired::Stopped, DesiredBy::Placement));
    assert_eq!(reply.hive.phase, HivePhase::Offline);
    let body = json!({ "id": "two", "token": "0123456789abcdef", "start": "on_demand" });
    let refused = register(&queen, &body).await;
    assert_eq!(refused.status(), 400);
    let error = refused.json::<ErrorBody>().await.unwrap().error;
    assert!(error.message.contains("start: "), "{error:?}");
}

#[tokio::test]
async fn a_hive_that_is_not_registered_is_said_to_be_none() {
    let queen = Queen::alone(Wishes::default()).await;
    for verb in ["start", "stop", "drain"] {
        let answer = queen.post(&format!("/v1/hives/box/{verb}"), "").send().await.unwrap();
        assert_eq!(answer.status(), 404, "{verb}");
        assert_eq!(answer.json::<ErrorBody>().await.unwrap().error.code, ErrorCode::HiveNotFound);
    }
    for (path, status) in
        [("/v1/hives/box", 404), ("/v1/hives/b%20x", 400), ("/v1/logs?source=hive:box", 404)]
    {
        assert_eq!(queen.get(path).send().await.unwrap().status(), status, "{path}");
    }
}

#[tokio::test]
async fn the_logs_of_a_hive_and_its_workers_are_shown() {
    let said = script(json!({ "worker": { "log": ["one", "two", "three"] } }));
    let queen = Queen::serving(vec![said], Wishes::default()).await;
    let read = async |query: &str| queen.get(&format!("/v1/logs?{query}")).send().await.unwrap();
    let worker: LogsReply = read("source=worker:box-0/w-1&lines=2").await.json().await.unwrap();
    assert_eq!(worker.lines, ["two", "three"]);
    let hive = read("source=hive:box-0").await;
    assert_eq!(hive.status(), 200);
    assert!(!hive.json::<LogsReply>().await.unwrap().lines.is_empty());
    for (query, status) in [
        ("", 400),
        ("source=box-0", 400),
        ("source=hive:b%20x", 400),
        ("source=hive:box-0&lines=many", 400),
        ("source=hive:box-0&line=3", 400),
        ("source=worker:box-0/w-9", 404),
    ] {
        let answer = read(query).await;
        assert_eq!(answer.status(), status, "{query}: {}", answer.text().await.unwrap());
    }
    queen.post("/v1/hives/box-0/stop", "").send().await.unwrap();
    let offline = || queen.registry.view().hives().all(|hive| hive.phase == HivePhase::Offline);
    eventually("it is no longer used", offline).await;
    let gone = read("source=hive:box-0").await;
    assert_eq!(gone.status(), 502);
    let gone = gone.json::<ErrorBody>().await.unwrap().error;
    assert_eq!(
        gone.message,
        "hive box-0 is offline, and only a hive that answers can show this log; look at its own machine"
    );
}

//! `/v1/models/catalog` and `/v1/models/ensure`.

use fake_hive::{CallName, FakeHive};
use serde_json::{Value, json};

use crate::rig::{MODEL, Queen, Wishes, http, script};

/// A whole answer.
struct Reply {
    status: u16,
    text: String,
}

impl Reply {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        Self { status: answer.status().as_u16(), text: answer.text().await.unwrap() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

async fn ensure(queen: &Queen, body: Value) -> Reply {
    Reply::of(queen.post("/v1/models/ensure", body.to_string())).await
}

async fn catalog(queen: &Queen) -> Value {
    Reply::of(queen.get("/v1/models/catalog")).await.json()
}

async fn remove(queen: &Queen, query: &str) -> Reply {
    Reply::of(http().delete(queen.url(&format!("/v1/models/catalog{query}")))).await
}

fn downloads(queen: &Queen) -> usize {
    queen.fakes.iter().flat_map(FakeHive::journal).filter(|call| call.call == CallName::Download).count()
}

#[tokio::test]
async fn a_model_is_brought_shown_and_removed() {
    let queen = Queen::start(
        vec![script(json!({ "download": { "duration_ms": 300 } })), script(json!({}))],
        Wishes::default(),
    )
    .await;
    let told = ensure(&queen, json!({ "model": "small", "hive": "box-1" })).await;
    assert_eq!(told.status, 200);
    let events: Vec<Value> = told
        .text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let chosen = kinds.iter().rposition(|kind| *kind == "choosing");
    assert!(chosen < kinds.iter().position(|kind| *kind == "downloading"), "chosen after it came: {kinds:?}");
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["hive_id"]), (&json!("complete"), &json!("box-1")), "{}", told.text);
    assert!(told.text.ends_with("data: [DONE]\n\n"), "{}", told.text);
    // Whoever does not say where is answered by the hive that has it.
    let told = ensure(&queen, json!({ "model": MODEL })).await;
    assert!(told.text.contains("box-1") && downloads(&queen) == 1, "{}", told.text);

    let shown = catalog(&queen).await;
    let model = &shown["models"][0];
    assert_eq!((&model["model_ref"], &model["aliases"]), (&json!(MODEL), &json!(["small"])));
    let hive = &model["hives"][0];
    assert_eq!(
        (&hive["hive_id"], &hive["state"], &hive["workers"]),
        (&json!("box-1"), &json!("complete"), &json!(0))
    );

    let query = format!("?ref={MODEL}");
    assert_eq!(remove(&queen, &query).await.json(), json!({ "removed_from": ["box-1"] }));
    let gone = remove(&queen, &query).await;
    assert_eq!((gone.status, gone.json()), (200, json!({ "removed_from": [] })), "twice is once");
}

#[tokio::test]
async fn what_lies_on_a_machine_is_shown_before_anybody_asked_for_it() {
    let stored = json!({ "models": { "known": [{ "model_ref": "hf:a/brought", "stored": true }] } });
    let queen = Queen::start(vec![script(stored)], Wishes::default()).await;
    let shown = catalog(&queen).await;
    let found = shown["models"]
        .as_array()
        .unwrap()
        .iter()
        .find(|model| model["model_ref"].as_str().is_some_and(|name| name.starts_with("hf:a/brought")));
    let hive = &found.unwrap_or_else(|| panic!("{shown}"))["hives"][0];
    assert_eq!((&hive["hive_id"], &hive["state"]), (&json!("box-0"), &json!("complete")));
    // It goes by the name that it is listed by, though nobody here ever asked for it.
    let query = format!("?ref={}", found.unwrap()["model_ref"].as_str().unwrap());
    assert_eq!(remove(&queen, &query).await.json(), json!({ "removed_from": ["box-0"] }));
    let shown = catalog(&queen).await;
    assert!(!shown.to_string().contains("hf:a/brought"), "{shown}");
}

#[tokio::test]
async fn what_is_used_stays_and_what_cannot_be_is_said() {
    let queen = Queen::serving(vec![script(json!({}))], Wishes::default()).await;
    let used = remove(&queen, &format!("?ref={MODEL}&hive=box-0")).await;
    assert_eq!((used.status, used.code()), (409, "model_in_use".to_owned()));
    assert!(used.text.contains("box-0 by worker w-"), "{}", used.text);
    let shown = catalog(&queen).await;
    assert_eq!(shown["models"][0]["hives"][0]["workers"], json!(1));
    let nowhere = ensure(&queen, json!({ "model": MODEL, "hive": "box-9" })).await;
    assert_eq!((nowhere.status, nowhere.code()), (404, "hive_not_found".to_owned()));
    let missing = ensure(&queen, json!({ "model": "hf:missing/x" })).await;
    assert!(missing.text.contains("model_not_found") && !missing.text.contains("[DONE]"), "{}", missing.text);
    for (path, code) in
        [("?ref=a b", "invalid_request"), ("", "invalid_request"), ("?ref=a/b&hive=no", "hive_not_found")]
    {
        let refused = remove(&queen, &path.replace(' ', "%20")).await;
        assert_eq!(refused.code(), code, "{path}");
    }
}

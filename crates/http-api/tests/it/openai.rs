//! OpenAI's routes.

use std::time::Duration;

use fake_hive::{CallName, Script};
use fleet::RequestOutcome;
use http_api::Limits;
use serde_json::{Value, json};

use crate::rig::{MODEL, Queen, Wishes, eventually, script};

const CHAT: &str = "/v1/chat/completions";

fn chat(stream: bool) -> String {
    let messages = json!([{ "role": "user", "content": "Tell me." }]);
    json!({ "model": "a/b", "messages": messages, "max_tokens": 8, "stream": stream }).to_string()
}

fn fault(at: Value, act: Value) -> Script {
    script(json!({ "worker": { "faults": [{ "at": at, "act": act }] } }))
}

#[tokio::test]
async fn an_answer_is_the_workers_with_its_name_in_the_head() {
    let queen = Queen::serving(vec![Script::default()], Wishes::default()).await;
    let answer = queen.post(CHAT, chat(false)).send().await.unwrap();
    let headers = answer.headers().clone();
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-rbee-worker", "w-1"),
        ("x-rbee-hive", "box-0"),
        ("x-rbee-attempts", "1"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let queued: u64 = headers["x-rbee-queued-ms"].to_str().unwrap().parse().unwrap();
    assert!(queued < 60_000, "the slot was free and took {queued} ms");
    assert!(headers.contains_key("content-length"), "the client sees whether it is whole");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!(MODEL)));
    let stream = queen.post(CHAT, chat(true)).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(
        (&stream.headers()["cache-control"], &stream.headers()["x-accel-buffering"]),
        (&"no-store".parse().unwrap(), &"no".parse().unwrap())
    );
    let stream = stream.text().await.unwrap();
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    assert_eq!(queen.endings(), [RequestOutcome::Completed; 2]);
}

#[tokio::test]
async fn headers_that_a_worker_made_up_do_not_pass() {
    let garbage = json!({ "kind": "garbage", "which": "injected_headers" });
    let queen = Queen::serving(vec![fault(json!("request"), garbage)], Wishes::default()).await;
    let answer = queen.post(CHAT, chat(false)).send().await.unwrap();
    for name in ["set-cookie", "location", "alt-svc"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_stream_that_fails_says_so_once_and_has_no_terminator() {
    for act in [
        json!({ "kind": "die", "how": "rst" }),
        json!({ "kind": "die", "how": "fin" }),
        json!({ "kind": "end" }),
        json!({ "kind": "error", "status": 500, "message": "cuda went away" }),
    ] {
        let queen = Queen::serving(vec![fault(json!({ "tokens": 3 }), act.clone())], Wishes::default()).await;
        let answer = queen.post(CHAT, chat(true)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        let errors: Vec<&str> = text.split("\n\n").filter(|e| e.starts_with("data: {\"error\"")).collect();
        assert_eq!(errors.len(), 1, "{act}: {text}");
        let error: Value = serde_json::from_str(errors[0].trim_start_matches("data: ")).unwrap();
        assert!(error["error"]["message"].is_string(), "{error}");
        assert!(text.trim_end().ends_with(errors[0]) && !text.contains("[DONE]"), "{act}: {text}");
        assert_eq!(queen.endings(), [RequestOutcome::Failed], "{act}");
    }
}

#[tokio::test]
async fn a_whole_answer_that_fails_is_cut_off_or_refused() {
    let queen = Queen::serving(
        vec![fault(json!("request"), json!({ "kind": "garbage", "which": "long_content_length" }))],
        Wishes::default(),
    )
    .await;
    let answer = queen.post(CHAT, chat(false)).send().await.unwrap();
    assert!(answer.status() != 200 || answer.bytes().await.is_err(), "it is not taken for whole");
}

#[tokio::test]
async fn a_busy_worker_says_when_to_come_again() {
    for (retry_after, expected) in [(Some(7), 7..=7), (None, 2..=3)] {
        let act = json!({ "kind": "error", "status": 503, "retry_after_s": retry_after });
        let queen = Queen::serving(vec![fault(json!("request"), act)], Wishes::default()).await;
        let answer = queen.post(CHAT, chat(true)).send().await.unwrap();
        let again: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(answer.status() == 503 && expected.contains(&again), "{again}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_worker_is_passed_on_as_it_is() {
    let act = json!({ "kind": "error", "status": 422, "message": "no such parameter" });
    let queen = Queen::serving(vec![fault(json!("request"), act)], Wishes::default()).await;
    let answer = queen.post(CHAT, chat(true)).send().await.unwrap();
    assert_eq!(answer.status(), 422);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["message"], "no such parameter");
}

fn impatient() -> Wishes {
    let limits = Limits {
        early_head: Duration::from_millis(50),
        comment_every: Duration::from_millis(50),
        ..Limits::default()
    };
    Wishes { limits, ..Wishes::default() }
}

#[tokio::test]
async fn a_stream_that_waits_long_gets_its_head_and_comments() {
    let slow = script(json!({ "worker": { "load_ms": 400 } }));
    let queen = Queen::start(vec![slow], impatient()).await;
    let answer = queen.post(CHAT, chat(true)).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let text = answer.text().await.unwrap();
    assert!(text.starts_with(": waiting for a worker\n\n"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn a_stream_that_waits_for_another_worker_gets_comments_until_it_goes_on() {
    let broken = json!({
        "at": { "tokens": 3 }, "act": { "kind": "break", "how": "rst" }, "prompt_contains": "Tell me."
    });
    let breaks = script(json!({ "worker": { "prefill_ms": 1000, "faults": [broken] } }));
    let queen = Queen::serving(vec![breaks.clone(), breaks], impatient()).await;
    let mut body: Value = serde_json::from_str(&chat(true)).unwrap();
    body["temperature"] = json!(0.0);
    let text = queen.post(CHAT, body.to_string()).send().await.unwrap().text().await.unwrap();
    let (_, rest) = text.split_once(": another worker goes on\n\n").expect("it broke off");
    let (comments, answer) = rest.split_at(rest.find("data: ").expect("it goes on"));
    assert!(comments.matches(": waiting for a worker\n\n").count() >= 2, "{text}");
    assert!(!answer.contains("\n: ") && answer.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn a_late_failure_is_an_event() {
    let fails = json!({ "worker": { "load_ms": 300, "load": { "kind": "fails", "code": "out_of_memory" } } });
    let queen = Queen::start(vec![script(fails)], impatient()).await;
    let text = queen.post(CHAT, chat(true)).send().await.unwrap().text().await.unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap().trim_start_matches("data: ");
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "insufficient_memory", "{text}");
    let refuses = json!({ "worker": { "load_ms": 300, "faults": [{
        "at": "request", "act": { "kind": "error", "status": 400, "message": "no such parameter" }
    }] } });
    let queen = Queen::start(vec![script(refuses)], impatient()).await;
    let text = queen.post(CHAT, chat(true)).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("no such parameter") && !text.contains("[DONE]"), "{text}");
    eventually("it failed", || queen.endings() == [RequestOutcome::Failed]).await;
}

#[tokio::test]
async fn the_body_goes_on_as_it_came_but_for_the_name() {
    let queen = Queen::serving(vec![Script::default()], Wishes::default()).await;
    let odd = r#"{ "unknown" : [1.0e2, "\u00e9"], "model":"small","prompt": "canary-7 x" ,"max_tokens":2 }"#;
    let answer = queen.post("/v1/completions", odd).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let call = queen.fakes[0].journal().into_iter().find(|c| c.call == CallName::Proxy).unwrap();
    assert_eq!((call.canary.as_deref(), call.model.as_deref()), (Some("canary-7"), Some(MODEL)));
    assert_eq!(call.path, "/v1/workers/w-1/proxy/v1/completions");
}

#[tokio::test]
async fn the_list_of_models_has_what_runs_and_the_aliases() {
    let queen = Queen::serving(vec![Script::default()], Wishes::default()).await;
    let list: Value = queen.get("/v1/models").send().await.unwrap().json().await.unwrap();
    let ids: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [MODEL, "small"]);
    let cold = Queen::start(vec![Script::default()], Wishes::default()).await;
    assert_eq!(
        cold.post("/v1/completions", r#"{"model":"c/d","prompt":"x"}"#).send().await.unwrap().status(),
        200
    );
    let list: queen_api::ModelsReply = cold.get("/v1/models").send().await.unwrap().json().await.unwrap();
    let card = list.data.iter().find(|card| card.id == "hf:c/d").unwrap();
    assert!(card.created > 1_500_000_000, "in seconds: {}", card.created);
}

#[tokio::test]
async fn another_worker_goes_on_where_the_client_or_the_temperature_allows_it() {
    for (temperature, header, goes_on) in
        [(0.0, None, true), (0.7, None, false), (0.7, Some("1"), true), (0.0, Some("0"), false)]
    {
        // Whichever worker is asked breaks off once: what goes on behind its words does not meet the fault.
        let act = json!({ "kind": "break", "how": "rst" });
        let broken = json!({ "at": { "tokens": 3 }, "act": act, "prompt_contains": "Tell me." });
        let breaks = script(json!({ "worker": { "faults": [broken] } }));
        let queen = Queen::serving(vec![breaks.clone(), breaks], Wishes::default()).await;
        let mut body: Value = serde_json::from_str(&chat(true)).unwrap();
        body["temperature"] = json!(temperature);
        let request = queen.post(CHAT, body.to_string());
        let request = match header {
            Some(value) => request.header("x-rbee-continue", value),
            None => request,
        };
        let text = request.send().await.unwrap().text().await.unwrap();
        let ending = if goes_on { RequestOutcome::Completed } else { RequestOutcome::Failed };
        assert_eq!(text.ends_with("data: [DONE]\n\n"), goes_on, "{temperature} {header:?}: {text}");
        assert_eq!(queen.endings(), [ending], "{temperature} {header:?}");
    }
    let queen = Queen::alone(Wishes::default()).await;
    let answer = queen.post(CHAT, chat(true)).header("x-rbee-continue", "maybe").send().await.unwrap();
    assert_eq!(answer.status(), 400);
}

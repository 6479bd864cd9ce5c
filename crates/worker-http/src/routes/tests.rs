use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::Value;
use tower_service::Service;

use super::*;
use crate::engine::{EngineError, Event, Finish, Message, Prompt};
use crate::scripted::{Scripted, Step};
use crate::worker::Settings;

const PATIENCE: Duration = Duration::from_secs(10);

fn token(text: &str) -> Step {
    Step::Do(Event::Token(text.as_bytes().to_vec()))
}

fn end(finish: Finish) -> Step {
    Step::Do(Event::Finished(finish))
}

fn hello() -> Vec<Step> {
    vec![token(" hello"), token(" bees"), end(Finish::Stop)]
}

fn loading(slots: u16) -> Arc<Worker> {
    Arc::new(Worker::new(Settings { served_name: "bees".to_owned(), slots, waiting: 1 }))
}

fn serving(engine: &Arc<Scripted>) -> Arc<Worker> {
    let worker = loading(1);
    worker.ready(Arc::clone(engine) as _);
    worker
}

async fn call(worker: &Arc<Worker>, method: &str, path: &str, body: impl Into<Body>) -> Response {
    let request = http::Request::builder().method(method).uri(path).body(body.into()).unwrap();
    router(Arc::clone(worker)).call(request).await.unwrap()
}

async fn post(worker: &Arc<Worker>, path: &str, mut body: Value) -> Response {
    if body.get("model").is_none() {
        body["model"] = json!("bees");
    }
    call(worker, "POST", path, body.to_string()).await
}

async fn complete(worker: &Arc<Worker>, body: Value) -> Response {
    post(worker, "/v1/completions", body).await
}

async fn text_of(response: Response) -> String {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("the body ends");
    String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
}

async fn json_of(response: Response) -> Value {
    serde_json::from_str(&text_of(response).await).unwrap()
}

/// The data of all events of a stream; frames parsed, with id and time taken out.
async fn frames_of(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = text_of(response).await;
    let events = text.strip_suffix("\n\n").unwrap_or(&text).split("\n\n").map(|event| {
        let data = event.strip_prefix("data: ").expect("every event is one data line");
        let mut frame = serde_json::from_str(data).unwrap_or_else(|_| json!(data));
        if let Some(fields) = frame.as_object_mut() {
            fields.remove("id");
            fields.remove("created");
        }
        frame
    });
    events.collect()
}

async fn status_of(worker: &Arc<Worker>) -> Value {
    json_of(call(worker, "GET", "/rbee/status", "").await).await
}

/// Waits until the status has this value at `field`.
async fn until(worker: &Arc<Worker>, field: &str, wanted: Value) {
    let waiting = async {
        while status_of(worker).await[field] != wanted {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(reached.is_ok(), "{field} did not become {wanted}: {}", status_of(worker).await);
}

#[tokio::test]
async fn a_worker_says_whether_it_is_loading_serving_or_stopping() {
    let worker = loading(2);
    let health = call(&worker, "GET", "/health", "").await;
    assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text_of(health).await, r#"{"status":"loading model"}"#);
    let refused = complete(&worker, json!({"prompt": "a"})).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json_of(refused).await["error"]["code"], "model_loading");
    assert_eq!(status_of(&worker).await["ready"], false);

    worker.ready(Scripted::new(hello()));
    let health = call(&worker, "GET", "/health", "").await;
    assert_eq!((health.status(), text_of(health).await.as_str()), (StatusCode::OK, r#"{"status":"ok"}"#));
    let models = json_of(call(&worker, "GET", "/v1/models", "").await).await;
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("bees"), &json!(128))
    );

    worker.stop();
    assert_eq!(text_of(call(&worker, "GET", "/health", "").await).await, r#"{"status":"stopping"}"#);
    assert_eq!(
        json_of(complete(&worker, json!({"prompt": "a"})).await).await["error"]["code"],
        "worker_stopping"
    );
}

#[tokio::test]
async fn a_whole_completion_has_openais_shape() {
    let engine = Scripted::new(hello());
    let worker = serving(&engine);
    let mut answer = json_of(complete(&worker, json!({"prompt": "say"})).await).await;
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    answer.as_object_mut().unwrap().retain(|name, _| name != "id" && name != "created");
    let choice = json!({"index": 0, "text": " hello bees", "logprobs": null, "finish_reason": "stop"});
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    assert_eq!(
        answer,
        json!({"object": "text_completion", "model": "bees", "choices": [choice], "usage": usage})
    );
    assert_eq!(engine.prompts(), [Prompt::Text("say".to_owned())]);
    let status = status_of(&worker).await;
    assert_eq!((&status["prompt_tokens_total"], &status["output_tokens_total"]), (&json!(3), &json!(2)));
}

#[tokio::test]
async fn a_whole_chat_answer_has_openais_shape() {
    let engine = Scripted::new(vec![token("hi"), end(Finish::Length)]);
    let body = json!({"messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": "I"}],
                      "continue_final_message": true});
    let answer = json_of(post(&serving(&engine), "/v1/chat/completions", body).await).await;
    assert_eq!(answer["object"], "chat.completion");
    let message = json!({"role": "assistant", "content": "hi", "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "length"});
    assert_eq!(answer["choices"], json!([choice]));
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let messages = vec![message("user", "say"), message("assistant", "I")];
    assert_eq!(engine.prompts(), [Prompt::Chat { messages, continue_last: true }]);
}

#[tokio::test]
async fn a_streamed_completion_counts_in_every_frame_when_asked() {
    let worker = serving(&Scripted::new(hello()));
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let frames =
        frames_of(complete(&worker, json!({"prompt": "a", "stream": true, "stream_options": options})).await)
            .await;
    let usage = |n: u32| json!({"prompt_tokens": 3, "completion_tokens": n, "total_tokens": 3 + n});
    let frame = |text: &str, finish: Option<&str>, n: u32| {
        let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish});
        json!({"object": "text_completion", "model": "bees", "choices": [choice], "usage": usage(n)})
    };
    let last = json!({"object": "text_completion", "model": "bees", "choices": [], "usage": usage(2)});
    let expected = [
        frame(" hello", None, 1),
        frame(" bees", None, 2),
        frame("", Some("stop"), 2),
        last,
        json!("[DONE]"),
    ];
    assert_eq!(frames, expected);
}

#[tokio::test]
async fn a_stream_that_was_asked_no_count_has_none_and_one_asked_for_the_last_has_null_before() {
    let worker = serving(&Scripted::new(hello()));
    let plain = frames_of(complete(&worker, json!({"prompt": "a", "stream": true})).await).await;
    assert_eq!(plain.len(), 4);
    assert!(plain.iter().all(|frame| frame.get("usage").is_none()), "{plain:?}");

    let body = json!({"prompt": "a", "stream": true, "stream_options": {"include_usage": true}});
    let last = frames_of(complete(&worker, body).await).await;
    assert!(
        last[..3].iter().all(|frame| frame["usage"].is_null() && frame.get("usage").is_some()),
        "{last:?}"
    );
    assert_eq!(last[3]["usage"]["completion_tokens"], 2);

    let body = json!({"prompt": "a", "stream": true, "stream_options": {"continuous_usage_stats": true}});
    let continuous = frames_of(complete(&worker, body).await).await;
    assert_eq!((continuous.len(), &continuous[2]["usage"]["total_tokens"]), (4, &json!(5)));
}

#[tokio::test]
async fn a_streamed_chat_begins_with_the_role() {
    let worker = serving(&Scripted::new(hello()));
    let body = json!({"messages": [{"role": "user", "content": "a"}], "stream": true});
    let frames = frames_of(post(&worker, "/v1/chat/completions", body).await).await;
    let frame = |delta: Value, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        json!({"object": "chat.completion.chunk", "model": "bees", "choices": [choice]})
    };
    let expected = [
        frame(json!({"role": "assistant", "content": ""}), None),
        frame(json!({"content": " hello"}), None),
        frame(json!({"content": " bees"}), None),
        frame(json!({}), Some("stop")),
        json!("[DONE]"),
    ];
    assert_eq!(frames, expected);
}

#[tokio::test]
async fn a_failure_in_mid_stream_is_an_error_event_without_done() {
    let worker = serving(&Scripted::new(vec![token(" hello"), Step::Fail("a cosmic ray")]));
    let frames = frames_of(complete(&worker, json!({"prompt": "a", "stream": true})).await).await;
    assert_eq!(frames.len(), 2, "{frames:?}");
    let error = json!({"message": "the engine failed: a cosmic ray", "type": "server_error", "code": "engine_failed", "param": null});
    assert_eq!(frames[1], json!({"error": error}));
}

#[tokio::test]
async fn an_engine_that_ends_without_a_reason_is_a_failure() {
    let worker = serving(&Scripted::new(vec![token(" hello")]));
    let frames = frames_of(complete(&worker, json!({"prompt": "a", "stream": true})).await).await;
    assert_eq!(frames.last().unwrap()["error"]["code"], "engine_failed");
    let whole = complete(&worker, json!({"prompt": "a"})).await;
    assert_eq!(whole.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_failure_before_the_first_token_has_a_status_even_in_a_stream() {
    let worker = serving(&Scripted::new(vec![Step::Fail("no memory")]));
    let response = complete(&worker, json!({"prompt": "a", "stream": true})).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let engine = Scripted::refusing(EngineError::PromptTooLong { prompt: 200, context: 128 });
    let response = complete(&serving(&engine), json!({"prompt": "a", "stream": true})).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(json_of(response).await["error"]["code"], "context_length_exceeded");
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_and_lets_go_of_the_engine() {
    let worker = serving(&Scripted::new(vec![token(" one E"), token("ND"), Step::Hang]));
    let answer = json_of(complete(&worker, json!({"prompt": "a", "stop": "END"})).await).await;
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]),
        (&json!(" one "), &json!("stop"))
    );
    assert_eq!(status_of(&worker).await["slots_busy"], 0);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_streamed_or_not() {
    let worker = serving(&Scripted::new(vec![token(" hello"), Step::Hang]));
    let streamed = complete(&worker, json!({"prompt": "a", "stream": true})).await;
    assert_eq!(status_of(&worker).await["slots_busy"], 1);
    drop(streamed);
    assert_eq!(status_of(&worker).await["slots_busy"], 0);

    let whole = complete(&worker, json!({"prompt": "a"}));
    let left = tokio::time::timeout(Duration::from_millis(50), whole).await;
    assert!(left.is_err(), "the script never ends");
    assert_eq!(status_of(&worker).await["slots_busy"], 0);
}

#[tokio::test]
async fn requests_wait_for_a_slot_up_to_a_bound() {
    let worker = serving(&Scripted::new(vec![
        token(" hello"),
        Step::Pause(Duration::from_millis(50)),
        end(Finish::Stop),
    ]));
    let running = complete(&worker, json!({"prompt": "a", "stream": true})).await;
    let second = complete(&worker, json!({"prompt": "b"}));
    let others = async {
        until(&worker, "waiting", json!(1)).await;
        let third = complete(&worker, json!({"prompt": "c"})).await;
        assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(third.headers()["retry-after"], "1");
        assert_eq!(json_of(third).await["error"]["code"], "queue_full");
        frames_of(running).await
    };
    let (second, first) = tokio::join!(second, others);
    assert_eq!((second.status(), first.len()), (StatusCode::OK, 3));
    assert_eq!(status_of(&worker).await["waiting"], 0);
}

#[tokio::test]
async fn stopping_ends_running_and_waiting_requests_with_an_error() {
    let worker = serving(&Scripted::new(vec![token(" hello"), Step::Hang]));
    let running = complete(&worker, json!({"prompt": "a", "stream": true})).await;
    let waiting = complete(&worker, json!({"prompt": "b"}));
    let stop = async {
        until(&worker, "waiting", json!(1)).await;
        worker.stop();
    };
    let (waiting, ()) = tokio::join!(waiting, stop);
    assert_eq!(json_of(waiting).await["error"]["code"], "worker_stopping");
    let frames = frames_of(running).await;
    assert_eq!(frames.last().unwrap()["error"]["code"], "worker_stopping");
}

#[tokio::test]
async fn every_refusal_has_openais_shape() {
    let worker = serving(&Scripted::new(hello()));
    let cases = [
        ("POST", "/v1/completions", "{", 400, "invalid_body", json!(null)),
        ("POST", "/v1/completions", r#"{"model":"x","prompt":"a"}"#, 404, "model_not_found", json!("model")),
        (
            "POST",
            "/v1/completions",
            r#"{"model":"bees","prompt":"a","n":3}"#,
            400,
            "unsupported_parameter",
            json!("n"),
        ),
        ("POST", "/v1/completions", r#"{"model":"bees"}"#, 400, "invalid_value", json!("prompt")),
        ("POST", "/v1/chat/completions", r#"{"model":"bees"}"#, 400, "invalid_value", json!("messages")),
        ("POST", "/v1/embeddings", "{}", 404, "unknown_url", json!(null)),
        ("GET", "/v1/completions", "", 404, "unknown_url", json!(null)),
    ];
    for (method, path, body, status, code, param) in cases {
        let response = call(&worker, method, path, body).await;
        assert_eq!(response.status(), status, "{method} {path} {body}");
        let error = &json_of(response).await["error"];
        assert_eq!((&error["code"], &error["param"]), (&json!(code), &param), "{error}");
        assert!(error["message"].is_string() && error["type"] == "invalid_request_error", "{error}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused() {
    let worker = serving(&Scripted::new(hello()));
    let body = format!(r#"{{"model":"bees","prompt":"{}"}}"#, "a".repeat(BODY_LIMIT));
    let response = call(&worker, "POST", "/v1/completions", body).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json_of(response).await["error"]["code"], "body_too_large");
}

//! The real worker with the real engine and the reciting model: what any lost, doubled or mixed token would show.
//!
//! Run with `cargo test --profile engine -p llm-worker-rbee`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[path = "recite/support.rs"]
mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{NAME, PATIENCE, Worker, command, model};
use tiny_model::{TEXT, check_continuation, recital_from};

fn recited(prompt: &str, tokens: usize) -> String {
    recital_from(prompt).take(tokens).collect()
}

/// The text of a stream, its frames, and its last event.
fn streamed(worker: &Worker, mut body: Value) -> (String, Vec<Value>, String) {
    body["stream"] = json!(true);
    let mut events: Vec<String> = worker.post("/v1/completions", body).events().collect();
    let last = events.pop().unwrap();
    let frames: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text = frames.iter().filter_map(|frame| frame["choices"][0]["text"].as_str()).collect();
    (text, frames, last)
}

#[test]
fn it_recites_exactly_streamed_or_not_and_counts_right() {
    let worker = Worker::start(&[]);
    let body = json!({"prompt": "Tell me of bees.", "max_tokens": 400, "temperature": 0});
    let whole = worker.complete(body.clone());
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text, recited("", 400));
    assert_eq!((&whole["choices"][0]["finish_reason"], &whole["model"]), (&json!("length"), &json!(NAME)));
    let prompt_tokens = whole["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(whole["usage"]["completion_tokens"], 400);
    assert_eq!(whole["usage"]["total_tokens"], prompt_tokens + 400);

    let mut counted = body;
    counted["stream_options"] = json!({"continuous_usage_stats": true, "include_usage": true});
    let (again, frames, last) = streamed(&worker, counted);
    assert_eq!((again.as_str(), last.as_str()), (text, "[DONE]"));
    let counts: Vec<u64> =
        frames.iter().map(|frame| frame["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (1..=400).chain([400, 400]).collect();
    assert_eq!(counts, expected);
    assert_eq!(worker.status("output_tokens_total"), 800);
    assert_eq!(worker.status("slots_busy"), 0);
}

#[test]
fn a_continuation_from_anywhere_joins_without_a_seam() {
    let worker = Worker::start(&[]);
    let prompt = "A prompt: ";
    let whole = worker.text(prompt, 60);
    assert_eq!(check_continuation(prompt, &whole), Ok(()));
    for cut in (0..60).step_by(7) {
        let first: String = recital_from("").take(cut).collect();
        assert!(whole.starts_with(&first));
        let second = worker.text(&format!("{prompt}{first}"), 60 - cut);
        assert_eq!(format!("{first}{second}"), whole, "cut after {cut} words");
    }
    let from_the_last_word = worker.text(TEXT, 3);
    assert_eq!(from_the_last_word, recited("", 3));
}

#[test]
fn chat_goes_through_the_template_and_can_be_continued() {
    let worker = Worker::start(&[]);
    let ask = |messages: Value, continued: bool| {
        let body =
            json!({"messages": messages, "max_completion_tokens": 5, "continue_final_message": continued});
        let (status, answer) = worker.post("/v1/chat/completions", body).whole();
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let question = json!({"role": "user", "content": "Tell me of bees."});
    assert_eq!(ask(json!([question]), false), recited("", 5));
    let begun = json!({"role": "assistant", "content": recited("", 9)});
    assert_eq!(ask(json!([question, begun]), true), recited("", 14).strip_prefix(&recited("", 9)).unwrap());
    assert_eq!(ask(json!([question, begun, question]), false), recited("", 5));

    let body = json!({"messages": [question], "max_tokens": 2, "stream": true});
    let events: Vec<String> = worker.post("/v1/chat/completions", body).events().collect();
    let deltas: Vec<Value> = events[..4]
        .iter()
        .map(|e| serde_json::from_str::<Value>(e).unwrap()["choices"][0]["delta"].clone())
        .collect();
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"content": " Once,"}),
        json!({"content": " long"}),
        json!({}),
    ];
    assert_eq!((deltas.as_slice(), events[4].as_str()), (expected.as_slice(), "[DONE]"));
}

#[test]
fn stop_strings_end_the_text_right_before_them() {
    let worker = Worker::start(&["--slots", "1"]);
    let body = json!({"prompt": "bee.", "max_tokens": 100, "stop": ["never there", "ain cro"]});
    let whole = worker.complete(body.clone());
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!(" Once, long before the first tr"), &json!("stop"))
    );
    let (text, frames, last) = streamed(&worker, body);
    assert_eq!((text.as_str(), last.as_str()), (" Once, long before the first tr", "[DONE]"));
    assert_eq!(frames.last().unwrap()["choices"][0]["finish_reason"], "stop");
    worker.until("the only slot is free", |worker| worker.status("slots_busy") == 0);
}

#[test]
fn sampling_recites_too_and_a_seed_is_taken() {
    let worker = Worker::start(&[]);
    for sampling in [
        json!({}),
        json!({"seed": 7, "top_p": 0.9}),
        json!({"top_k": 5, "temperature": 1.5, "presence_penalty": 0.5}),
    ] {
        let mut body = sampling;
        body["prompt"] = json!("hello");
        body["max_tokens"] = json!(50);
        assert_eq!(worker.complete(body)["choices"][0]["text"], recited("", 50));
    }
}

#[test]
fn generations_at_once_are_not_mixed_up() {
    let worker = Worker::start(&["--slots", "3"]);
    std::thread::scope(|scope| {
        for start in [0, 20, 20, 60, 100, 140] {
            let worker = &worker;
            scope.spawn(move || {
                let prompt = format!("Prompt {start}.{}", recited("", start));
                let (text, _, last) = streamed(worker, json!({"prompt": prompt, "max_tokens": 300 + start}));
                assert_eq!((text, last.as_str()), (recited(&prompt, 300 + start), "[DONE]"));
            });
        }
    });
    assert_eq!((worker.status("slots_busy"), worker.status("waiting")), (0, 0));
}

#[test]
fn a_client_that_leaves_stops_its_generation_within_a_second() {
    let worker = Worker::start(&["--slots", "1"]);
    let endless = |stream: bool| json!({"prompt": "bee", "max_tokens": 30_000, "stream": stream});
    for stream in [true, false] {
        let before = worker.status("output_tokens_total");
        let answer = worker.post("/v1/completions", endless(stream));
        worker.until("it generates", |worker| worker.status("output_tokens_total") > before + 10);
        assert_eq!(worker.status("slots_busy"), 1);
        drop(answer);
        let left = Instant::now();
        worker.until("its slot is free", |worker| worker.status("slots_busy") == 0);
        assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
        let made = worker.status("output_tokens_total") - before;
        assert!(made < 29_000, "it made {made} tokens for nobody");
    }
    // The engine is not only free but well: the next request is served as if nothing had been.
    assert_eq!(worker.text("bee", 20), recited("", 20));
}

#[test]
fn a_request_beyond_the_slots_waits_for_its_turn() {
    let worker = Worker::start(&["--slots", "1"]);
    let mut first = worker
        .post("/v1/completions", json!({"prompt": "bee", "max_tokens": 30_000, "stream": true}))
        .events();
    assert!(first.next().is_some());
    std::thread::scope(|scope| {
        let second = scope.spawn(|| worker.text("b", 5));
        worker.until("the second waits", |worker| worker.status("waiting") == 1);
        drop(first);
        assert_eq!(second.join().unwrap(), recited("", 5));
    });
}

#[test]
fn refusals_say_what_and_why() {
    let worker = Worker::start(&["--context", "64"]);
    assert_eq!(worker.get("/v1/models").1["data"][0]["max_model_len"], 64);
    let cases = [
        (json!({"prompt": "bee", "model": "other"}), 404, "model_not_found"),
        (json!({"prompt": recited("", 100)}), 400, "context_length_exceeded"),
        (json!({"prompt": "bee", "logprobs": 1}), 400, "unsupported_parameter"),
        (json!({"prompt": "bee", "temperature": -1}), 400, "invalid_value"),
    ];
    for (body, status, code) in cases {
        let (got, answer) = worker.post("/v1/completions", body).whole();
        assert_eq!((got, &answer["error"]["code"]), (status, &json!(code)), "{answer}");
    }
    // What is asked for beyond the context is made up to it: prompt and answer fill it exactly.
    let full = worker.complete(json!({"prompt": "bee", "max_tokens": 1000}));
    assert_eq!(
        (&full["usage"]["total_tokens"], &full["choices"][0]["finish_reason"]),
        (&json!(64), &json!("length"))
    );
}

#[test]
fn a_file_that_cannot_be_served_ends_it_with_one_line() {
    let (files, whole) = model();
    let bytes = std::fs::read(&whole).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let unknown = gguf::Writer::new()
        .with("general.architecture", "beehive")
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.tokens", gguf::Array::strings(["<unk>".to_owned()]));
    let cases = [
        (files.path().join("missing.gguf"), "No such file or directory"),
        (file("page.gguf", b"<!doctype html>"), "not a GGUF file"),
        (file("cut.gguf", &bytes[..bytes.len() / 2]), "the file is cut off"),
        (file("empty.gguf", b""), "the file is cut off"),
        (file("unknown.gguf", &unknown.to_bytes().unwrap()), "Unknown GGUF architecture `beehive`"),
    ];
    for (path, reason) in cases {
        let (output, _) = finish(&path, &[]);
        let last = output.lines().last().unwrap();
        assert!(last.starts_with("llm-worker-rbee: ") && last.contains(reason), "{output}");
    }
    let (output, _) = finish(&whole, &["--device", "cuda:0"]);
    assert!(cfg!(feature = "cuda") || output.contains("without the feature cuda"), "{output}");
}

/// Runs a worker that must fail, and gives what it wrote.
fn finish(model: &std::path::Path, more: &[&str]) -> (String, i32) {
    let start = Instant::now();
    let mut child = command(model, more).spawn().unwrap();
    let mut output = String::new();
    child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(code, 1, "{output}");
    (output, code)
}

#[test]
fn a_signal_in_mid_stream_ends_it_within_a_second_and_the_stream_with_an_error() {
    let mut worker = Worker::start(&[]);
    let mut events = worker
        .post("/v1/completions", json!({"prompt": "bee", "max_tokens": 30_000, "stream": true}))
        .events();
    assert!(events.next().unwrap().contains(" Once,"));
    worker.terminate();
    let rest: Vec<String> = events.collect();
    let (status, elapsed) = worker.ended();
    assert_eq!(status.code(), Some(0));
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    let last: Value = serde_json::from_str(rest.last().unwrap()).expect("no [DONE] after an error");
    assert_eq!(last["error"]["code"], "worker_stopping");
}

#[test]
fn a_signal_ends_it_even_when_a_client_reads_nothing() {
    let mut worker = Worker::start(&[]);
    let unread =
        worker.post("/v1/completions", json!({"prompt": "bee", "max_tokens": 30_000, "stream": true}));
    worker.until("it generates", |worker| worker.status("output_tokens_total") > 10);
    worker.terminate();
    let (status, elapsed) = worker.ended();
    assert_eq!(status.code(), Some(0));
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    drop(unread);
}

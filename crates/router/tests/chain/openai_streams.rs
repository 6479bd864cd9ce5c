//! OpenAI's streams that break off and are gone on with by another worker.

use std::sync::Arc;

use bytes::Bytes;
use fake_hive::Script;
use fleet::RequestOutcome;
use futures_util::StreamExt;
use queen_api::ErrorDetail;
use router::{Continuable, Job, continued};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::{
    fault,
    fleet_of_fakes::{Fleet, MODEL, PATIENCE, job},
};

const CHAT: &str = "/v1/chat/completions";
const RAW: &str = "/v1/completions";

/// A whole stream, as its client got it.
#[derive(Debug)]
struct Got {
    pieces: Vec<Bytes>,
    error: Option<ErrorDetail>,
}

fn body(path: &str, more: Value) -> Value {
    let mut body = json!({ "model": MODEL, "stream": true, "max_tokens": 12 });
    let fields = body.as_object_mut().expect("an object");
    if path == CHAT {
        let messages =
            json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Tell me." }]);
        fields.insert("messages".to_owned(), messages);
    } else {
        fields.insert("prompt".to_owned(), json!("Tell me."));
    }
    fields.extend(more.as_object().expect("an object").clone());
    body
}

async fn ask(fleet: &Fleet, path: &'static str, more: Value) -> Got {
    let body = Bytes::from(body(path, more).to_string());
    let request = Arc::new(Continuable::of(path, body).expect("a request that may be continued"));
    let job = Job { path, body: Arc::clone(&request).into(), ..job(true, 12) };
    let answer =
        timeout(PATIENCE, fleet.router.route(&job, |_| {})).await.expect("in time").expect("an answer");
    let mut stream = Box::pin(continued(Arc::clone(&fleet.router), job, request, answer));
    let (mut pieces, mut error) = (Vec::new(), None);
    while let Some(piece) = timeout(PATIENCE, stream.next()).await.expect("the stream ends") {
        match piece {
            Ok(piece) => pieces.push(piece),
            Err(detail) => error = Some(detail),
        }
    }
    Got { pieces, error }
}

impl Got {
    fn text(&self) -> String {
        String::from_utf8(self.pieces.concat()).expect("UTF-8")
    }

    /// The events but the terminator, which has to be the last one.
    fn events(&self) -> Vec<Map<String, Value>> {
        let text = self.text();
        let mut lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        if self.error.is_none() {
            assert_eq!(lines.pop(), Some("[DONE]"), "{text}");
        }
        lines.into_iter().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    fn said(&self) -> String {
        let events = self.events();
        let choices = events.iter().filter_map(|event| event["choices"].get(0));
        choices
            .filter_map(|choice| choice.get("text").or_else(|| choice.pointer("/delta/content"))?.as_str())
            .collect()
    }

    fn finish(&self) -> Vec<String> {
        let events = self.events();
        let choices = events.iter().filter_map(|event| event["choices"].get(0));
        choices.filter_map(|choice| choice["finish_reason"].as_str().map(str::to_owned)).collect()
    }

    fn usage(&self) -> Vec<Value> {
        self.events().iter().filter_map(|event| event.get("usage").cloned()).collect()
    }
}

async fn lost_after(tokens: u64, act: &str) -> Fleet {
    let act = if act == "end" { json!({ "kind": act }) } else { json!({ "kind": act, "how": "rst" }) };
    Fleet::serving(vec![fault(json!({ "tokens": tokens }), act), Script::default()], Default::default()).await
}

#[tokio::test]
async fn another_worker_goes_on_exactly_behind_what_was_delivered() {
    for path in [CHAT, RAW] {
        for (tokens, act) in [(1, "break"), (3, "die"), (7, "end"), (11, "break")] {
            let fleet = lost_after(tokens, act).await;
            let got = ask(&fleet, path, json!({})).await;
            assert_eq!(got.error.as_ref(), None, "{path} {act}");
            tiny_model::check_continuation("Tell me.", &got.said()).expect("the recital, once");
            assert_eq!(got.said().split(' ').count(), 13, "{}", got.text());
            assert_eq!(got.finish(), ["length"], "{}", got.text());
            assert_eq!(got.usage(), Vec::<Value>::new(), "nobody asked for counts: {}", got.text());
            let events = got.events();
            assert!(events.iter().all(|event| event["id"] == events[0]["id"]), "{}", got.text());
            let roles = events.iter().filter(|event| event["choices"][0]["delta"].get("role").is_some());
            assert_eq!(roles.count(), usize::from(path == CHAT), "{}", got.text());
            assert!(got.text().contains("\n: another worker goes on\n"), "{}", got.text());
            assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 2)], "{path} {act}");
            assert_eq!(fleet.in_flight(), 0);
        }
    }
}

#[tokio::test]
async fn counts_are_those_of_the_whole_answer_for_whoever_asked() {
    for path in [CHAT, RAW] {
        let fleet = lost_after(5, "break").await;
        let got = ask(&fleet, path, json!({ "stream_options": { "include_usage": true } })).await;
        let prompt = 2;
        let whole = json!({ "prompt_tokens": prompt, "completion_tokens": 12, "total_tokens": prompt + 12 });
        assert_eq!(got.usage(), std::slice::from_ref(&whole), "{}", got.text());
        let fleet = lost_after(5, "break").await;
        let options = json!({ "include_usage": true, "continuous_usage_stats": true });
        let got = ask(&fleet, path, json!({ "stream_options": options })).await;
        let counts: Vec<_> = got.usage().iter().map(|usage| usage["completion_tokens"].as_u64()).collect();
        assert!(
            counts.is_sorted() && counts.len() >= 13 && got.usage().last() == Some(&whole),
            "{}",
            got.text()
        );
        // The last token was delivered; of the end, and of the counts, nothing came.
        let fleet = lost_after(12, "break").await;
        let got = ask(&fleet, path, json!({ "stream_options": { "include_usage": true } })).await;
        assert_eq!((got.finish(), got.usage()), (vec!["length".to_owned()], vec![whole]), "{}", got.text());
        assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 1)]);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_break_off_is_what_the_worker_sent() {
    for path in [CHAT, RAW] {
        let fleet = Fleet::serving(vec![Script::default()], Default::default()).await;
        let got = ask(&fleet, path, json!({})).await;
        let plain =
            Job { path, body: Bytes::from(body(path, json!({})).to_string()).into(), ..job(true, 12) };
        let answer = fleet.router.route(&plain, |_| {}).await.expect("an answer");
        let sent = http_body_util::BodyExt::collect(answer.body).await.expect("whole").to_bytes();
        let sent = Got { pieces: vec![sent], error: None };
        let id = |got: &Got| got.events()[0]["id"].as_str().expect("an id").to_owned();
        assert_eq!(got.text().replace(&id(&got), "ID"), sent.text().replace(&id(&sent), "ID"));
    }
}

#[tokio::test]
async fn a_stop_text_over_the_seam_ends_the_answer() {
    for path in [CHAT, RAW] {
        // The recital begins " Once, long before the first train".
        let fleet = lost_after(2, "break").await;
        let got = ask(&fleet, path, json!({ "stop": [" before the first"] })).await;
        assert_eq!(
            (got.said().as_str(), got.finish()),
            (" Once, long", vec!["stop".to_owned()]),
            "{}",
            got.text()
        );
        assert_eq!(fleet.endings(), [(RequestOutcome::Completed, 2)]);
        let fleet = lost_after(2, "break").await;
        let got = ask(&fleet, path, json!({ "stop": " before the last", "max_tokens": 4 })).await;
        let expected = (" Once, long before the", vec!["length".to_owned()]);
        assert_eq!((got.said().as_str(), got.finish()), expected, "{}", got.text());
    }
}

#[tokio::test]
async fn where_nobody_can_go_on_the_client_is_told_why() {
    let alone = vec![fault(json!({ "tokens": 3 }), json!({ "kind": "break", "how": "rst" }))];
    let fleet = Fleet::serving(alone, Default::default()).await;
    let got = ask(&fleet, CHAT, json!({})).await;
    let error = got.error.as_ref().expect("an error");
    assert!(error.message.contains("no other worker could go on with it"), "{}", error.message);
    tiny_model::check_continuation("Tell me.", &got.said()).expect("a part of the recital");
    assert!(!got.text().contains("[DONE]"));
    assert_eq!(fleet.endings(), [(RequestOutcome::Failed, 1)]);
    // An engine that goes on with no chat is sent none that was begun.
    let engine = json!({ "name": "plain", "devices": ["cpu"], "running_usage": "stream_options.continuous_usage_stats" });
    let plain = crate::script(json!({ "machine": { "engines": [engine] } }));
    let breaking = fault(json!({ "tokens": 3 }), json!({ "kind": "break", "how": "rst" }));
    let fleet = Fleet::serving(vec![breaking, plain], Default::default()).await;
    let mut told = 0;
    for _ in 0..10 {
        let Some(error) = ask(&fleet, CHAT, json!({})).await.error else { continue };
        assert!(error.message.contains("cannot go on with a chat"), "{}", error.message);
        told += 1;
    }
    assert!(told > 0, "no answer broke off");
}

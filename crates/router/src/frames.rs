//! The event stream that a client of OpenAI's interface gets from as many workers as it takes.
//!
//! What the first worker sends goes on as it is, but for counts that the client did not ask for. What comes behind a seam
//! is made to fit: it has the first worker's `id`, no second role, and counts of the whole answer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use queen_api::ErrorDetail;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    Answer, Job, Router,
    chunk::Chunk,
    continuable::{Continuable, Wishes},
    engine::RunningCount,
    relay::{DONE, End, Event, Relay, Step},
    scan::object,
};

/// What tells a client that its answer goes on elsewhere, without a meaning to its parser.
const SEAM: &str = "another worker goes on";

/// What all events of an answer have in common, by the first worker's words.
const COMMON: [&str; 5] = ["id", "object", "created", "model", "system_fingerprint"];

/// The answer to a streamed request that may be continued: whole events, the terminator included. An error is the last
/// thing that comes, and was not yet told to the client.
pub fn continued(
    router: Arc<Router>,
    job: Job,
    request: Arc<Continuable>,
    answer: Answer,
) -> impl Stream<Item = Result<Bytes, ErrorDetail>> + Send + 'static {
    let frames = Frames::new(request.wishes);
    let relay = Relay::new(router, job, request, answer);
    stream::unfold(Some((relay, frames)), |state| async move {
        let (mut relay, mut frames) = state?;
        loop {
            match relay.next(&mut |_| {}).await {
                Err(_) if frames.told_failure => return None,
                Err(error) => return Some((Err(error), None)),
                Ok(Step::Broke) => return Some((Ok(sse::comment(SEAM)), Some((relay, frames)))),
                Ok(Step::End(end)) => return frames.rest(&end).map(|rest| (Ok(rest), None)),
                Ok(Step::Event(event)) => {
                    let seen = Seen {
                        count: relay.count(),
                        continued: relay.continued() > 0,
                        before: relay.before(),
                    };
                    if let Some(frame) = frames.pass(event, &seen) {
                        return Some((Ok(frame), Some((relay, frames))));
                    }
                }
            }
        }
    })
}

/// Where in the answer an event stands.
struct Seen {
    /// How the engine was asked to count.
    count: Option<RunningCount>,
    /// Whether another worker gave the beginning.
    continued: bool,
    /// The tokens of that.
    before: u64,
}

/// What the client was told so far.
struct Frames {
    wishes: Wishes,
    common: Map<String, Value>,
    prompt_tokens: Option<u64>,
    told_finish: bool,
    told_usage: bool,
    told_done: bool,
    told_failure: bool,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl Usage {
    const fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

impl Frames {
    fn new(wishes: Wishes) -> Self {
        Self {
            wishes,
            common: Map::new(),
            prompt_tokens: None,
            told_finish: false,
            told_usage: false,
            told_done: false,
            told_failure: false,
        }
    }

    /// The event as the client gets it; none if it is not for the client.
    fn pass(&mut self, event: Event, seen: &Seen) -> Option<Bytes> {
        let Event { sent, chunk, text } = event;
        let Some(chunk) = chunk else {
            self.told_done |= sent.data == DONE;
            return Some(self.held_back(&text, sent.to_bytes()));
        };
        if chunk.error.is_some() {
            self.told_failure = true;
            return Some(sent.to_bytes());
        }
        if self.common.is_empty() {
            self.common = common(&sent.data);
        }
        if !seen.continued {
            self.prompt_tokens = chunk.prompt_tokens.or(self.prompt_tokens);
        }
        let is_count = chunk.is_bare && chunk.counted.is_some();
        if is_count && !self.wishes.usage && seen.count == Some(RunningCount::ContinuousUsage) {
            return None;
        }
        let finished = chunk.finish.is_some();
        let frame = if seen.continued {
            self.fitted(&sent.data, &chunk, text, seen)?
        } else {
            self.as_asked(sent, &chunk, seen.count)
        };
        self.told_finish |= finished;
        self.told_usage |= is_count;
        Some(frame)
    }

    /// The first worker's event, without counts that only the queen asked for.
    fn as_asked(&self, sent: sse::Event, chunk: &Chunk, count: Option<RunningCount>) -> Bytes {
        let unasked = match count {
            Some(RunningCount::ContinuousUsage) if !self.wishes.running_usage && !chunk.is_bare => "usage",
            // Its last events have them anyway.
            Some(RunningCount::TimingsPerToken)
                if !self.wishes.timings && !chunk.is_bare && chunk.finish.is_none() =>
            {
                "timings"
            }
            _ => return sent.to_bytes(),
        };
        match without(&sent.data, unasked) {
            Some(data) => sse::Event { data: data.into(), ..sent }.to_bytes(),
            None => sent.to_bytes(),
        }
    }

    /// A later worker's event, as if the first one had sent it. None if there is nothing in it.
    fn fitted(&self, data: &[u8], chunk: &Chunk, text: String, seen: &Seen) -> Option<Bytes> {
        if !chunk.is_foreign && !chunk.is_bare && text.is_empty() && chunk.finish.is_none() {
            return None;
        }
        let mut event: Map<String, Value> = serde_json::from_slice(data).ok()?;
        for (name, value) in &self.common {
            event.insert(name.clone(), value.clone());
        }
        if let Some(choice) = event.get_mut("choices").and_then(|choices| choices.get_mut(0)) {
            set_text(choice, text, self.wishes.chat);
        }
        if !self.wishes.timings {
            event.remove("timings");
        }
        if event.get("usage").is_some_and(|usage| !usage.is_null()) {
            let is_asked = if chunk.is_bare { self.wishes.usage } else { self.wishes.running_usage };
            let counted = chunk.counted.filter(|_| is_asked).zip(chunk.prompt_tokens);
            event.remove("usage");
            if let Some((counted, prompt)) = counted {
                // The second prompt is the first one and what was given.
                let prompt = self.prompt_tokens.unwrap_or(prompt.saturating_sub(seen.before));
                let before = if planted::bug("forgets-earlier-tokens") { 0 } else { seen.before };
                event.insert("usage".to_owned(), json!(Usage::new(prompt, before + counted)));
            }
        }
        Some(data_of(&event))
    }

    /// Text that was held back to the end, and then the event that ends the stream.
    fn held_back(&self, text: &str, last: Bytes) -> Bytes {
        if text.is_empty() {
            return last;
        }
        [self.choice(text, None), last].concat().into()
    }

    /// What a client has to be told at the end, and no worker told.
    fn rest(&self, end: &End) -> Option<Bytes> {
        let mut rest = Vec::new();
        if !self.told_finish {
            rest.extend_from_slice(&self.choice("", Some(end.finish.as_deref().unwrap_or("stop"))));
        }
        if let Some(prompt_tokens) = self.prompt_tokens.filter(|_| self.wishes.usage && !self.told_usage) {
            let mut event = self.common.clone();
            event.insert("choices".to_owned(), json!([]));
            event.insert("usage".to_owned(), json!(Usage::new(prompt_tokens, end.tokens)));
            rest.extend_from_slice(&data_of(&event));
        }
        if !self.told_done {
            rest.extend_from_slice(&sse::data(DONE));
        }
        (!self.told_done).then(|| rest.into())
    }

    /// An event of our own.
    fn choice(&self, text: &str, finish: Option<&str>) -> Bytes {
        let mut choice = json!({ "index": 0, "finish_reason": finish });
        set_text(&mut choice, text.to_owned(), self.wishes.chat);
        let mut event = self.common.clone();
        event.insert("choices".to_owned(), json!([choice]));
        data_of(&event)
    }
}

fn data_of(event: &Map<String, Value>) -> Bytes {
    sse::data(&Value::Object(event.clone()).to_string())
}

/// Gives a choice its text, and takes the role, which the client has.
fn set_text(choice: &mut Value, text: String, chat: bool) {
    if !chat {
        choice["text"] = text.into();
        return;
    }
    let delta = choice.get_mut("delta").and_then(Value::as_object_mut).map(std::mem::take);
    let mut delta = delta.unwrap_or_default();
    delta.remove("role");
    if text.is_empty() {
        delta.remove("content");
    } else {
        delta.insert("content".to_owned(), text.into());
    }
    choice["delta"] = delta.into();
}

/// The fields that all events have in common.
fn common(data: &[u8]) -> Map<String, Value> {
    let event: Map<String, Value> = serde_json::from_slice(data).unwrap_or_default();
    event.into_iter().filter(|(name, _)| COMMON.contains(&name.as_str())).collect()
}

/// An object without one of its fields, and otherwise the same bytes; none if it has no such field.
fn without(data: &[u8], name: &str) -> Option<Vec<u8>> {
    let (mut before, mut cut, mut behind) = (None, None, None);
    let read = object(data, |field, whole, _| {
        match cut {
            None if field == name => cut = Some(whole),
            None => before = Some(whole.end),
            Some(_) => behind = behind.or(Some(whole.start)),
        }
        Ok(())
    });
    let (cut, ()) = cut.zip(read.ok())?;
    // With the comma before it, or, where it is the first, the one behind it.
    let cut = match (before, behind) {
        (Some(before), _) => before..cut.end,
        (None, Some(behind)) => cut.start..behind,
        (None, None) => cut,
    };
    Some([&data[..cut.start], &data[cut.end..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_cut_out_and_the_rest_stays_as_it_was() {
        let cut = |text: &str| without(text.as_bytes(), "t").map(|cut| String::from_utf8(cut).unwrap());
        assert_eq!(cut(r#"{"a": 1 , "t":{"t":[]} , "b":2 }"#).as_deref(), Some(r#"{"a": 1 , "b":2 }"#));
        assert_eq!(cut(r#"{ "t":1, "b" :2}"#).as_deref(), Some(r#"{ "b" :2}"#));
        assert_eq!(cut(r#"{"a":1,"t":null}"#).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(cut(r#"{ "t":1 }"#).as_deref(), Some("{  }"));
        assert_eq!(cut(r#"{"a":{"t":1}}"#), None);
    }

    fn event(data: &Value) -> Event {
        let data = Bytes::from(data.to_string());
        let chunk = Chunk::read(&data);
        let text = chunk.as_ref().map_or_else(String::new, |chunk| chunk.text.clone());
        Event { sent: sse::Event { name: "message".to_owned(), data }, chunk, text }
    }

    fn told(frames: &mut Frames, data: &Value, seen: &Seen) -> Option<Value> {
        let frame = frames.pass(event(data), seen)?;
        serde_json::from_slice(frame.strip_prefix(b"data: ")?).ok()
    }

    #[test]
    fn counts_in_llama_cpps_way_are_for_whoever_asked_for_them() {
        let counted = Some(RunningCount::TimingsPerToken);
        let [first, second] = [false, true].map(|continued| Seen { count: counted, continued, before: 1 });
        let piece = json!({ "id": "a", "choices": [{ "index": 0, "delta": { "content": "x" } }],
            "timings": { "predicted_n": 1 } });
        let last = json!({ "id": "b", "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }],
            "timings": { "predicted_n": 1 } });
        let plain = json!({ "id": "a", "choices": [{ "index": 0, "delta": { "content": "x" } }] });
        let mut frames = Frames::new(Wishes { chat: true, ..Wishes::default() });
        assert_eq!(told(&mut frames, &piece, &first), Some(plain.clone()));
        assert_eq!(
            told(&mut frames, &last, &first),
            Some(last.clone()),
            "which has them without being asked"
        );
        let mut later = piece.clone();
        later["id"] = json!("b");
        assert_eq!(told(&mut frames, &later, &second), Some(plain));
        let mut asked = Frames::new(Wishes { chat: true, timings: true, ..Wishes::default() });
        assert_eq!(told(&mut asked, &piece, &first), Some(piece));
    }

    #[test]
    fn events_that_are_no_completion_pass_and_a_failure_is_told_once() {
        let seen = Seen { count: None, continued: true, before: 1 };
        let mut frames = Frames::new(Wishes::default());
        let odd = sse::Event { name: "progress".to_owned(), data: Bytes::from_static(b"7\n8") };
        let odd = Event { sent: odd, chunk: None, text: String::new() };
        assert_eq!(frames.pass(odd, &seen).unwrap(), "event: progress\ndata: 7\ndata: 8\n\n");
        let failure = json!({ "error": { "message": "no memory" } });
        assert_eq!(told(&mut frames, &failure, &seen), Some(failure));
        assert!(frames.told_failure && !frames.told_done);
    }
}

//! Requests for tokens, and what came back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use queen_api::{ErrorCode, InferEvent, InferReply, StopReason};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::api::{PATIENCE, Server};

/// Longest event of a stream that is read.
const EVENT: usize = 1 << 20;

/// One request for tokens.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) prompt: String,
    pub(crate) tokens: u32,
    pub(crate) stream: bool,
    /// The only region that may answer.
    pub(crate) region: Option<&'static str>,
}

impl Ask {
    pub(crate) fn tokens(mut self, tokens: u32) -> Self {
        self.tokens = tokens;
        self
    }

    pub(crate) fn within(mut self, region: &'static str) -> Self {
        self.region = Some(region);
        self
    }

    pub(crate) fn whole(mut self) -> Self {
        self.stream = false;
        self
    }

    /// Says something in the prompt that a script of a fake waits for.
    pub(crate) fn saying(mut self, word: &str) -> Self {
        self.prompt = format!("{word} {}", self.prompt);
        self
    }

    fn asked(&self, queen: &Server) -> reqwest::RequestBuilder {
        let request = queen.request(Method::POST, "/v1/infer").header("x-request-id", &self.id);
        match self.region {
            Some(region) => request.header("x-rbee-region", region),
            None => request,
        }
    }

    /// The body of `/v1/infer`.
    pub(crate) fn infer_body(&self) -> Value {
        json!({
            "model": self.model, "prompt": self.prompt, "max_tokens": self.tokens, "temperature": 0.0,
            "stream": self.stream,
        })
    }

    /// The body of `/v1/chat/completions`.
    pub(crate) fn chat_body(&self) -> Value {
        json!({
            "model": self.model, "max_tokens": self.tokens, "temperature": 0, "stream": self.stream,
            "messages": [{ "role": "user", "content": self.prompt }],
        })
    }
}

/// How an answer ended, as its client saw it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// With its terminator.
    Complete,
    /// With an error that says so.
    Error {
        /// The code.
        code: String,
        /// The sentence.
        message: String,
        /// The rest.
        details: Value,
    },
    /// The connection ended without either.
    Truncated,
    /// The client left.
    Left,
}

/// What a client got.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    pub(crate) prompt: String,
    pub(crate) status: u16,
    pub(crate) events: Vec<InferEvent>,
    pub(crate) text: String,
    pub(crate) end: End,
    /// How many tokens were asked for.
    pub(crate) asked: u32,
    /// How many there were, and why no more, where the answer says so.
    pub(crate) said: Option<(u64, StopReason)>,
    pub(crate) took: Duration,
}

impl Outcome {
    /// Fails unless the answer is whole.
    pub(crate) fn complete(self) -> anyhow::Result<Self> {
        ensure!(self.end == End::Complete, "{} should be complete and ended {:?}", self.id, self.end);
        ensure!(!self.text.is_empty(), "{} is complete and empty", self.id);
        Ok(self)
    }

    /// Fails unless it ended with this error; the message is returned.
    pub(crate) fn failed(&self, code: ErrorCode) -> anyhow::Result<&str> {
        match &self.end {
            End::Error { code: found, message, .. } if found == code.as_str() => Ok(message),
            other => bail!("{} should have failed with {} and ended {other:?}", self.id, code.as_str()),
        }
    }

    /// What contradicts that it is complete, if it says that it is.
    pub(crate) fn gap(&self) -> Option<String> {
        if self.end != End::Complete {
            return None;
        }
        // The recital has one word for each token.
        let words = self.text.split_whitespace().count() as u64;
        match self.said {
            None => Some("it does not say how it ended".to_owned()),
            Some((tokens, StopReason::Length)) if tokens != u64::from(self.asked) => {
                Some(format!("{tokens} tokens of {} and no reason for it", self.asked))
            }
            Some((tokens, _)) if words != tokens => Some(format!("{words} words of {tokens} tokens")),
            Some(_) => None,
        }
    }

    /// The hive that answered.
    pub(crate) fn hive(&self) -> Option<String> {
        self.events.iter().find_map(|event| match event {
            InferEvent::Started { hive_id, .. } => Some(hive_id.to_string()),
            _ => None,
        })
    }

    /// Whether the client was told that a worker was being started.
    pub(crate) fn was_loading(&self) -> bool {
        self.events.iter().any(|event| matches!(event, InferEvent::Loading { .. }))
    }
}

/// Everything that was asked, for the checker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<Outcome>>>);

impl Ledger {
    fn add(&self, outcome: Outcome) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }

    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An answer that is being read. Dropped before its end, its client has left.
pub(crate) struct Stream {
    response: Response,
    decoder: sse::Decoder,
    pending: VecDeque<sse::Event>,
    ledger: Ledger,
    began: Instant,
    outcome: Option<Outcome>,
}

impl Stream {
    /// Sends a request to `/v1/infer` and reads the head of its answer.
    pub(crate) async fn open(queen: &Server, ask: &Ask, ledger: &Ledger) -> anyhow::Result<Self> {
        let began = Instant::now();
        let body = ask.infer_body().to_string();
        let request = ask.asked(queen).body(body);
        let sent = tokio::time::timeout(PATIENCE, request.send()).await;
        let response = sent.with_context(|| format!("{}: no answer within {PATIENCE:?}", ask.id))??;
        let outcome = Outcome {
            id: ask.id.clone(),
            prompt: ask.prompt.clone(),
            status: response.status().as_u16(),
            events: Vec::new(),
            text: String::new(),
            end: End::Left,
            asked: ask.tokens,
            said: None,
            took: Duration::ZERO,
        };
        let (decoder, ledger) = (sse::Decoder::new(EVENT), ledger.clone());
        Ok(Self { response, decoder, pending: VecDeque::new(), ledger, began, outcome: Some(outcome) })
    }

    /// The next event; nothing at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<InferEvent>> {
        let Some(outcome) = &mut self.outcome else { return Ok(None) };
        loop {
            if let Some(event) = self.pending.pop_front() {
                if event.data == "[DONE]" {
                    outcome.end = End::Complete;
                    continue;
                }
                let event: InferEvent = serde_json::from_slice(&event.data)
                    .with_context(|| format!("{}: no event of /v1/infer: {:?}", outcome.id, event.data))?;
                take(outcome, &event)?;
                return Ok(Some(event));
            }
            let piece = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            match piece.with_context(|| format!("{}: nothing came for {PATIENCE:?}", outcome.id))? {
                Ok(Some(piece)) => self.decoder.push(&piece, &mut self.pending)?,
                Ok(None) | Err(_) => {
                    if outcome.end == End::Left {
                        outcome.end = End::Truncated;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Reads on until an event fits.
    pub(crate) async fn until(&mut self, fits: impl Fn(&InferEvent) -> bool) -> anyhow::Result<InferEvent> {
        while let Some(event) = self.next().await? {
            if fits(&event) {
                return Ok(event);
            }
        }
        bail!("the answer ended before the event came: {:?}", self.outcome.as_ref().map(|o| &o.end))
    }

    /// Reads to the end.
    pub(crate) async fn rest(mut self) -> anyhow::Result<Outcome> {
        while self.next().await?.is_some() {}
        let mut outcome = self.outcome.take().context("read twice")?;
        outcome.took = self.began.elapsed();
        self.ledger.add(outcome.clone());
        Ok(outcome)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(mut outcome) = self.outcome.take() {
            if !matches!(outcome.end, End::Complete | End::Error { .. }) {
                outcome.end = End::Left;
            }
            outcome.took = self.began.elapsed();
            self.ledger.add(outcome);
        }
    }
}

fn take(outcome: &mut Outcome, event: &InferEvent) -> anyhow::Result<()> {
    ensure!(outcome.end == End::Left, "{}: an event after the end: {event:?}", outcome.id);
    match event {
        InferEvent::Token { t, i } => {
            let before = outcome.events.iter().filter(|e| matches!(e, InferEvent::Token { .. })).count();
            ensure!(*i == before as u64, "{}: token {i} came as number {before}", outcome.id);
            outcome.text.push_str(t);
        }
        InferEvent::Error { code, message, details } => {
            let details = details.clone().unwrap_or_default();
            outcome.end = End::Error { code: code.as_str().to_owned(), message: message.clone(), details };
        }
        InferEvent::End { tokens_out, stop_reason, .. } => outcome.said = Some((*tokens_out, *stop_reason)),
        InferEvent::Queued { .. } | InferEvent::Loading { .. } | InferEvent::Started { .. } => {}
    }
    outcome.events.push(event.clone());
    Ok(())
}

/// Sends a request and reads the whole answer, streamed or not.
pub(crate) async fn infer(queen: &Server, ask: &Ask, ledger: &Ledger) -> anyhow::Result<Outcome> {
    if ask.stream {
        let stream = Stream::open(queen, ask, ledger).await?;
        if stream.response.status().is_success() {
            let rest = tokio::time::timeout(PATIENCE, stream.rest()).await;
            return rest.with_context(|| format!("{}: no whole answer within {PATIENCE:?}", ask.id))?;
        }
        bail!("{}: a stream answered {}", ask.id, stream.response.status());
    }
    let began = Instant::now();
    let body = ask.infer_body().to_string();
    let request = ask.asked(queen).body(body);
    let reply = queen.send(request).await.with_context(|| ask.id.clone())?;
    let json = reply.json();
    let end = if reply.status.is_success() {
        End::Complete
    } else {
        let details = json["error"]["details"].clone();
        End::Error { code: reply.code(), message: reply.message(), details }
    };
    let outcome = Outcome {
        id: ask.id.clone(),
        prompt: ask.prompt.clone(),
        status: reply.status.as_u16(),
        events: Vec::new(),
        text: json["text"].as_str().unwrap_or_default().to_owned(),
        end,
        asked: ask.tokens,
        said: serde_json::from_value::<InferReply>(json.clone())
            .ok()
            .map(|reply| (reply.tokens_out, reply.stop_reason)),
        took: began.elapsed(),
    };
    ledger.add(outcome.clone());
    Ok(outcome)
}

//! What was asked of the hive, and how each call ended. Holds no prompt, no answer and no token.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use fleet::WorkerId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{script::CallName, wire::lock};

/// Most calls that are kept; the oldest give way.
const CALLS_MAX: usize = 100_000;

/// One call that was received.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Its number, from 0, over restarts too.
    pub seq: u64,
    /// When it came, in milliseconds since the fake was started.
    pub at_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// The connection that it came on, from 1.
    pub connection: Option<u64>,
    /// Which call of the contract.
    pub call: CallName,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Whether the launch header named the current launch.
    pub launch: HeaderCheck,
    /// Whether the token was the right one.
    pub token: HeaderCheck,
    /// The `x-request-id` header.
    pub request_id: Option<String>,
    /// The worker that it is for.
    pub worker: Option<WorkerId>,
    /// The model that it is about, or that a prompt names.
    pub model: Option<String>,
    /// SHA-256 of the prompt, in hexadecimal digits.
    pub prompt_sha256: Option<String>,
    /// The first `canary-…` word of the prompt.
    pub canary: Option<String>,
    /// What it says that the model stands for.
    pub resolved: Option<String>,
    /// URLs of the sources of a download request.
    pub sources: Vec<String>,
    /// The answer's status.
    pub status: Option<u16>,
    /// Bytes of the answer's body that were handed to the connection.
    pub bytes_sent: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a header held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderCheck {
    /// It was right.
    Right,
    /// It was something else.
    Wrong,
    /// It was not there.
    Missing,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has not.
    Open,
    /// The whole answer was given.
    Completed,
    /// The caller left first.
    Cancelled,
    /// The script ended it.
    Killed,
}

/// The calls, oldest first.
#[derive(Debug)]
pub(crate) struct Journal {
    started: Instant,
    calls: Mutex<Vec<Call>>,
}

/// A call that is under way. Dropped before its end, it counts as cancelled by the caller.
#[derive(Debug, Clone)]
pub(crate) struct OpenCall {
    journal: Arc<Journal>,
    seq: u64,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), calls: Mutex::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn open(self: &Arc<Self>, fill: impl FnOnce(&mut Call)) -> OpenCall {
        let mut calls = lock(&self.calls);
        let seq = calls.last().map_or(0, |c| c.seq + 1);
        let mut call = Call {
            seq,
            at_ms: self.now(),
            ended_ms: None,
            connection: None,
            call: CallName::Other,
            method: String::new(),
            path: String::new(),
            launch: HeaderCheck::Missing,
            token: HeaderCheck::Missing,
            request_id: None,
            worker: None,
            model: None,
            prompt_sha256: None,
            canary: None,
            resolved: None,
            sources: Vec::new(),
            status: None,
            bytes_sent: 0,
            outcome: Outcome::Open,
        };
        fill(&mut call);
        if calls.len() == CALLS_MAX {
            calls.drain(..CALLS_MAX / 10);
        }
        calls.push(call);
        OpenCall { journal: Arc::clone(self), seq }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    pub(crate) fn clear(&self) {
        lock(&self.calls).retain(|c| c.outcome == Outcome::Open);
    }
}

impl OpenCall {
    pub(crate) fn note(&self, note: impl FnOnce(&mut Call)) {
        let mut calls = lock(&self.journal.calls);
        if let Ok(at) = calls.binary_search_by_key(&self.seq, |c| c.seq) {
            note(&mut calls[at]);
        }
    }

    /// Notes what a prompt was without noting the prompt.
    pub(crate) fn prompt(&self, model: Option<&str>, prompt: &str) {
        let sha256: [u8; 32] = Sha256::digest(prompt.as_bytes()).into();
        let canary = prompt.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let canary = canary.into_iter().find(|word| word.starts_with("canary-")).map(str::to_owned);
        self.note(|call| {
            call.prompt_sha256 = Some(fleet::Digest::from_bytes(sha256).to_string());
            call.canary = canary;
            call.model = model.map(str::to_owned);
        });
    }

    /// Ends it; only the first end counts.
    pub(crate) fn end(&self, outcome: Outcome) {
        let now = self.journal.now();
        self.note(|call| {
            if call.outcome == Outcome::Open {
                call.outcome = outcome;
                call.ended_ms = Some(now);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_noted_by_digest_and_canary_only() {
        let journal = Arc::new(Journal::new());
        journal.open(|_| {}).prompt(Some("m"), "tell me (canary-a7): secret");
        let text = serde_json::to_string(&journal.calls()).unwrap();
        assert!(text.contains("\"canary-a7\""));
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn the_first_end_counts() {
        let journal = Arc::new(Journal::new());
        let call = journal.open(|_| {});
        call.end(Outcome::Killed);
        call.end(Outcome::Cancelled);
        assert_eq!(journal.calls()[0].outcome, Outcome::Killed);
    }
}

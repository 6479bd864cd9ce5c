//! What the router is asked.

use std::sync::Arc;

use bytes::Bytes;
use fleet::{ModelRef, RequestId};
use placement::Stage;
use scheduler::{PrefixChain, Priority};

use crate::{completion::Completion, continuable::Continuable, engine::Skills};

/// One request.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name in answers, events and logs.
    pub request_id: RequestId,
    /// The model it wants.
    pub model: ModelRef,
    /// The worker's path, such as `/v1/completions`.
    pub path: &'static str,
    /// What the worker is sent; names the model by its canonical reference.
    pub body: Payload,
    /// Whether an event stream is expected.
    pub stream: bool,
    /// Its prompt, to find the worker that remembers the beginning.
    pub prompt: PrefixChain,
    /// Most tokens that it asks for.
    pub max_tokens: Option<u32>,
    /// Who asks, and under which terms.
    pub terms: Terms,
}

/// Who asks, and under which terms.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Tells callers apart, who take turns.
    pub caller: u64,
    /// Whose requests come first.
    pub priority: Priority,
    /// The only region that the request may go to.
    pub region: Option<Arc<str>>,
}

/// What a worker is sent.
#[derive(Debug, Clone)]
pub struct Payload(Content);

#[derive(Debug, Clone)]
enum Content {
    /// The client's own bytes, whichever worker they go to.
    Bytes(Bytes),
    /// The client's own bytes with what else must be asked of the engine that they go to.
    Continuable(Arc<Continuable>),
    /// A completion, in the words of the engine that it goes to.
    Completion(Arc<Completion>),
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Content::Bytes(bytes))
    }
}

impl From<Arc<Continuable>> for Payload {
    fn from(request: Arc<Continuable>) -> Self {
        Self(Content::Continuable(request))
    }
}

impl From<Arc<Completion>> for Payload {
    fn from(completion: Arc<Completion>) -> Self {
        Self(Content::Completion(completion))
    }
}

impl Payload {
    /// The body for a worker of such an engine; none if the engine cannot do what is asked.
    pub(crate) fn bytes(&self, skills: Skills) -> Option<Bytes> {
        match &self.0 {
            Content::Bytes(bytes) => Some(bytes.clone()),
            Content::Continuable(request) => request.body(skills),
            Content::Completion(completion) => Some(completion.body(skills)),
        }
    }
}

/// Why a request has no worker yet.
#[derive(Debug, Clone)]
pub enum Waiting {
    /// All slots are taken.
    Queued {
        /// Requests that came before and wait too.
        ahead: u32,
    },
    /// A worker is being started.
    Starting(Stage),
}

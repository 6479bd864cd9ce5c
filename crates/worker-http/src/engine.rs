//! The port: what an inference engine has to do.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::OwnedSemaphorePermit;

/// An engine with one model loaded.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The most tokens that prompt and answer may have together.
    fn context(&self) -> u32;

    /// Begins to generate. What can be wrong with the order is said here, before the first event.
    ///
    /// Dropping the events cancels: the engine stops working on them within a token and gives up the order's slot.
    ///
    /// # Errors
    /// [`EngineError`] if the order cannot be begun.
    async fn start(&self, order: Order) -> Result<Started, EngineError>;
}

/// What is to be generated.
#[derive(Debug)]
pub struct Order {
    /// What to continue.
    pub prompt: Prompt,
    /// The most tokens to generate; the rest of the context if nothing is said. An engine never generates beyond its
    /// context, whatever stands here.
    pub max_tokens: Option<u32>,
    /// How to choose among likely tokens.
    pub sampling: Sampling,
    /// The engine keeps this for as long as the generation costs it anything.
    pub slot: Slot,
}

/// What an answer continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text as it stands.
    Text(String),
    /// A conversation, to be put through the model's template.
    Chat {
        /// The messages, never empty.
        messages: Vec<Message>,
        /// Whether the last message, then one of the assistant's, is to be continued instead of answered.
        continue_last: bool,
    },
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Zero takes the likeliest token always.
    pub temperature: f32,
    /// Choose among the likeliest tokens that have this probability together.
    pub top_p: f32,
    /// Choose among this many of the likeliest tokens.
    pub top_k: Option<u32>,
    /// Makes the choice repeatable; a fresh one if nothing is said.
    pub seed: Option<u64>,
    /// Lowers tokens for each time they occurred.
    pub frequency_penalty: f32,
    /// Lowers tokens that occurred.
    pub presence_penalty: f32,
}

/// The right to generate. Its slot is free again when it is dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit }
    }
}

/// A generation that has begun.
pub struct Started {
    /// The tokens of the prompt, template included.
    pub prompt_tokens: u32,
    /// What comes of it.
    pub events: Events,
}

/// Tokens as they are made, then exactly one [`Event::Finished`] or one error, then the end.
pub type Events = BoxStream<'static, Result<Event, EngineError>>;

/// One step of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A token was generated: its bytes exactly, which may be none and may be part of a character.
    Token(Vec<u8>),
    /// The generation is over.
    Finished(Finish),
}

/// Why a generation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text.
    Stop,
    /// The tokens asked for were made, or the context is full.
    Length,
}

/// Why an engine does not generate, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The prompt alone leaves no room in the context.
    #[error("the prompt has {prompt} tokens, the context of this worker has {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of the context.
        context: u32,
    },
    /// The prompt cannot be used.
    #[error("{0}")]
    BadPrompt(String),
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Failed(String),
}

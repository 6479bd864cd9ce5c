//! What the engine behind a worker can do beyond OpenAI's interface, as its hive names it.

use fleet::Engine;

/// What of an engine's abilities matters to an answer that another worker may have to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Skills {
    /// How it counts tokens while it answers.
    pub(crate) count: Option<RunningCount>,
    /// How it goes on with a message of the assistant.
    pub(crate) prefill: Option<ChatPrefill>,
}

/// How an engine is asked to count tokens while it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunningCount {
    /// `stream_options.continuous_usage_stats` (vLLM): each frame has a `usage`.
    ContinuousUsage,
    /// `timings_per_token` (llama.cpp): each frame has `timings.predicted_n`.
    TimingsPerToken,
}

/// How an engine is asked to go on with the last message of a chat, which is the assistant's, instead of answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChatPrefill {
    /// `continue_final_message` (vLLM), and no prompt for a new message.
    ContinueFinalMessage,
    /// It does so unasked (llama.cpp).
    AssistantMessage,
}

impl Skills {
    /// What is known here of what a hive reports.
    pub(crate) fn of(engine: &Engine) -> Self {
        let count = match engine.running_usage.as_deref() {
            Some("stream_options.continuous_usage_stats") => Some(RunningCount::ContinuousUsage),
            Some("timings_per_token") => Some(RunningCount::TimingsPerToken),
            _ => None,
        };
        let prefill = match engine.chat_prefill.as_deref() {
            Some("continue_final_message") => Some(ChatPrefill::ContinueFinalMessage),
            Some("assistant_message") => Some(ChatPrefill::AssistantMessage),
            _ => None,
        };
        Self { count, prefill }
    }
}

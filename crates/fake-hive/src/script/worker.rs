//! How scripted workers load, answer and break.

use fleet::{FailureCode, WorkerId};
use serde::{Deserialize, Serialize};

use super::{Cut, Garbage};

/// One worker. The default loads in 50 ms and recites without delay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerScript {
    /// From spawn to the end of loading.
    pub load_ms: u64,
    /// How loading ends.
    pub load: Load,
    /// How long after it was reported ready it really answers.
    pub answers_after_ms: u64,
    /// Slots, whatever the spawn request says.
    pub slots: Option<u32>,
    /// What happens to a request beyond the slots.
    pub busy: Busy,
    /// Time before the first token, whatever the prompt.
    pub prefill_ms: u64,
    /// Time before the first token, per token of the prompt.
    pub prefill_ms_per_token: u64,
    /// Whether the reported prompt tokens grow during the prefill, rather than at its end.
    pub prefill_progress: bool,
    /// Time between two tokens.
    pub token_ms: u64,
    /// Whether a stream's head goes out before the prefill, rather than with the first token.
    pub early_head: bool,
    /// What it says.
    pub text: AnswerText,
    /// Whether it gives token counts where the request asks for them.
    pub usage: bool,
    /// Tokens of an answer whose request sets no bound.
    pub default_max_tokens: u32,
    /// The worker id that its answers claim (`x-rbee-worker`).
    pub claims_worker_id: Option<WorkerId>,
    /// What its log holds.
    pub log: Vec<String>,
    /// What goes wrong with requests; the first entry that fits is taken.
    pub faults: Vec<WorkerFault>,
}

impl Default for WorkerScript {
    fn default() -> Self {
        Self {
            load_ms: 50,
            load: Load::Ready,
            answers_after_ms: 0,
            slots: None,
            busy: Busy::Queue,
            prefill_ms: 0,
            prefill_ms_per_token: 0,
            prefill_progress: true,
            token_ms: 0,
            early_head: true,
            text: AnswerText::Recital,
            usage: true,
            default_max_tokens: 256,
            claims_worker_id: None,
            log: vec!["fake worker: loading".to_owned(), "fake worker: listening".to_owned()],
            faults: Vec::new(),
        }
    }
}

/// How loading ends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Load {
    /// Ready.
    #[default]
    Ready,
    /// With a failure.
    Fails {
        /// Why.
        code: FailureCode,
        /// Last lines of its log; the script's log if absent.
        #[serde(default)]
        log_tail: Option<Vec<String>>,
    },
    /// Never; progress stops at this part.
    Never {
        /// 0 to 1.
        #[serde(default)]
        stuck_at: f32,
    },
}

/// What happens to a request beyond the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Busy {
    /// It waits its turn.
    #[default]
    Queue,
    /// 429.
    TooManyRequests,
    /// 503.
    Unavailable,
}

/// What a worker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerText {
    /// The recited text, from where the prompt leaves off.
    #[default]
    Recital,
    /// The prompt's own words, over and over: a mixed-up answer shows whose it was.
    Echo,
}

/// One fault of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerFault {
    /// When, in the life of a request.
    pub at: Moment,
    /// What.
    pub act: WorkerAct,
    /// How many requests it hits, counted from when the script was set; all if absent.
    #[serde(default)]
    pub times: Option<u32>,
    /// Only requests whose prompt holds this.
    #[serde(default)]
    pub prompt_contains: Option<String>,
}

/// A point in the life of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The connection to the worker is not taken.
    Accept,
    /// The request was read, nothing was answered.
    Request,
    /// The answer's head was sent, nothing of its body. Streams only; others count as `request`.
    Head,
    /// So many tokens were sent. Streams only; others count as `request`.
    Tokens(u32),
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum WorkerAct {
    /// The worker's process ends, and with it all its answers.
    Die {
        /// Whether the hive notices and reports it `failed{crashed}`; otherwise it stays "ready" and refuses connections.
        #[serde(default = "yes")]
        reported: bool,
        /// How open answers end at the caller. Before the head it is the hive's 502 `worker_unreachable`.
        #[serde(default)]
        how: Cut,
    },
    /// This request goes no further, for as long as the caller waits.
    Hang,
    /// The answer ends here, properly framed but without its terminator.
    End,
    /// The answer breaks off here; the worker lives.
    Break {
        /// How.
        #[serde(default)]
        how: Cut,
    },
    /// An error of the engine: a status before the head, an error event after it.
    Error {
        /// The status.
        status: u16,
        /// The `Retry-After` header, in seconds.
        #[serde(default)]
        retry_after_s: Option<u32>,
        /// The message.
        #[serde(default)]
        message: String,
    },
    /// An answer that keeps no contract; in the middle of a stream, bytes that are no event.
    Garbage {
        /// Which.
        which: Garbage,
    },
    /// From here on that many bytes in a second.
    Slow {
        /// Bytes in a second.
        bytes_per_s: u64,
    },
}

const fn yes() -> bool {
    true
}

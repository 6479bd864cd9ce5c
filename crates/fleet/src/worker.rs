//! Workers: one process, one model, as its hive reports it.

use serde::{Deserialize, Serialize};

use crate::{DeviceSelector, Digest, LaunchId, ModelRef, Resolved, WorkerId};

/// What a hive reports of one of its workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its name within the launch.
    pub worker_id: WorkerId,
    /// The hive's launch that owns it.
    pub launch_id: LaunchId,
    /// The hive's revision of the last change to this record.
    pub rev: u64,
    /// The model it was asked for; also the name under which its engine serves it.
    pub model_ref: ModelRef,
    /// What that stands for.
    pub resolved: Resolved,
    /// SHA-256 of the model's file, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The engine's name.
    pub engine: String,
    /// The device it runs on.
    pub device: DeviceSelector,
    /// Context length of one slot, in tokens.
    pub context: u32,
    /// How many requests it answers at once.
    pub slots: u32,
    /// How many it is answering.
    pub slots_busy: u32,
    /// Prompt tokens processed since it started; growth is a sign of life.
    pub prompt_tokens_total: u64,
    /// Tokens generated since it started; growth is a sign of life.
    pub output_tokens_total: u64,
    /// Memory it holds, main and device together, in bytes.
    pub memory_bytes: u64,
    /// Its process, on the hive's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Where the queen reaches it: its hive's proxy path.
    pub url: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: WorkerState,
}

/// Where a worker stands.
///
/// ```text
/// starting ─▶ loading ─▶ ready ─▶ draining ─▶ stopping ─▶ stopped
///     │          │         │          │           │
///     └──────────┴─────────┴──────────┴───────────┴─────▶ failed
/// ```
/// A stop may come in any state, so each one may also go straight to `stopping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WorkerState {
    /// Its process is being started.
    Starting,
    /// Its engine reads the model.
    Loading {
        /// Part done, 0 to 1, where the engine tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        progress: Option<f32>,
    },
    /// It answers requests; its hive has seen it do so.
    Ready,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// Its process was asked to end.
    Stopping,
    /// Its process ended as asked.
    Stopped {
        /// Exit code; absent when a signal ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<i32>,
    },
    /// Its process ended unasked, or never became ready.
    Failed {
        /// Why, for programs.
        code: FailureCode,
        /// Why, for people: the last lines of its log.
        log_tail: Vec<String>,
    },
}

/// [`WorkerState`] without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is documented at the variant of the same name of WorkerState")]
pub enum WorkerStateName {
    Starting,
    Loading,
    Ready,
    Draining,
    Stopping,
    Stopped,
    Failed,
}

impl WorkerState {
    /// The state's name alone.
    #[must_use]
    pub const fn name(&self) -> WorkerStateName {
        match self {
            Self::Starting => WorkerStateName::Starting,
            Self::Loading { .. } => WorkerStateName::Loading,
            Self::Ready => WorkerStateName::Ready,
            Self::Draining => WorkerStateName::Draining,
            Self::Stopping => WorkerStateName::Stopping,
            Self::Stopped { .. } => WorkerStateName::Stopped,
            Self::Failed { .. } => WorkerStateName::Failed,
        }
    }

    /// Whether the worker takes requests.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether it will take requests if nothing goes wrong.
    #[must_use]
    pub const fn is_coming(&self) -> bool {
        matches!(self, Self::Starting | Self::Loading { .. })
    }

    /// Whether its process has ended for good.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Failed { .. })
    }

    /// Whether a worker may go from this state to `next`. Repeating a state (new progress) is allowed.
    #[must_use]
    pub const fn may_become(&self, next: &Self) -> bool {
        use WorkerStateName as N;
        match (self.name(), next.name()) {
            (N::Stopped | N::Failed, _) => false,
            (N::Starting, N::Starting | N::Loading | N::Ready)
            | (N::Loading, N::Loading | N::Ready)
            | (N::Ready, N::Ready | N::Draining)
            | (N::Draining, N::Draining) => true,
            (_, N::Stopping | N::Failed) => true,
            (N::Stopping, N::Stopped) => true,
            _ => false,
        }
    }
}

impl WorkerStateName {
    /// The word that replies and events use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// Why a worker failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The engine could not be started at all.
    SpawnFailed,
    /// The model's file is not there or not readable.
    ModelUnreadable,
    /// The file is not a model that the engine understands.
    ModelInvalid,
    /// Main or device memory ran out.
    OutOfMemory,
    /// The process ended while it loaded.
    ExitedWhileLoading,
    /// The process ended while it served.
    Crashed,
    /// It did not become ready in time.
    LoadTimeout,
}

impl FailureCode {
    /// The word that replies and events use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SpawnFailed => "spawn_failed",
            Self::ModelUnreadable => "model_unreadable",
            Self::ModelInvalid => "model_invalid",
            Self::OutOfMemory => "out_of_memory",
            Self::ExitedWhileLoading => "exited_while_loading",
            Self::Crashed => "crashed",
            Self::LoadTimeout => "load_timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<WorkerState> {
        vec![
            WorkerState::Starting,
            WorkerState::Loading { progress: Some(0.5) },
            WorkerState::Ready,
            WorkerState::Draining,
            WorkerState::Stopping,
            WorkerState::Stopped { exit: Some(0) },
            WorkerState::Failed { code: FailureCode::Crashed, log_tail: vec![] },
        ]
    }

    #[test]
    fn nothing_follows_an_ended_worker() {
        for (from, to) in all().iter().flat_map(|f| all().into_iter().map(move |t| (f.clone(), t))) {
            if from.is_over() {
                assert!(!from.may_become(&to), "{from:?} → {to:?}");
            }
        }
    }

    #[test]
    fn every_living_worker_can_be_stopped_or_fail() {
        let failed = WorkerState::Failed { code: FailureCode::Crashed, log_tail: vec![] };
        for from in all().into_iter().filter(|s| !s.is_over()) {
            assert!(from.may_become(&WorkerState::Stopping), "{from:?}");
            assert!(from.may_become(&failed), "{from:?}");
        }
    }

    #[test]
    fn a_draining_worker_never_becomes_ready_again() {
        assert!(!WorkerState::Draining.may_become(&WorkerState::Ready));
    }
}

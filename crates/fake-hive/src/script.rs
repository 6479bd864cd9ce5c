//! What a fake hive does: one plain value, healthy by default, in which a test names the faults that it wants.

mod call;
mod machine;
mod merge;
mod model;
mod wire;
mod worker;

use std::collections::BTreeMap;

use fleet::{HiveId, LaunchId, WorkerId};
use serde::{Deserialize, Serialize};

pub(crate) use call::worker_of;
pub use call::{Answer, CallName, CallScript, Garbage};
pub use machine::MachineScript;
pub use merge::ScriptError;
pub use model::{DownloadScript, ModelScript};
pub use wire::{Cut, CutAfter, Direction, WireScript};
pub use worker::{AnswerText, Busy, Load, Moment, WorkerAct, WorkerFault, WorkerScript};

/// The whole behaviour of a fake hive. Unknown fields are refused, so a misspelt fault is not a passed test.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// What it does before it listens; the binary only.
    pub start: StartScript,
    /// What it says of itself that is not so.
    pub claims: Claims,
    /// The machine that it pretends to manage.
    pub machine: MachineScript,
    /// The models that exist, in its store or at the hub.
    pub models: ModelsScript,
    /// How transfers go.
    pub download: DownloadScript,
    /// How its watch stream behaves.
    pub watch: WatchScript,
    /// How workers behave.
    pub worker: WorkerScript,
    /// Differences from [`Script::worker`] for some of them: the key is a worker id or a model reference (the id wins),
    /// the value a part of a worker script.
    pub workers: BTreeMap<String, serde_json::Value>,
    /// Faults by call; `all` holds for those without an entry of their own.
    pub calls: BTreeMap<CallName, CallScript>,
    /// Faults of the bytes, on every connection.
    pub wire: WireScript,
    /// How it takes being told to end.
    pub stop: StopScript,
}

/// Before it listens. Only the binary heeds it: the library is started by the test itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartScript {
    /// Ends with this exit code at once, after [`StartScript::says`].
    pub exit: Option<u8>,
    /// What it writes to standard error first.
    pub says: Vec<String>,
    /// How long it takes until it listens.
    pub listen_after_ms: u64,
}

/// Lies about itself. Absent means the truth.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Claims {
    /// The hive id in health and snapshot.
    pub hive_id: Option<HiveId>,
    /// The hive id in the snapshot alone.
    pub snapshot_hive_id: Option<HiveId>,
    /// The launch in health, which is also the one that calls must name then.
    pub health_launch_id: Option<LaunchId>,
    /// The launch in the events, lists and records.
    pub event_launch_id: Option<LaunchId>,
    /// The contract's version.
    pub api_version: Option<u32>,
    /// The program's version.
    pub version: Option<String>,
    /// Offset of the only date that it sends (the `Date` header), in seconds.
    pub date_offset_s: i64,
    /// Models in lists and snapshot that it does not have, by reference.
    pub models: Vec<fleet::ModelRef>,
    /// Ready workers in lists and snapshot that it does not have.
    pub workers: Vec<ClaimedWorker>,
    /// That many further invented workers, `bogus-0` and so on.
    pub bogus_workers: u32,
    /// Suppresses its real workers in lists and snapshot.
    pub hide_workers: bool,
}

/// A worker that is not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimedWorker {
    /// Its id, which may be one of another hive.
    pub worker_id: WorkerId,
    /// Its model.
    pub model_ref: fleet::ModelRef,
    /// Its url, if it is to point elsewhere.
    #[serde(default)]
    pub url: Option<String>,
}

/// The models that exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsScript {
    /// The models that a test knows by name.
    pub known: Vec<ModelScript>,
    /// Whether every other `hf:` reference exists at the hub too, with the figures of [`ModelScript::of`]. Those of owner
    /// `missing` never do.
    pub any: bool,
}

impl Default for ModelsScript {
    fn default() -> Self {
        Self { known: Vec::new(), any: true }
    }
}

/// The watch stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchScript {
    /// Between two beats.
    pub beat_ms: u64,
    /// Between two reports of a worker's slots and token totals while they change.
    pub report_ms: u64,
    /// Streams stay open and say nothing; what happened meanwhile is told when this ends.
    pub silent: bool,
    /// Changes are kept back, beats go on: the worker list of the reader grows old.
    pub mute_changes: bool,
    /// Each stream ends after this long.
    pub end_after_ms: Option<u64>,
    /// How many events behind a reader is cut.
    pub backlog: usize,
}

impl Default for WatchScript {
    fn default() -> Self {
        Self {
            beat_ms: 1000,
            report_ms: 200,
            silent: false,
            mute_changes: false,
            end_after_ms: None,
            backlog: 1000,
        }
    }
}

/// The end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopScript {
    /// `POST /v1/shutdown` is answered 202 and nothing happens.
    pub ignore_shutdown: bool,
    /// The binary ignores SIGTERM.
    pub ignore_term: bool,
    /// How long stopping a worker takes.
    pub worker_ms: u64,
    /// Stopping a worker is answered and nothing happens.
    pub ignore_worker_stop: bool,
}

impl Script {
    /// How one worker behaves.
    pub(crate) fn of_worker(&self, worker: &WorkerId, model: &fleet::ModelRef) -> WorkerScript {
        let patches = [self.workers.get(&model.to_string()), self.workers.get(worker.as_str())];
        let patched = patches
            .into_iter()
            .flatten()
            .try_fold(self.worker.clone(), |script, patch| merge::merged(&script, patch));
        // Every patch was tried when the script was set.
        patched.unwrap_or_else(|_| self.worker.clone())
    }

    /// The faults of one call.
    pub(crate) fn of_call(&self, call: CallName) -> Option<(CallName, &CallScript)> {
        [call, CallName::All].into_iter().find_map(|name| self.calls.get(&name).map(|script| (name, script)))
    }

    /// This script with `patch` over it, as RFC 7386 merges: null takes a field back to its default, a list replaces a
    /// list. An object with a `kind` replaces what was there.
    ///
    /// # Errors
    /// Names the field that no script has, or the value that does not fit.
    pub fn with(&self, patch: &serde_json::Value) -> Result<Self, ScriptError> {
        let script: Self = merge::merged(self, patch)?;
        script.checked()
    }

    /// The script, if all its parts hold together.
    ///
    /// # Errors
    /// A worker patch that does not fit.
    pub fn checked(self) -> Result<Self, ScriptError> {
        for patch in self.workers.values() {
            merge::merged(&self.worker, patch)?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_misspelt_field_is_refused_at_every_depth() {
        for patch in [
            json!({"wacth": {}}),
            json!({"watch": {"slient": true}}),
            json!({"calls": {"spwan": {}}}),
            json!({"workers": {"w-1": {"prefil_ms": 1}}}),
            json!({"worker": {"faults": [{"at": "head", "act": {"kind": "die"}, "time": 1}]}}),
        ] {
            assert!(Script::default().with(&patch).is_err(), "{patch}");
        }
    }

    #[test]
    fn null_takes_a_field_back_to_its_default() {
        let silent = Script::default().with(&json!({"watch": {"silent": true}})).unwrap();
        assert!(silent.watch.silent);
        assert_eq!(silent.with(&json!({"watch": null})).unwrap(), Script::default());
    }

    #[test]
    fn an_object_with_a_kind_replaces_the_one_before() {
        let status = json!({"calls": {"spawn": {"answer": {"kind": "status", "status": 500}}}});
        let hang = json!({"calls": {"spawn": {"answer": {"kind": "hang"}}}});
        let script = Script::default().with(&status).unwrap().with(&hang).unwrap();
        assert_eq!(script.calls[&CallName::Spawn].answer, Answer::Hang);
    }

    #[test]
    fn a_worker_follows_its_own_patch_before_its_models() {
        let patch = json!({"workers": {"w-1": {"token_ms": 7}, "hf:a/b": {"token_ms": 5, "load_ms": 3}}});
        let script = Script::default().with(&patch).unwrap();
        let model = "a/b".parse().unwrap();
        let first = script.of_worker(&"w-1".parse().unwrap(), &model);
        assert_eq!((first.token_ms, first.load_ms), (7, 3));
        assert_eq!(script.of_worker(&"w-2".parse().unwrap(), &model).token_ms, 5);
    }
}

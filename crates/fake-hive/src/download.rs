//! Transfers of models, from an invented hub.

mod source;

use std::{sync::Arc, time::Duration};

use fleet::{DownloadId, DownloadRecord, DownloadState, Resolved};
use futures_util::{StreamExt, stream};
use hive_api::{
    DownloadReply, DownloadRequest, ErrorCode, WatchEvent,
    server::{HiveResult, Progress},
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::sleep,
};

use crate::{
    script::ModelScript,
    state::{Core, Stored, refused},
    store::{as_pinned, resolve},
};
use source::Tried;

/// Steps in which progress is reported.
const STEP: Duration = Duration::from_millis(50);

/// How a transfer of bytes ended.
enum Ended {
    Whole,
    Failed { code: String, message: String },
}

fn failed(code: &str, message: impl Into<String>) -> Ended {
    Ended::Failed { code: code.to_owned(), message: message.into() }
}

impl Core {
    /// Starts a transfer, or finds the one of the same resolved model.
    pub(crate) fn start_download(self: &Arc<Self>, request: &DownloadRequest) -> HiveResult<DownloadReply> {
        let model = match &request.pinned {
            Some(pinned) => as_pinned(ModelScript::of(request.model_ref.clone()), pinned),
            None => self.find_model(&request.model_ref)?,
        };
        let resolved = resolve(&model);
        let stored_record = self.stored_record(&model);
        let mut state = self.state();
        if request.pinned.is_some() {
            state.names.insert(request.model_ref.clone(), resolved.clone());
        }
        let same = |d: &&DownloadRecord| {
            let useful = !matches!(d.state, DownloadState::Failed { .. });
            d.resolved.as_ref() == Some(&resolved) && useful
        };
        let there = state.store.contains_key(&resolved);
        let found = state.downloads.values().rfind(same).filter(|d| there || !d.state.is_final()).cloned();
        let (record, is_new) = if let Some(found) = found {
            (found, false)
        } else {
            if state.draining {
                return Err(refused(ErrorCode::Draining, "the hive is stopping and fetches nothing"));
            }
            let id: DownloadId = format!("d-{}", state.next_id())
                .parse()
                .unwrap_or_else(|_| unreachable!("letters, digits and a dash"));
            let record = DownloadRecord {
                download_id: id,
                launch_id: state.launch_id.clone(),
                rev: 0,
                model_ref: request.model_ref.clone(),
                resolved: Some(resolved),
                bytes: if there { stored_record.bytes } else { 0 },
                total: Some(stored_record.bytes),
                rate: 0,
                awaits: None,
                state: if there { DownloadState::Complete } else { DownloadState::Queued },
            };
            state.report_download(record.clone());
            (record, !there)
        };
        let reply = DownloadReply {
            launch_id: state.launch_id.clone(),
            rev: state.rev,
            download_id: record.download_id.clone(),
            state: record.state.clone(),
        };
        drop(state);
        if is_new {
            let (core, order) = (Arc::clone(self), request.clone());
            self.in_launch(async move { core.transfer(record, model, &order).await });
        }
        Ok(reply)
    }

    async fn transfer(
        self: Arc<Self>,
        mut record: DownloadRecord,
        model: ModelScript,
        order: &DownloadRequest,
    ) {
        let script = self.script().download.clone();
        sleep(Duration::from_millis(script.queued_ms)).await;
        let free = self.machine().disk_free;
        let ended = if model.bytes > free {
            failed(
                "storage_full",
                format!("{} needs {} bytes, {free} are free", record.model_ref, model.bytes),
            )
        } else {
            self.bring(&mut record, &model, order).await
        };
        let ended = match ended {
            Ended::Whole => {
                record.bytes = model.bytes;
                record.state = DownloadState::Verifying;
                self.state().report_download(record.clone());
                sleep(Duration::from_millis(script.verify_ms)).await;
                if script.corrupt {
                    failed(
                        "digest_mismatch",
                        format!("{} does not have the digest of its source", record.model_ref),
                    )
                } else {
                    Ended::Whole
                }
            }
            failed @ Ended::Failed { .. } => failed,
        };
        match ended {
            Ended::Failed { code, message } => {
                record.state = DownloadState::Failed { code, message };
                self.state().report_download(record);
            }
            Ended::Whole => {
                let stored = self.stored_record(&model);
                let entry = Stored { model, record: stored.clone(), corrupt: script.corrupt_unnoticed };
                record.state = DownloadState::Complete;
                let mut state = self.state();
                state.store.insert(stored.resolved.clone(), entry);
                state.report_model(stored, false);
                state.report_download(record);
                drop(state);
                self.report_devices();
            }
        }
    }

    /// All files, one after the other: from other hives, from the queen, from the hub.
    async fn bring(
        &self,
        record: &mut DownloadRecord,
        model: &ModelScript,
        order: &DownloadRequest,
    ) -> Ended {
        let mut through = 0;
        for shard in self.files_of(model) {
            let from = through;
            through += shard.file.bytes;
            let brought = match self.fetch_from(&order.sources, record, &shard.file, from).await {
                Tried::Whole => true,
                // The queen would bring the same.
                Tried::Wrong => false,
                Tried::Nothing => order.relayed && self.relayed(record, &shard.file, from).await,
            };
            if brought {
                continue;
            }
            if let failed @ Ended::Failed { .. } = self.fetch(record, model, from, through).await {
                return failed;
            }
        }
        Ended::Whole
    }

    /// The part of the whole from one byte to another, from the hub.
    async fn fetch(&self, record: &mut DownloadRecord, model: &ModelScript, from: u64, to: u64) -> Ended {
        let mut moved = from as f64;
        let mut went_back = false;
        loop {
            // Read anew each time, so that a test can stall a transfer and let it go on.
            let script = self.script().download.clone();
            let total = model.bytes as f64;
            let whole = Duration::from_millis(script.duration_ms).max(Duration::from_millis(1));
            let rate = script.bytes_per_s.map_or(total / whole.as_secs_f64(), |rate| rate as f64);
            let part = moved / total.max(1.0);
            if script.fail_at.is_some_and(|at| part >= at) {
                return failed(&script.fail_code, format!("{}: the transfer broke off", record.model_ref));
            }
            if moved >= to as f64 {
                return Ended::Whole;
            }
            let stalled = script.stall_at.is_some_and(|at| part >= at);
            sleep(STEP.min(Duration::from_secs_f64((to as f64 - moved).max(1.0) / rate.max(1.0)))).await;
            if !stalled {
                let limit = [script.stall_at, script.fail_at].into_iter().flatten().fold(1.0, f64::min);
                moved = (moved + rate * STEP.as_secs_f64()).min(total * limit.max(part)).min(to as f64);
            }
            let mut shown = (moved as u64).min(model.bytes) * script.exaggerate;
            if script.goes_backwards && !went_back && part > 0.5 {
                went_back = true;
                shown = 0;
            }
            record.state = DownloadState::Downloading;
            record.bytes = shown;
            record.rate = if stalled { 0 } else { rate as u64 };
            self.state().report_download(record.clone());
        }
    }

    /// The records of one transfer until its last one.
    pub(crate) fn follow_download(self: &Arc<Self>, id: &DownloadId) -> HiveResult<Progress> {
        let state = self.state();
        let Some(record) = state.downloads.get(id).cloned() else {
            return Err(refused(ErrorCode::NotFound, format!("this launch has no download {id}")));
        };
        let events = state.events.subscribe();
        drop(state);
        let id = id.clone();
        let over = record.state.is_final();
        let cut = self.script().download.cut_progress.filter(|_| !over);
        if let (Some(how), Some(wire)) = (cut, self.wires.current()) {
            let broken = stream::once(async move {
                wire.cut_behind(how).await;
                std::future::pending().await
            });
            return Ok(stream::iter([record]).chain(broken).boxed());
        }
        let later = stream::unfold((events, over), move |(mut events, over)| {
            let id = id.clone();
            async move {
                if over {
                    return None;
                }
                let record = next_record(&mut events, &id).await?;
                let over = record.state.is_final();
                Some((record, (events, over)))
            }
        });
        Ok(stream::iter([record]).chain(later).boxed())
    }

    /// Removes a model from the store.
    pub(crate) fn forget_model(&self, resolved: &Resolved) -> HiveResult<()> {
        let mut state = self.state();
        let used =
            state.workers.values().any(|w| !w.record.state.is_over() && w.record.resolved == *resolved);
        let loading =
            state.downloads.values().any(|d| !d.state.is_final() && d.resolved.as_ref() == Some(resolved));
        if used || loading {
            return Err(refused(ErrorCode::ModelInUse, format!("{resolved} is in use on this hive")));
        }
        if let Some(stored) = state.store.remove(resolved) {
            state.report_model(stored.record, true);
        }
        Ok(())
    }
}

/// The next change of one transfer; none when the hive is gone.
async fn next_record(
    events: &mut broadcast::Receiver<WatchEvent>,
    id: &DownloadId,
) -> Option<DownloadRecord> {
    loop {
        match events.recv().await {
            Ok(WatchEvent::Download(record)) if record.download_id == *id => return Some(*record),
            // Having missed some is no harm: each record is the whole truth.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

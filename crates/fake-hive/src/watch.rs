//! The watch stream: snapshot, changes and beats, as the script bends them.

use std::{sync::Arc, time::Duration};

use fleet::{LaunchId, StoredModel, WorkerId, WorkerRecord, WorkerState};
use futures_util::{StreamExt, stream};
use hive_api::{
    Beat, ModelsReply, Snapshot, WatchEvent, WorkersReply,
    server::{HiveResult, Watch},
};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    script::{Claims, Script},
    state::Core,
    store::resolve,
};

/// One reader of the watch.
struct Watcher {
    core: Arc<Core>,
    events: broadcast::Receiver<WatchEvent>,
    script: watch::Receiver<Arc<Script>>,
    epoch: CancellationToken,
    launch_id: LaunchId,
    first: Option<WatchEvent>,
    rev: u64,
    beat_at: Instant,
    end_at: Option<Instant>,
}

/// For a wait without an end.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

impl Watcher {
    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            let script = Arc::clone(&self.script.borrow_and_update());
            let end_at = self.end_at.unwrap_or_else(|| Instant::now() + NEVER);
            if script.watch.silent {
                tokio::select! {
                    () = self.epoch.cancelled() => return None,
                    () = sleep_until(end_at) => return None,
                    changed = self.script.changed() => changed.ok()?,
                }
                continue;
            }
            if let Some(snapshot) = self.first.take() {
                return Some(snapshot);
            }
            let beat_at = self.beat_at;
            tokio::select! {
                biased;
                () = self.epoch.cancelled() => return None,
                () = sleep_until(end_at) => return None,
                changed = self.script.changed() => changed.ok()?,
                () = sleep_until(beat_at) => {
                    self.beat_at = Instant::now() + Duration::from_millis(script.watch.beat_ms.max(1));
                    let beat = WatchEvent::Beat(Beat { launch_id: self.launch_id.clone(), rev: self.rev });
                    return Some(beat);
                }
                // An error means that this reader fell too far behind, or that the hive is gone: both end the stream.
                event = self.events.recv(), if !script.watch.mute_changes => {
                    let event = event.ok()?;
                    self.rev = event.rev();
                    return Some(event);
                }
            }
        }
    }
}

impl Core {
    /// A stream for one more reader.
    pub(crate) fn watch_stream(self: &Arc<Self>) -> Watch {
        let script = self.script.subscribe();
        let now = Arc::clone(&script.borrow());
        let capabilities = self.machine();
        let state = self.state();
        let claimed = now.claims.snapshot_hive_id.as_ref().or(now.claims.hive_id.as_ref()).cloned();
        let snapshot = Snapshot {
            hive_id: claimed.unwrap_or_else(|| self.hive_id.clone()),
            launch_id: state.launch_id.clone(),
            rev: state.rev,
            capabilities,
            workers: state.workers.values().map(|w| w.record.clone()).collect(),
            models: state.store.values().map(|s| s.record.clone()).collect(),
            downloads: state.downloads.values().filter(|d| !d.state.is_final()).cloned().collect(),
        };
        let watcher = Watcher {
            core: Arc::clone(self),
            events: state.events.subscribe(),
            script,
            epoch: state.epoch.clone(),
            launch_id: state.launch_id.clone(),
            rev: snapshot.rev,
            first: Some(WatchEvent::Snapshot(Box::new(snapshot))),
            beat_at: Instant::now() + Duration::from_millis(now.watch.beat_ms.max(1)),
            end_at: now.watch.end_after_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
        };
        drop(state);
        stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((watcher.core.as_claimed(event), watcher))
        })
        .boxed()
    }

    fn as_claimed(&self, mut event: WatchEvent) -> WatchEvent {
        let script = self.script();
        let claims = &script.claims;
        if let WatchEvent::Snapshot(snapshot) = &mut event {
            self.claim_workers(claims, &mut snapshot.workers);
            self.claim_models(claims, &mut snapshot.models);
        }
        let Some(launch_id) = &claims.event_launch_id else { return event };
        let slot = match &mut event {
            WatchEvent::Snapshot(e) => &mut e.launch_id,
            WatchEvent::Worker(e) => &mut e.launch_id,
            WatchEvent::Model(e) => &mut e.launch_id,
            WatchEvent::Download(e) => &mut e.launch_id,
            WatchEvent::Device(e) => &mut e.launch_id,
            WatchEvent::Beat(e) => &mut e.launch_id,
        };
        slot.clone_from(launch_id);
        event
    }

    /// The list of workers.
    pub(crate) fn workers_reply(&self) -> HiveResult<WorkersReply> {
        let script = self.script();
        let state = self.state();
        let mut reply = WorkersReply {
            launch_id: script.claims.event_launch_id.clone().unwrap_or_else(|| state.launch_id.clone()),
            rev: state.rev,
            workers: state.workers.values().map(|w| w.record.clone()).collect(),
        };
        drop(state);
        self.claim_workers(&script.claims, &mut reply.workers);
        Ok(reply)
    }

    /// The list of models.
    pub(crate) fn models_reply(&self) -> HiveResult<ModelsReply> {
        let script = self.script();
        let state = self.state();
        let mut reply = ModelsReply {
            launch_id: script.claims.event_launch_id.clone().unwrap_or_else(|| state.launch_id.clone()),
            rev: state.rev,
            models: state.store.values().map(|s| s.record.clone()).collect(),
        };
        drop(state);
        self.claim_models(&script.claims, &mut reply.models);
        Ok(reply)
    }

    fn claim_models(&self, claims: &Claims, models: &mut Vec<StoredModel>) {
        models.extend(claims.models.iter().map(|model_ref| {
            let model = crate::script::ModelScript::of(model_ref.clone());
            self.stored_record(&model)
        }));
    }

    fn claim_workers(&self, claims: &Claims, workers: &mut Vec<WorkerRecord>) {
        if claims.hide_workers {
            workers.clear();
        }
        let claimed = claims.workers.iter().map(|claimed| {
            let mut record = self.invented_worker(&claimed.worker_id, &claimed.model_ref);
            if let Some(url) = &claimed.url {
                record.url.clone_from(url);
            }
            record
        });
        workers.extend(claimed);
        let bogus = (0..claims.bogus_workers).filter_map(|n| format!("bogus-{n}").parse().ok());
        let model: Option<fleet::ModelRef> = "fake/bogus".parse().ok();
        workers.extend(bogus.zip(model.iter().cycle()).map(|(id, model)| self.invented_worker(&id, model)));
        if let Some(launch_id) = &claims.event_launch_id {
            workers.iter_mut().for_each(|w| w.launch_id.clone_from(launch_id));
        }
    }

    /// The record of a ready worker that does not exist.
    fn invented_worker(&self, worker_id: &WorkerId, model_ref: &fleet::ModelRef) -> WorkerRecord {
        let script = self.script();
        let state = self.state();
        let model = crate::script::ModelScript::of(model_ref.clone());
        WorkerRecord {
            worker_id: worker_id.clone(),
            launch_id: state.launch_id.clone(),
            rev: state.rev,
            model_ref: model_ref.clone(),
            resolved: resolve(&model),
            digest: None,
            engine: "fake".to_owned(),
            device: script.machine.devices.first().map_or_else(crate::worker::cpu, fleet::Device::selector),
            context: script.machine.default_context,
            slots: script.machine.default_slots,
            slots_busy: 0,
            prompt_tokens_total: 0,
            output_tokens_total: 0,
            memory_bytes: model.memory_bytes,
            pid: None,
            url: self.worker_url(worker_id),
            state: WorkerState::Ready,
        }
    }
}

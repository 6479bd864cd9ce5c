//! Writing what was seen of the hives into their rows, seldom, whatever the hives do.
//!
//! A row is for people and for the next queen; requests are routed by what is in memory. So a hive that comes and goes costs
//! the disk one write in [`Settings::write_every`](crate::Settings), and one that just lives one in
//! [`Settings::flush`](crate::Settings).

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use fleet::{HiveId, HivePhase, HiveStatus, ObservedHive, StoreError, Timestamp};
use registry_ram::FleetView;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{Settings, context::Context};

/// What a row holds, if that is known, and when this queen last wrote it.
#[derive(Debug, Clone, Copy)]
struct Row {
    status: Option<HiveStatus>,
    written: Option<Instant>,
}

/// A row that was made meanwhile.
const NEW: Row = Row { status: Some(HiveStatus::Offline), written: None };

/// What the rows hold.
#[derive(Debug, Default)]
pub(crate) struct Rows(BTreeMap<HiveId, Row>);

impl Rows {
    /// A row as it was read.
    pub(crate) fn read(&mut self, id: HiveId, status: HiveStatus) {
        self.0.insert(id, Row { status: Some(status), written: None });
    }

    /// Writes what has to be written until `closing`, and then once more.
    pub(crate) async fn keep(mut self, context: Arc<Context>, closing: CancellationToken) {
        let mut changes = context.registry.changes();
        while !closing.is_cancelled() {
            changes.borrow_and_update();
            let view = context.registry.view();
            let now = Instant::now();
            let (due, next) = self.due(&view, &context.settings, now, |id| context.doubt.excuses(id));
            for (id, phase) in due {
                self.write(&context, &view, &id, phase).await;
            }
            tokio::select! {
                () = closing.cancelled() => {}
                _ = changes.changed() => {}
                () = sleep_until(next) => {}
            }
        }
        let view = context.registry.view();
        for hive in view.hives().filter(|hive| !is_passing(hive.phase)) {
            if self.0.get(&hive.id).unwrap_or(&NEW).status != Some(hive.phase.status()) {
                self.write(&context, &view, &hive.id, hive.phase).await;
            }
        }
    }

    async fn write(&mut self, context: &Context, view: &FleetView, id: &HiveId, phase: HivePhase) {
        let answers = phase.status() == HiveStatus::Online;
        let capabilities = view.hive(id).and_then(|hive| hive.capabilities.clone()).filter(|_| answers);
        let last_seen = answers.then(|| Timestamp::from(SystemTime::now()));
        let seen = ObservedHive { status: phase.status(), last_seen, capabilities };
        match context.store.observe(id, seen).await {
            // A hive that was removed meanwhile has no row to write.
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(hive_id = %id, %error, "what was seen of the hive could not be stored");
                if let Some(row) = self.0.get_mut(id) {
                    row.status = None;
                }
            }
        }
    }

    /// What is to be written now, and when to look again if nothing changes before.
    fn due(
        &mut self,
        view: &FleetView,
        settings: &Settings,
        now: Instant,
        is_excused: impl Fn(&HiveId) -> bool,
    ) -> (Vec<(HiveId, HivePhase)>, Instant) {
        self.0.retain(|id, _| view.hive(id).is_some());
        let (mut due, mut next) = (Vec::new(), now + settings.flush);
        for hive in view.hives().filter(|hive| !is_passing(hive.phase)) {
            let status = hive.phase.status();
            let row = self.0.entry(hive.id.clone()).or_insert(NEW);
            let pause = match (row.status == Some(status), status) {
                (false, _) => settings.write_every,
                (true, HiveStatus::Online) => settings.flush,
                (true, HiveStatus::Offline | HiveStatus::Error) => continue,
            };
            let at = row.written.map_or(now, |written| written + pause);
            if at > now {
                next = next.min(at);
            } else if is_excused(&hive.id) {
                // The doubt ends by itself, and what it hid is still to be written then.
                next = next.min(now + settings.write_every);
            } else {
                *row = Row { status: Some(status), written: Some(now) };
                due.push((hive.id.clone(), hive.phase));
            }
        }
        (due, next)
    }
}

/// Whether a phase leads to another one by itself, which is the one to write.
const fn is_passing(phase: HivePhase) -> bool {
    matches!(phase, HivePhase::Starting | HivePhase::Stopping)
}

#[cfg(test)]
mod tests;

//! One attempt: finding or starting the hive, and following it for as long as it can be followed.

use std::{sync::Arc, time::Duration};

use fleet::{HiveEndpoint, HiveExit, HivePhase, LaunchError, LaunchStage, RunningHive, WorkerState};
use futures_util::future::BoxFuture;
use hive_api::{ShutdownRequest, StopWorkerRequest, client::ClientErrorKind};
use registry_ram::HiveWriter;
use tokio::{sync::watch, time::sleep};

use super::{Actor, Behind, Ended, RETRY_FIRST, follow::Standing};
use crate::{context::Context, manager::Intent, watch::measure};

/// A paused hive is looked at again after this at the earliest; a worker that was told to stop takes a moment to say so.
const PAUSE_LOOK: Duration = Duration::from_millis(200);

impl Actor {
    pub(super) async fn attempt(&mut self) -> Ended {
        if self.anew {
            self.context.set_phase(&self.writer, HivePhase::Starting, None);
        }
        match &self.behind {
            Behind::Nothing(reason) => Ended::GiveUp(reason.clone()),
            Behind::Attached { .. } => self.attend_attached().await,
            Behind::Managed(managed) => {
                let is_remote = managed.is_remote();
                let running = match self.find_or_launch().await {
                    Ok(running) => running,
                    Err(ended) => return ended,
                };
                self.only_adopt = false;
                let Behind::Managed(managed) = &self.behind else { return Ended::Intent };
                let endpoint = managed.endpoint(&self.context, &running).await;
                let exited = managed.launcher.exited(&managed.spec, &running);
                if self.known.replace(running.launch_id.clone()).as_ref() != Some(&running.launch_id) {
                    // How often a process ends is counted elsewhere.
                    self.standing = Standing::default();
                }
                self.running = Some(running);
                let ended = self.attend(endpoint, exited).await;
                match ended {
                    Ended::Retry(HivePhase::Unreachable, last) if is_remote => {
                        let last = self.unreached.clone().unwrap_or(last);
                        Ended::Retry(HivePhase::Unreachable, self.off(&last))
                    }
                    ended => ended,
                }
            }
        }
    }

    /// The process behind a managed hive, started unless one runs.
    async fn find_or_launch(&mut self) -> Result<RunningHive, Ended> {
        let Behind::Managed(managed) = &self.behind else { return Err(Ended::Intent) };
        let is_remote = managed.is_remote();
        let mut intent = self.intent.clone();
        let (had, limit) = (self.running.is_some(), self.context.settings.crash_limit);
        let crashes = self.crashes.len();
        let (context, known, only_adopt) = (Arc::clone(&self.context), self.known.clone(), self.only_adopt);
        let finding = async {
            match managed.find(&context, known.as_ref()).await {
                Ok(Some(running)) => Ok(Some(running)),
                // It was there before, and nobody ended it: the first start does not count, the last one is not made.
                Ok(None) if only_adopt => Ok(None),
                Ok(None) if is_remote && had && crashes + 1 >= limit => Ok(None),
                Ok(None) => managed.launch(&context).await.map(Some),
                Err(error) => Err(error),
            }
        };
        let found = tokio::select! {
            found = finding => found,
            // A machine far away may take minutes to answer or to fill, and what was left there is found again.
            () = unwanted(&mut intent), if is_remote => return Err(Ended::Intent),
        };
        self.cut_off = matches!(&found, Err(LaunchError::Remote { stage: LaunchStage::Connect, .. }));
        match found {
            Ok(Some(running)) => {
                let is_new =
                    self.running.as_ref().is_some_and(|before| before.launch_id != running.launch_id);
                if is_remote && is_new {
                    // Its end was seen there, so it is no silence.
                    self.context.doubt.forget(self.writer.id());
                    self.running = None;
                    self.is_crashing();
                }
                Ok(running)
            }
            Ok(None) => {
                self.running = None;
                if only_adopt {
                    return Err(Ended::Unneeded);
                }
                Err(Ended::GiveUp(format!("its process ended; not restarted after {limit} crashes")))
            }
            Err(LaunchError::Exited { exit, .. }) => Err(Ended::Exited(exit)),
            Err(error) if !error.is_worth_a_retry() => Err(Ended::GiveUp(causes::with_causes(&error))),
            Err(error) => Err(self.not_found(&error)),
        }
    }

    fn not_found(&mut self, error: &LaunchError) -> Ended {
        let reason = causes::with_causes(error);
        match error {
            LaunchError::Remote { stage: LaunchStage::Connect, .. } => {
                Ended::Retry(HivePhase::Unreachable, self.off(&reason))
            }
            LaunchError::Remote { stage: LaunchStage::Reach, .. } => {
                self.unreached = Some(reason.clone());
                Ended::Retry(HivePhase::Unreachable, reason)
            }
            _ => Ended::Retry(HivePhase::Error, reason),
        }
    }

    async fn attend_attached(&mut self) -> Ended {
        let Behind::Attached { spec, token, pin } = &self.behind else { return Ended::Intent };
        let (spec, token, pin) = (spec.clone(), token.clone(), *pin);
        let found = self.context.connections.health(&spec.hostname, spec.port, pin);
        let health = tokio::select! {
            found = found => found,
            _ = self.intent.changed() => return Ended::Intent,
        };
        match health {
            Ok(health) if health.hive_id != spec.id => {
                let reason = format!("the hive there calls itself {}, not {}", health.hive_id, spec.id);
                Ended::Retry(HivePhase::Error, reason)
            }
            Ok(health) => {
                let (hive_id, launch_id) = (spec.id, health.launch_id);
                let (host, port) = (spec.hostname, spec.port);
                let endpoint = HiveEndpoint { hive_id, launch_id, host, port, token, pin };
                self.attend(endpoint, Box::pin(std::future::pending())).await
            }
            Err(error) => {
                let phase = match error.kind {
                    ClientErrorKind::NotAHive { .. }
                    | ClientErrorKind::Refused(_)
                    | ClientErrorKind::WrongCertificate(_) => HivePhase::Error,
                    ClientErrorKind::Unreachable { .. } | ClientErrorKind::Timeout => HivePhase::Unreachable,
                };
                Ended::Retry(phase, error.kind.to_string())
            }
        }
    }

    /// Follows the hive until its process ends, it must be found anew, or something else is wanted.
    async fn attend(&mut self, endpoint: HiveEndpoint, exited: BoxFuture<'static, HiveExit>) -> Ended {
        self.writer.launched(endpoint.clone());
        planted::step("adoption-followed");
        let mut intent = self.intent.clone();
        let mut standing = std::mem::take(&mut self.standing);
        standing.answered = false;
        let client = self.context.connections.client(endpoint.clone());
        let ended = tokio::select! {
            exit = exited => Ended::Exited(exit),
            () = no_longer_wanted(&self.context, &self.writer, &mut intent) => Ended::Intent,
            ended = self.follow_and_probe(&endpoint, &mut standing) => ended,
            () = measure(&self.context, &self.writer, &client) => Ended::Intent,
            ended = empty_while_paused(&self.context, &endpoint, self.intent.clone()) => ended,
        };
        self.standing = standing;
        if self.standing.answered {
            // What comes now is a failure of its own, not the next one in a row.
            self.pause = RETRY_FIRST;
            (self.off_since, self.unreached) = (None, None);
        }
        if matches!(ended, Ended::Exited(_) | Ended::Intent) {
            self.context.doubt.forget(self.writer.id());
        }
        if let (Ended::Exited(_), Behind::Managed(managed)) = (&ended, &self.behind) {
            managed.ended(&self.context, &endpoint.launch_id).await;
        }
        let closing = matches!(*self.intent.borrow(), Intent::CloseAndStop(_));
        if planted::bug("ends-attached-hives") && closing && matches!(self.behind, Behind::Attached { .. }) {
            let order = ShutdownRequest::default();
            let _ = self.context.connections.client(endpoint).shutdown(&order).await;
        }
        // Whatever was wanted meanwhile was heeded on a copy.
        match *self.intent.borrow_and_update() {
            Intent::Run | Intent::Drain | Intent::Pause => ended,
            Intent::Stop | Intent::Rest | Intent::CloseAndStop(_) | Intent::CloseAndKeep => {
                if matches!(ended, Ended::Exited(_)) {
                    self.running = None;
                }
                Ended::Intent
            }
        }
    }
}

pub(super) const fn serving_phase(intent: Intent) -> HivePhase {
    if matches!(intent, Intent::Drain | Intent::Pause) { HivePhase::Draining } else { HivePhase::Online }
}

/// Ends when the hive should not run any more.
async fn unwanted(intent: &mut watch::Receiver<Intent>) {
    // The sender lives as long as the hive is looked after.
    let _ = intent.wait_for(|wanted| !matches!(wanted, Intent::Run | Intent::Drain | Intent::Pause)).await;
}

/// Ends when the hive should not run any more. On the way, switches a hive that answers between serving and draining.
async fn no_longer_wanted(context: &Context, writer: &HiveWriter, intent: &mut watch::Receiver<Intent>) {
    loop {
        let wanted = *intent.borrow_and_update();
        if !matches!(wanted, Intent::Run | Intent::Drain | Intent::Pause) {
            return;
        }
        let phase = context.registry.view().hive(writer.id()).map(|h| h.phase);
        if matches!(phase, Some(HivePhase::Online | HivePhase::Draining)) {
            let serving = serving_phase(wanted);
            context.set_phase(writer, serving, None);
            planted::step(if serving == HivePhase::Draining { "drain-begun" } else { "drain-over" });
        }
        if intent.changed().await.is_err() {
            return;
        }
    }
}

/// Whatever runs on a paused hive is stopped at once, also what somebody started past the queen. Ends as nothing ever does.
async fn empty_while_paused(
    context: &Context,
    endpoint: &HiveEndpoint,
    mut intent: watch::Receiver<Intent>,
) -> Ended {
    let client = context.connections.client(endpoint.clone());
    let mut changes = context.registry.changes();
    loop {
        if !matches!(*intent.borrow_and_update(), Intent::Pause) {
            if intent.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        changes.mark_unchanged();
        let view = context.registry.view();
        let hive = view.hive(&endpoint.hive_id).filter(|h| h.launch_id() == Some(&endpoint.launch_id));
        let running = hive.into_iter().flat_map(|hive| hive.workers.values()).filter(|worker| {
            let state = &worker.record.state;
            state.is_ready() || state.is_coming() || matches!(state, WorkerState::Draining)
        });
        for worker in running {
            let worker_id = &worker.record.worker_id;
            tracing::info!(hive_id = %endpoint.hive_id, %worker_id, "the hive is paused: stopping a worker");
            if let Err(error) = client.stop_worker(worker_id, &StopWorkerRequest { grace_ms: Some(0) }).await
            {
                tracing::warn!(hive_id = %endpoint.hive_id, %worker_id, %error, "a worker could not be stopped");
            }
            planted::step("pause-emptying");
        }
        tokio::select! {
            _ = changes.changed() => sleep(PAUSE_LOOK).await,
            _ = intent.changed() => {}
        }
    }
}

//! The task of one hive: compares what is wanted with what is, and closes the difference.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fleet::{HiveEndpoint, HiveExit, HiveKind, HivePhase, HiveSpec, RunningHive, Token};
use futures_util::future::BoxFuture;
use registry_ram::HiveWriter;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    manager::{Context, Intent},
    process::Managed,
    watch::{Left, follow, probe},
};

/// First pause after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// What stands behind the hive.
enum Behind {
    Managed(Managed),
    Attached {
        spec: HiveSpec,
        token: Token,
    },
    /// Nothing that this queen can use, and why.
    Nothing(String),
}

pub(crate) struct Actor {
    context: Arc<Context>,
    writer: HiveWriter,
    behind: Behind,
    intent: watch::Receiver<Intent>,
    pause: Duration,
    crashes: VecDeque<Instant>,
    /// The process that the last attempt left running.
    running: Option<RunningHive>,
}

/// How an attempt to keep the hive running ended.
enum Ended {
    /// Something else is wanted now.
    Intent,
    /// Try again after a pause.
    Retry(HivePhase, String),
    /// The process ended.
    Exited(HiveExit),
    /// Another try makes no sense before somebody asks for it.
    GiveUp(String),
}

impl Actor {
    pub(crate) fn new(
        context: Arc<Context>,
        writer: HiveWriter,
        spec: HiveSpec,
        intent: watch::Receiver<Intent>,
    ) -> Self {
        let behind = match (&spec.kind, context.launchers.of(spec.mode)) {
            (HiveKind::Attached { token: Some(token) }, _) => {
                Behind::Attached { token: token.clone(), spec: spec.clone() }
            }
            (HiveKind::Attached { token: None }, _) => {
                Behind::Nothing("the hive's token is not known; register it again with its token".to_owned())
            }
            (HiveKind::Managed, Some(launcher)) => Behind::Managed(Managed { spec, launcher }),
            (HiveKind::Managed, None) => Behind::Nothing(
                "this queen starts hives on its own machine only; start rbee-hive there by hand and register it with \
                 its token"
                    .to_owned(),
            ),
        };
        Self { context, writer, behind, intent, pause: RETRY_FIRST, crashes: VecDeque::new(), running: None }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let intent = *self.intent.borrow_and_update();
            match intent {
                Intent::Run | Intent::Drain => self.keep_running().await,
                Intent::CloseAndStop(grace) => return self.stop(grace).await,
                Intent::CloseAndKeep => return,
                Intent::Stop => {
                    self.stop(self.context.settings.grace).await;
                    if self.intent.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// One attempt, and the pause after it. Returns when the intent should be looked at again.
    async fn keep_running(&mut self) {
        let ended = self.attempt().await;
        let (phase, reason, wait) = match ended {
            Ended::Intent => return,
            Ended::GiveUp(reason) => (HivePhase::Error, reason, None),
            Ended::Retry(phase, reason) => (phase, reason, Some(self.next_pause())),
            Ended::Exited(exit) => {
                self.running = None;
                let reason = exit_reason(&exit);
                if self.is_crashing() {
                    let limit = self.context.settings.crash_limit;
                    (HivePhase::Error, format!("{reason}; not restarted after {limit} crashes"), None)
                } else {
                    (HivePhase::Offline, reason, Some(self.next_pause()))
                }
            }
        };
        self.context.set_phase(&self.writer, phase, Some(reason)).await;
        let changed = self.intent.changed();
        match wait {
            Some(pause) => drop(tokio::time::timeout(pause, changed).await),
            None => {
                let _ = changed.await;
                self.crashes.clear();
                self.pause = RETRY_FIRST;
            }
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.context.settings.retry_max);
        pause
    }

    fn is_crashing(&mut self) -> bool {
        let settings = &self.context.settings;
        self.crashes.push_back(Instant::now());
        while self.crashes.front().is_some_and(|at| at.elapsed() > settings.crash_window) {
            self.crashes.pop_front();
        }
        self.crashes.len() >= settings.crash_limit
    }

    async fn attempt(&mut self) -> Ended {
        let starting =
            self.context.registry.view().hive(self.writer.id()).is_none_or(|h| h.endpoint.is_none());
        if starting {
            self.context.set_phase(&self.writer, HivePhase::Starting, None).await;
        }
        match &self.behind {
            Behind::Nothing(reason) => Ended::GiveUp(reason.clone()),
            Behind::Attached { spec, token } => {
                let (spec, token) = (spec.clone(), token.clone());
                let found = self.context.connections.health(&spec.hostname, spec.port);
                let health = tokio::select! {
                    found = found => found,
                    _ = self.intent.changed() => return Ended::Intent,
                };
                match health {
                    Err(error) => Ended::Retry(HivePhase::Unreachable, error.kind.to_string()),
                    Ok(health) if health.hive_id != spec.id => {
                        let reason =
                            format!("the hive there calls itself {}, not {}", health.hive_id, spec.id);
                        Ended::Retry(HivePhase::Error, reason)
                    }
                    Ok(health) => {
                        let (hive_id, launch_id) = (spec.id, health.launch_id);
                        let (host, port) = (spec.hostname, spec.port);
                        let endpoint = HiveEndpoint { hive_id, launch_id, host, port, token };
                        self.attend(endpoint, Box::pin(std::future::pending())).await
                    }
                }
            }
            Behind::Managed(managed) => {
                let running = match managed.find_or_launch(&self.context).await {
                    Ok(running) => running,
                    Err(error @ fleet::LaunchError::BinaryMissing { .. }) => {
                        return Ended::GiveUp(error.to_string());
                    }
                    Err(fleet::LaunchError::Exited { exit, .. }) => return Ended::Exited(exit),
                    Err(error) => return Ended::Retry(HivePhase::Error, with_causes(&error)),
                };
                let endpoint = managed.endpoint(&self.context, &running);
                let exited = managed.launcher.exited(&managed.spec, &running);
                self.running = Some(running);
                self.attend(endpoint, exited).await
            }
        }
    }

    /// Follows the hive until its process ends, it must be found anew, or something else is wanted.
    async fn attend(&mut self, endpoint: HiveEndpoint, exited: BoxFuture<'static, HiveExit>) -> Ended {
        self.writer.launched(endpoint.clone());
        let mut intent = self.intent.clone();
        let ended = tokio::select! {
            exit = exited => Ended::Exited(exit),
            () = no_longer_wanted(&self.context, &self.writer, &mut intent) => Ended::Intent,
            ended = self.follow_and_probe(&endpoint) => ended,
        };
        if let (Ended::Exited(_), Behind::Managed(managed)) = (&ended, &self.behind) {
            managed.ended(&self.context, &endpoint.launch_id).await;
        }
        ended
    }

    async fn follow_and_probe(&self, endpoint: &HiveEndpoint) -> Ended {
        let client = self.context.connections.client(endpoint.clone());
        let mut pause = RETRY_FIRST;
        loop {
            let left =
                follow(&self.context, &self.writer, &client, || serving_phase(*self.intent.borrow())).await;
            tracing::debug!(hive_id = %self.writer.id(), left = %left.reason(), "watch stream left");
            match left {
                Left::Gap => continue,
                Left::OtherLaunch => return Ended::Retry(HivePhase::Starting, left.reason()),
                Left::Silent(_) | Left::Broke(_) | Left::NotAHive(_) => {}
            }
            let reason = match (probe(&self.context, endpoint).await, &left) {
                (Ok(()), Left::NotAHive(reason)) => reason.clone(),
                (Ok(()), _) => {
                    pause = RETRY_FIRST;
                    continue;
                }
                (Err(probed), _) => format!("{}; {probed}", left.reason()),
            };
            if matches!(self.behind, Behind::Attached { .. }) {
                // Nobody tells when an attached hive is restarted, so its launch is asked for anew.
                return Ended::Retry(HivePhase::Unreachable, reason);
            }
            self.context.set_phase(&self.writer, HivePhase::Unreachable, Some(reason)).await;
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn stop(&mut self, grace: Duration) {
        let Behind::Managed(managed) = &self.behind else {
            return self.context.set_phase(&self.writer, HivePhase::Offline, None).await;
        };
        let running = match self.running.take() {
            Some(running) => Some(running),
            None => managed.launcher.discover(&managed.spec).await.unwrap_or_else(|error| {
                tracing::warn!(hive_id = %managed.spec.id, error = %with_causes(&error), "could not look for the hive");
                None
            }),
        };
        let (mut phase, mut reason) = (HivePhase::Offline, None);
        if let Some(running) = running {
            self.context.set_phase(&self.writer, HivePhase::Stopping, None).await;
            let mut intent = self.intent.clone();
            let hurry = async move {
                // Asked twice to close, the owner wants it now.
                while intent.changed().await.is_ok() {
                    if matches!(*intent.borrow_and_update(), Intent::CloseAndStop(_)) {
                        return;
                    }
                }
                std::future::pending().await
            };
            if let Err(error) = managed.stop(&self.context, &running, grace, hurry).await {
                (phase, reason) = (HivePhase::Error, Some(with_causes(&error)));
            }
        }
        self.context.set_phase(&self.writer, phase, reason).await;
    }
}

const fn serving_phase(intent: Intent) -> HivePhase {
    if matches!(intent, Intent::Drain) { HivePhase::Draining } else { HivePhase::Online }
}

/// Ends when the hive should not run any more. On the way, switches a hive that answers between serving and draining.
async fn no_longer_wanted(context: &Context, writer: &HiveWriter, intent: &mut watch::Receiver<Intent>) {
    loop {
        let wanted = *intent.borrow_and_update();
        if !matches!(wanted, Intent::Run | Intent::Drain) {
            return;
        }
        let phase = context.registry.view().hive(writer.id()).map(|h| h.phase);
        if matches!(phase, Some(HivePhase::Online | HivePhase::Draining)) {
            context.set_phase(writer, serving_phase(wanted), None).await;
        }
        if intent.changed().await.is_err() {
            return;
        }
    }
}

fn exit_reason(exit: &HiveExit) -> String {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("its process ended with exit code {code}"),
        (None, Some(signal)) => format!("its process was ended by signal {signal}"),
        (None, None) => "its process ended".to_owned(),
    };
    match exit.log_tail.last() {
        Some(line) => format!("{how}; last line: {line}"),
        None => how,
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

//! The task of one hive: compares what is wanted with what is, and closes the difference.

mod attend;
mod follow;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fleet::{
    Desired, DesiredBy, HiveExit, HiveKind, HiveMode, HivePhase, HiveSpec, LaunchId, RunningHive,
    TlsFingerprint, Token,
};
use registry_ram::HiveWriter;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use self::follow::Standing;
use crate::{context::Context, manager::Intent, process::Managed};

/// First pause after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Longest pause between two looks at a hive that is only asked for its health.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Why a hive does not run that demand starts.
const WAITS: &str = "it is started on demand, when a request needs it";

/// What stands behind the hive.
enum Behind {
    Managed(Managed),
    Attached {
        spec: HiveSpec,
        token: Token,
        pin: Option<TlsFingerprint>,
    },
    /// Nothing that this queen can use, and why.
    Nothing(String),
}

impl Behind {
    /// Whether it is reached over a network.
    fn is_network(&self) -> bool {
        match self {
            Self::Managed(Managed { spec, .. }) | Self::Attached { spec, .. } => {
                spec.mode == HiveMode::Network
            }
            Self::Nothing(_) => false,
        }
    }
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
    /// The launch that was started or taken over last, so that finding it once more is no news.
    known: Option<LaunchId>,
    /// Since when a hive of another machine has not answered, for people.
    off_since: Option<SystemTime>,
    /// Why the hive that was started there could not be reached, with what helps; said until it can be.
    unreached: Option<String>,
    /// Whether the last attempt did not come through to the machine at all.
    cut_off: bool,
    /// Whether a hive that does not run is left alone: demand of an earlier queen had started it.
    only_adopt: bool,
    /// How it stood up so far.
    standing: Standing,
    /// Whether the next attempt is a new beginning. One that only repeats a failed one does not say "starting" each time.
    anew: bool,
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
    /// It does not run, and nobody needs it now.
    Unneeded,
}

impl Actor {
    pub(crate) fn new(
        context: Arc<Context>,
        writer: HiveWriter,
        spec: HiveSpec,
        intent: watch::Receiver<Intent>,
    ) -> Self {
        let behind = match (&spec.kind, context.launchers.of(spec.mode)) {
            (HiveKind::Attached { token: Some(token), pin }, _) => {
                Behind::Attached { token: token.clone(), pin: *pin, spec: spec.clone() }
            }
            (HiveKind::Attached { token: None, .. }, _) => {
                Behind::Nothing("the hive's token is not known; register it again with its token".to_owned())
            }
            (HiveKind::Managed, Some(launcher)) => Behind::Managed(Managed { spec, launcher }),
            (HiveKind::Managed, None) => Behind::Nothing(
                "this queen starts hives on its own machine only; start rbee-hive there by hand and register it with \
                 its token"
                    .to_owned(),
            ),
        };
        let crashes = VecDeque::new();
        Self {
            context,
            writer,
            behind,
            intent,
            pause: RETRY_FIRST,
            crashes,
            running: None,
            known: None,
            off_since: None,
            unreached: None,
            cut_off: false,
            only_adopt: false,
            standing: Standing::default(),
            anew: true,
        }
    }

    /// Takes a hive over that runs, and starts none before demand asks anew.
    pub(crate) const fn only_adopt(&mut self) {
        self.only_adopt = true;
    }

    pub(crate) async fn run(mut self) {
        loop {
            if self.intent.has_changed().unwrap_or_default() {
                self.only_adopt = false;
            }
            let intent = *self.intent.borrow_and_update();
            match intent {
                Intent::Run | Intent::Drain | Intent::Pause => {
                    self.keep_running().await;
                    // Nobody is left who could want anything, or would wait for the end.
                    if self.intent.has_changed().is_err() {
                        return;
                    }
                }
                Intent::CloseAndStop(grace) => return self.stop(grace, None).await,
                Intent::CloseAndKeep => return,
                Intent::Stop | Intent::Rest => {
                    let resting = (intent == Intent::Rest).then(|| WAITS.to_owned());
                    self.stop(self.context.settings.grace, resting).await;
                    self.begin_anew();
                    if self.intent.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn begin_anew(&mut self) {
        (self.anew, self.only_adopt) = (true, false);
        self.pause = RETRY_FIRST;
        self.crashes.clear();
        self.standing = Standing::default();
    }

    /// One attempt, and the pause after it. Returns when the intent should be looked at again.
    async fn keep_running(&mut self) {
        let ended = self.attempt().await;
        self.anew = matches!(ended, Ended::Exited(_));
        let (phase, reason, wait) = match ended {
            Ended::Intent => return,
            Ended::GiveUp(reason) => (HivePhase::Error, reason, None),
            Ended::Unneeded => return self.rest().await,
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
        self.context.set_phase(&self.writer, phase, Some(reason));
        match wait {
            Some(pause) => self.wait(pause).await,
            None => {
                let _ = self.intent.changed().await;
                self.begin_anew();
            }
        }
    }

    /// Notes that demand of an earlier queen is gone, and waits for new one.
    async fn rest(&mut self) {
        {
            let _turn = self.context.changing.acquire().await;
            if self.intent.has_changed().unwrap_or(true) {
                return;
            }
            let wish =
                self.context.store.set_desired(self.writer.id(), Desired::Stopped, DesiredBy::Placement);
            if let Err(error) = wish.await {
                tracing::warn!(hive_id = %self.writer.id(), %error, "that nobody needs the hive could not be stored");
            }
        }
        self.context.set_phase(&self.writer, HivePhase::Offline, Some(WAITS.to_owned()));
        let _ = self.intent.changed().await;
        self.begin_anew();
    }

    /// The pause before the next attempt. A hive of another machine ends it by answering, and a machine that could not be reached
    /// by greeting.
    async fn wait(&mut self, pause: Duration) {
        let over = Instant::now() + pause;
        let mut intent = self.intent.clone();
        let Behind::Managed(managed) = &self.behind else {
            drop(timeout_at(over, self.intent.changed()).await);
            return;
        };
        let heard = async {
            if !managed.is_remote() {
                std::future::pending::<()>().await;
            }
            loop {
                sleep(LOOK_MAX).await;
                if managed.answers(&self.context).await.is_some()
                    || self.cut_off && managed.launcher.greets(&managed.spec).await
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = sleep_until(over) => {}
            _ = intent.changed() => {}
            () = heard => {}
        }
    }

    /// What is said of a hive of another machine that does not answer.
    fn off(&mut self, last: &str) -> String {
        let since = *self.off_since.get_or_insert_with(SystemTime::now);
        let every = self.context.settings.retry_max.as_secs_f32();
        format!("off since {}, retried every {every} s; last: {last}", clock(since))
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        let most = match self.behind {
            Behind::Attached { .. } => self.context.settings.retry_max.min(LOOK_MAX),
            Behind::Managed(_) | Behind::Nothing(_) => self.context.settings.retry_max,
        };
        self.pause = (pause * 2).min(most);
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

    /// Ends the hive. Once it does not run it stands there with `resting` as the reason.
    async fn stop(&mut self, grace: Duration, resting: Option<String>) {
        let Behind::Managed(managed) = &self.behind else {
            return self.context.set_phase(&self.writer, HivePhase::Offline, resting);
        };
        let running = match self.running.take() {
            Some(running) => Ok(Some(running)),
            None if planted::bug("trusts-the-row") => Ok(None),
            None => managed.find_to_stop(&self.context, grace + self.context.settings.force_after).await,
        };
        let (phase, reason) = match running {
            Ok(None) => (HivePhase::Offline, resting),
            Ok(Some(running)) => {
                self.context.set_phase(&self.writer, HivePhase::Stopping, None);
                let hurry = hurry(self.intent.clone());
                match managed.stop(&self.context, &running, grace, hurry).await {
                    Ok(()) => (HivePhase::Offline, resting),
                    Err(error) => {
                        self.running = Some(running);
                        (HivePhase::Error, Some(causes::with_causes(&error)))
                    }
                }
            }
            Err(error) => {
                (HivePhase::Error, Some(format!("could not look for it: {}", causes::with_causes(&error))))
            }
        };
        self.context.set_phase(&self.writer, phase, reason);
    }
}

/// Hours and minutes of a day, as a person reads them.
fn clock(at: SystemTime) -> String {
    let minutes = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60);
    format!("{:02}:{:02} UTC", minutes / 60 % 24, minutes % 60)
}

/// Ends when a stop that is under way should take no longer: the grace of a closing that came meanwhile is over.
async fn hurry(mut intent: watch::Receiver<Intent>) {
    let mut due: Option<Instant> = None;
    loop {
        let changed = intent.changed();
        let changed = match due {
            Some(at) => timeout_at(at, changed).await,
            None => Ok(changed.await),
        };
        match changed {
            Err(_) => return,
            Ok(Err(_)) => std::future::pending().await,
            Ok(Ok(())) => {
                if let Intent::CloseAndStop(grace) = *intent.borrow_and_update() {
                    let at = Instant::now() + grace;
                    due = Some(due.map_or(at, |due| due.min(at)));
                }
            }
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

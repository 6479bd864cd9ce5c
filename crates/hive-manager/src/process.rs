//! Having a process behind a managed hive: finding the one that runs, starting one, ending it.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet::{
    EventKind, HiveEndpoint, HiveId, HiveLauncher, HiveMode, HiveSpec, LaunchError, LaunchFacts, LaunchId,
    LaunchJournal, LaunchObserver, LaunchOrder, LaunchProgress, LaunchRecord, LaunchStage, LaunchStep,
    ProcessIdentity, RunningHive, StoreError,
};
use hive_api::{ShutdownRequest, client::HiveClient};
use journal::Journal;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::context::Context;

/// How often a hive of another machine is asked itself while SSH takes its time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often the port of a hive that stops is looked at.
const KNOCK: Duration = Duration::from_millis(25);

/// Least time for ending a hive of another machine by force.
const KILL: Duration = Duration::from_secs(2);

/// Writes each step of a launch down before the launcher goes on.
struct Journalled {
    hive: HiveId,
    journal: Arc<dyn LaunchJournal>,
    events: Journal,
}

#[async_trait]
impl LaunchObserver for Journalled {
    async fn spawned(&self, launch: &LaunchId, process: &ProcessIdentity) -> Result<(), StoreError> {
        self.journal.advance(launch, LaunchStep::Spawned, process.clone().into()).await
    }

    fn progress(&self, launch: &LaunchId, progress: LaunchProgress) {
        let (hive_id, launch_id) = (self.hive.clone(), launch.clone());
        self.events.record(EventKind::HiveLaunch { hive_id, launch_id, progress });
    }
}

/// One managed hive, and who can start it.
pub(crate) struct Managed {
    pub(crate) spec: HiveSpec,
    pub(crate) launcher: Arc<dyn HiveLauncher>,
}

impl Managed {
    /// Where the running process takes requests.
    pub(crate) async fn endpoint(&self, context: &Context, running: &RunningHive) -> HiveEndpoint {
        HiveEndpoint {
            hive_id: self.spec.id.clone(),
            launch_id: running.launch_id.clone(),
            host: self.launcher.address(&self.spec).await,
            port: running.port,
            token: context.key.token(&running.launch_id),
            pin: running.tls_fingerprint,
        }
    }

    /// Whether it runs on another machine, whose end nobody tells.
    pub(crate) const fn is_remote(&self) -> bool {
        matches!(self.spec.mode, HiveMode::Network)
    }

    /// The launch that the journal has as running, if its hive answers for it. Without a certificate nobody could tell whether
    /// that is so, and a launcher has to look.
    pub(crate) async fn answers(&self, context: &Context) -> Option<RunningHive> {
        let open = context.launches.open(&self.spec.id).await.ok()?;
        let running = open.iter().find(|launch| launch.step == LaunchStep::Healthy)?.running()?;
        let pin = running.tls_fingerprint?;
        let host = self.launcher.address(&self.spec).await;
        let health = context.connections.health(&host, running.port, Some(pin)).await.ok()?;
        ((health.hive_id, &health.launch_id) == (self.spec.id.clone(), &running.launch_id)).then_some(running)
    }

    /// The process that runs for this hive, if there is one. On another machine the hive itself is asked first, and again while
    /// SSH takes its time. Finding the one of the launch `known` again is no adoption.
    pub(crate) async fn find(
        &self,
        context: &Context,
        known: Option<&LaunchId>,
    ) -> Result<Option<RunningHive>, LaunchError> {
        planted::step("adoption-begun");
        let found = if self.is_remote() {
            match self.answers(context).await {
                Some(running) => Some(running),
                None => self.discover_or_answer(context).await?,
            }
        } else {
            self.launcher.discover(&self.spec).await?
        };
        if found.is_some() {
            planted::step("adoption-found");
        }
        self.close_journal(context, found.as_ref()).await?;
        if let Some(running) = &found {
            planted::step("adoption-noted");
            if known != Some(&running.launch_id) {
                let launch_id = running.launch_id.clone();
                context.journal.record(EventKind::HiveAdopted { hive_id: self.spec.id.clone(), launch_id });
            }
        }
        Ok(found)
    }

    async fn discover_or_answer(&self, context: &Context) -> Result<Option<RunningHive>, LaunchError> {
        let mut discovered = self.launcher.discover(&self.spec);
        loop {
            tokio::select! {
                found = &mut discovered => return found,
                () = sleep(ASK_AGAIN) => {
                    if let Some(running) = self.answers(context).await {
                        return Ok(Some(running));
                    }
                }
            }
        }
    }

    /// Starts the hive, which does not run.
    ///
    /// The launcher bounds itself. On this machine it is never dropped half-way, as a process that nobody noted would be an
    /// orphan; on another one what it left is found by the open launch.
    pub(crate) async fn launch(&self, context: &Context) -> Result<RunningHive, LaunchError> {
        let launch_id = context.new_launch_id();
        let journal_error = |source| LaunchError::Journal { hive_id: self.spec.id.clone(), source };
        planted::step("launch-not-intended");
        context.launches.intend(launch_id.clone(), self.spec.id.clone()).await.map_err(journal_error)?;
        planted::step("launch-intended");
        let token = context.key.token(&launch_id);
        let order = LaunchOrder { spec: self.spec.clone(), launch_id: launch_id.clone(), token };
        let observer = Arc::new(Journalled {
            hive: self.spec.id.clone(),
            journal: Arc::clone(&context.launches),
            events: context.journal.clone(),
        });
        match self.launcher.launch(&order, observer).await {
            Ok(running) => {
                planted::step("launch-listens");
                let healthy = context.launches.advance(&launch_id, LaunchStep::Healthy, (&running).into());
                healthy.await.map_err(journal_error)?;
                planted::step("launch-healthy");
                Ok(running)
            }
            // It runs, or may run, and is found by the next attempt.
            Err(error @ LaunchError::Remote { .. }) => Err(error),
            Err(error) => {
                self.ended(context, &launch_id).await;
                Err(error)
            }
        }
    }

    /// Brings the journal's open launches of this hive in line with what the launcher, or the hive itself, says: one of them
    /// runs, or none.
    async fn close_journal(
        &self,
        context: &Context,
        running: Option<&RunningHive>,
    ) -> Result<(), LaunchError> {
        let journal_error = |source| LaunchError::Journal { hive_id: self.spec.id.clone(), source };
        let is_it = |launch: &LaunchRecord| running.is_some_and(|r| r.launch_id == launch.launch_id);
        let open = context.launches.open(&self.spec.id).await.map_err(journal_error)?;
        for launch in open.iter().filter(|launch| !is_it(launch)) {
            let ended =
                context.launches.advance(&launch.launch_id, LaunchStep::Ended, LaunchFacts::default());
            ended.await.map_err(journal_error)?;
        }
        let is_known = open.iter().any(|launch| is_it(launch) && launch.step == LaunchStep::Healthy);
        if let Some(running) = running.filter(|_| !is_known) {
            // A queen that ended before she could write this down had it started, and its machine may have taken so long for it
            // that the launch was given up.
            let (launch, hive) = (running.launch_id.clone(), self.spec.id.clone());
            context.launches.found(launch, hive, running.into()).await.map_err(journal_error)?;
        }
        Ok(())
    }

    /// The process that has to be stopped, for one that is not at hand. On another machine nothing is asked where nothing was
    /// ever started.
    pub(crate) async fn find_to_stop(
        &self,
        context: &Context,
        within: Duration,
    ) -> Result<Option<RunningHive>, LaunchError> {
        if !self.is_remote() {
            return self.launcher.discover(&self.spec).await;
        }
        let open = context.launches.open(&self.spec.id).await;
        let open = open.map_err(|source| LaunchError::Journal { hive_id: self.spec.id.clone(), source })?;
        if open.is_empty() {
            return Ok(None);
        }
        if let Some(running) = self.answers(context).await {
            return Ok(Some(running));
        }
        let found = timeout(within, self.launcher.discover(&self.spec)).await;
        let found = found.map_err(|_| self.too_late(LaunchStage::Probe, within))??;
        if found.is_none() {
            self.close_journal(context, None).await?;
        }
        Ok(found)
    }

    fn too_late(&self, stage: LaunchStage, within: Duration) -> LaunchError {
        LaunchError::Remote {
            hive_id: self.spec.id.clone(),
            host: self.spec.hostname.clone(),
            stage,
            retry: true,
            source: format!("no answer within {} s", within.as_secs_f32()).into(),
        }
    }

    /// Notes that a launch is over.
    pub(crate) async fn ended(&self, context: &Context, launch: &LaunchId) {
        if let Err(error) = context.launches.advance(launch, LaunchStep::Ended, LaunchFacts::default()).await
        {
            tracing::warn!(hive_id = %self.spec.id, %launch, %error, "the end of a launch could not be recorded");
        }
    }

    /// Asks the hive to stop, waits for its process to end, and ends it by force at the deadline, or when `hurry` ends.
    pub(crate) async fn stop(
        &self,
        context: &Context,
        running: &RunningHive,
        grace: Duration,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), LaunchError> {
        let exited = self.launcher.exited(&self.spec, running);
        let endpoint = self.endpoint(context, running).await;
        let client = context.connections.client(endpoint.clone());
        let deadline = Instant::now() + grace + context.settings.force_after;
        let asked = async {
            if !ask(&client, grace).await {
                return false;
            }
            planted::step("stop-asked");
            if self.is_remote() {
                refuses(&endpoint).await;
                return true;
            }
            std::future::pending().await
        };
        let ended = async {
            tokio::select! {
                _ = exited => true,
                ended = asked => ended,
                () = hurry => false,
            }
        };
        if timeout_at(deadline, ended).await.unwrap_or(false) {
            planted::step("stop-ended");
            self.ended(context, &running.launch_id).await;
            return Ok(());
        }
        let killed = if self.is_remote() {
            // A machine that is off must not hold up a queen that stops.
            let within = KILL.max(deadline.saturating_duration_since(Instant::now()));
            let killed = timeout(within, self.launcher.kill(&self.spec, running)).await;
            killed.map_err(|_| self.too_late(LaunchStage::Connect, within))??
        } else {
            self.launcher.kill(&self.spec, running).await?
        };
        tracing::warn!(hive_id = %self.spec.id, killed, "the hive did not stop by itself and was ended by force");
        self.ended(context, &running.launch_id).await;
        Ok(())
    }
}

/// Ends when nobody listens there any more. A hive that was told to stop closes its port when its last worker has ended.
async fn refuses(endpoint: &HiveEndpoint) {
    loop {
        let connecting = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
        if let Ok(Err(error)) = timeout(ASK_AGAIN, connecting).await
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return;
        }
        sleep(KNOCK).await;
    }
}

/// Whether the hive said that it stops.
async fn ask(client: &HiveClient, grace: Duration) -> bool {
    let grace_ms = u64::try_from(grace.as_millis()).ok();
    match client.shutdown(&ShutdownRequest { grace_ms }).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "the hive could not be asked to stop");
            false
        }
    }
}

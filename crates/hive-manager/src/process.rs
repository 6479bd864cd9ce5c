//! Having a process behind a managed hive: finding the one that runs, starting one, ending it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet::{
    EventKind, HiveEndpoint, HiveId, HiveLauncher, HiveMode, HiveSpec, LaunchError, LaunchFacts, LaunchId,
    LaunchJournal, LaunchObserver, LaunchOrder, LaunchProgress, LaunchStep, ProcessIdentity, RunningHive,
    StoreError,
};
use hive_api::{ShutdownRequest, client::HiveClient};
use journal::Journal;
use tokio::time::{Instant, timeout_at};

use crate::context::Context;

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
    pub(crate) fn endpoint(&self, context: &Context, running: &RunningHive) -> HiveEndpoint {
        HiveEndpoint {
            hive_id: self.spec.id.clone(),
            launch_id: running.launch_id.clone(),
            host: match self.spec.mode {
                HiveMode::Local => self.spec.hostname.on_this_machine(),
                HiveMode::Network => self.spec.hostname.clone(),
            },
            port: running.port,
            token: context.key.token(&running.launch_id),
            pin: running.tls_fingerprint,
        }
    }

    /// The process that runs for this hive, started unless one is there. Finding the one of the launch `known` again is
    /// no adoption.
    ///
    /// The launcher bounds itself, and is never dropped half-way: a process that nobody noted would be an orphan.
    pub(crate) async fn find_or_launch(
        &self,
        context: &Context,
        known: Option<&LaunchId>,
    ) -> Result<RunningHive, LaunchError> {
        if let Some(running) = self.launcher.discover(&self.spec).await? {
            self.close_journal(context, Some(&running.launch_id)).await?;
            if known != Some(&running.launch_id) {
                let launch_id = running.launch_id.clone();
                context.journal.record(EventKind::HiveAdopted { hive_id: self.spec.id.clone(), launch_id });
            }
            return Ok(running);
        }
        self.close_journal(context, None).await?;
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
                context
                    .launches
                    .advance(&launch_id, LaunchStep::Healthy, (&running).into())
                    .await
                    .map_err(journal_error)?;
                planted::step("launch-healthy");
                Ok(running)
            }
            Err(error) => {
                self.ended(context, &launch_id).await;
                Err(error)
            }
        }
    }

    /// Ends the journal's open launches of this hive, but for the one that runs. The launcher has looked for their
    /// processes and found none.
    async fn close_journal(&self, context: &Context, running: Option<&LaunchId>) -> Result<(), LaunchError> {
        let journal_error = |source| LaunchError::Journal { hive_id: self.spec.id.clone(), source };
        for launch in context.launches.open(&self.spec.id).await.map_err(journal_error)? {
            if Some(&launch.launch_id) != running {
                context
                    .launches
                    .advance(&launch.launch_id, LaunchStep::Ended, LaunchFacts::default())
                    .await
                    .map_err(journal_error)?;
            }
        }
        Ok(())
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
        let client = context.connections.client(self.endpoint(context, running));
        let deadline = Instant::now() + grace + context.settings.force_after;
        let refused = async {
            if ask(&client, grace).await {
                planted::step("stop-asked");
                std::future::pending::<()>().await;
            }
        };
        let ended = async {
            tokio::select! {
                _ = exited => true,
                () = refused => false,
                () = hurry => false,
            }
        };
        if timeout_at(deadline, ended).await.unwrap_or(false) {
            planted::step("stop-ended");
            self.ended(context, &running.launch_id).await;
            return Ok(());
        }
        let killed = self.launcher.kill(&self.spec, running).await?;
        tracing::warn!(hive_id = %self.spec.id, killed, "the hive did not stop by itself and was ended by force");
        self.ended(context, &running.launch_id).await;
        Ok(())
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

//! Following one hive's watch stream, and judging its silence.

use std::time::Duration;

use fleet::{HiveEndpoint, HivePhase};
use futures_util::StreamExt;
use hive_api::{
    ErrorCode, WatchEvent,
    client::{ClientError, ClientErrorKind, HiveClient},
};
use registry_ram::{Applied, HiveWriter};
use tokio::time::{Instant, timeout};

use crate::{context::Context, events};

/// Why a watch stream was left.
#[derive(Debug)]
pub(crate) enum Left {
    /// It skipped a revision; a new one begins with a snapshot.
    Gap,
    /// It brought nothing for too long.
    Silent(Duration),
    /// It broke or could not be opened.
    Broke(String),
    /// What answers is another launch than the one that was asked.
    OtherLaunch,
    /// What answers does not keep the contract.
    NotAHive(String),
}

impl Left {
    fn of(error: ClientError) -> Self {
        match error.kind {
            ClientErrorKind::Refused(ref detail) if detail.code == ErrorCode::StaleLaunch => {
                Self::OtherLaunch
            }
            ClientErrorKind::Refused(_)
            | ClientErrorKind::NotAHive { .. }
            | ClientErrorKind::WrongCertificate(_) => Self::NotAHive(error.kind.to_string()),
            ClientErrorKind::Unreachable { .. } | ClientErrorKind::Timeout => {
                Self::Broke(error.kind.to_string())
            }
        }
    }

    /// As a sentence for the owner.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Gap => "it skipped an event".to_owned(),
            Self::Silent(time) => format!("silent for {} s", time.as_secs()),
            Self::Broke(reason) => reason.clone(),
            Self::OtherLaunch => "another launch answers there".to_owned(),
            Self::NotAHive(reason) => format!("not usable as a hive: {reason}"),
        }
    }
}

/// Follows the stream until it has to be left. With the first snapshot the hive is in the phase that `serving` tells.
pub(crate) async fn follow(
    context: &Context,
    writer: &HiveWriter,
    client: &HiveClient,
    serving: impl Fn() -> HivePhase,
) -> Left {
    let mut stream = match client.watch().await {
        Ok(stream) => stream,
        Err(error) => return Left::of(error),
    };
    let launch = &client.endpoint().launch_id;
    let suspect = context.settings.suspect;
    let mut flushed: Option<Instant> = None;
    let mut begun = false;
    loop {
        let event = match timeout(suspect, stream.next()).await {
            Err(_) => return Left::Silent(suspect),
            // What is no event stream at all looks like one without events.
            Ok(None) if !begun => {
                return Left::NotAHive("its watch stream ended before the first snapshot".to_owned());
            }
            Ok(None) => return Left::Broke("it ended its watch stream".to_owned()),
            Ok(Some(Err(error))) => return Left::of(error),
            Ok(Some(Ok(event))) => event,
        };
        if let WatchEvent::Snapshot(snapshot) = &event
            && snapshot.hive_id != *writer.id()
        {
            return Left::NotAHive(format!("it calls itself {}", snapshot.hive_id));
        }
        let is_snapshot = matches!(event, WatchEvent::Snapshot(_));
        let (event_launch, rev) = (event.launch_id().clone(), event.rev());
        let before = context.registry.view();
        match writer.report(&event_launch, rev, events::report(event)) {
            Applied::Yes | Applied::Stale => {}
            Applied::Gap => return Left::Gap,
            Applied::Foreign => return Left::OtherLaunch,
        }
        for change in events::changes(writer.id(), launch, &before, &context.registry.view()) {
            context.journal.record(change);
        }
        if is_snapshot {
            begun = true;
            context.set_phase(writer, serving(), None).await;
        }
        if flushed.is_none_or(|at| at.elapsed() >= context.settings.flush) {
            flushed = Some(Instant::now());
            context.flush(writer.id(), serving()).await;
        }
    }
}

/// Why a probe did not find the hive.
#[derive(Debug)]
pub(crate) enum Probed {
    /// Nobody answers.
    Nobody(String),
    /// The hive does, in another launch.
    OtherLaunch,
    /// Somebody else does.
    NotAHive(String),
}

/// Two probes on fresh connections. `Ok` if the right hive answers one of them.
pub(crate) async fn probe(context: &Context, endpoint: &HiveEndpoint) -> Result<(), Probed> {
    let mut found = Probed::Nobody(String::new());
    for _ in 0..2 {
        let started = Instant::now();
        let health = context.connections.health(&endpoint.host, endpoint.port, endpoint.pin);
        found = match timeout(context.settings.probe, health).await {
            Err(_) => Probed::Nobody("no answer to a probe".to_owned()),
            Ok(Err(error))
                if matches!(
                    error.kind,
                    ClientErrorKind::NotAHive { .. } | ClientErrorKind::WrongCertificate(_)
                ) =>
            {
                Probed::NotAHive(error.kind.to_string())
            }
            Ok(Err(error)) => Probed::Nobody(error.kind.to_string()),
            Ok(Ok(health)) if health.hive_id != endpoint.hive_id => {
                Probed::NotAHive(format!("the hive there calls itself {}", health.hive_id))
            }
            Ok(Ok(health)) if health.launch_id != endpoint.launch_id => Probed::OtherLaunch,
            Ok(Ok(_)) => return Ok(()),
        };
        // A refused connection answers at once; the second probe must not be the same instant over again.
        tokio::time::sleep(context.settings.probe.saturating_sub(started.elapsed())).await;
    }
    Err(found)
}

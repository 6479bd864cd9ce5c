//! Following one hive's watch stream, and judging its silence.

use std::time::Duration;

use fleet::{HiveEndpoint, HivePhase};
use futures_util::{Stream, StreamExt};
use hive_api::{
    ErrorCode, WatchEvent,
    client::{ClientError, ClientErrorKind, HiveClient},
};
use registry_ram::{Applied, HiveWriter};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::{Settings, context::Context, events, moment::Moment};

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

/// What came of following a stream.
pub(crate) struct Followed {
    /// Why it was left.
    pub(crate) left: Left,
    /// Whether it brought something behind its snapshot: one that never does keeps nobody up to date.
    pub(crate) was_kept: bool,
    /// Whether the queen herself was away since it brought something last.
    pub(crate) was_away: bool,
}

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It brought its snapshot.
    Snapshot,
    /// It brought the first thing behind it.
    More,
}

/// Whom a stream tells how far it is, and who says which phase the hive is in then, if that is to be said.
type Tell<'a> = &'a mut (dyn FnMut(Heard) -> Option<HivePhase> + Send);

/// Follows the stream until it has to be left.
pub(crate) async fn follow(
    context: &Context,
    writer: &HiveWriter,
    client: &HiveClient,
    tell: Tell<'_>,
) -> Followed {
    let mut heard = Moment::now();
    let mut far = None;
    let suspect = context.settings.suspect;
    let left = match timeout(suspect, client.watch()).await {
        Ok(Ok(stream)) => read(context, writer, client, stream, (&mut heard, &mut far), tell).await,
        Ok(Err(error)) => Left::of(error),
        Err(_) => Left::Silent(suspect),
    };
    let was_away = heard.was_away(suspect);
    Followed { left, was_kept: far == Some(Heard::More), was_away }
}

async fn read(
    context: &Context,
    writer: &HiveWriter,
    client: &HiveClient,
    mut stream: impl Stream<Item = Result<WatchEvent, ClientError>> + Unpin,
    (heard, far): (&mut Moment, &mut Option<Heard>),
    tell: Tell<'_>,
) -> Left {
    let launch = &client.endpoint().launch_id;
    let suspect = context.settings.suspect;
    *heard = Moment::now();
    loop {
        let event = match timeout_at(heard.at() + suspect, stream.next()).await {
            Err(_) if heard.was_away(suspect) || planted::bug("trusts-silence") => {
                *heard = Moment::now();
                continue;
            }
            Err(_) => return Left::Silent(suspect),
            // What is no event stream at all looks like one without events.
            Ok(None) if far.is_none() => {
                return Left::NotAHive("its watch stream ended before the first snapshot".to_owned());
            }
            Ok(None) => return Left::Broke("it ended its watch stream".to_owned()),
            Ok(Some(Err(error))) => return Left::of(error),
            Ok(Some(Ok(event))) => event,
        };
        *heard = Moment::now();
        if let WatchEvent::Snapshot(snapshot) = &event
            && snapshot.hive_id != *writer.id()
        {
            return Left::NotAHive(format!("it calls itself {}", snapshot.hive_id));
        }
        let now = match (&event, *far) {
            (WatchEvent::Snapshot(_), None) => Some(Heard::Snapshot),
            (_, Some(Heard::Snapshot)) => Some(Heard::More),
            (_, None | Some(Heard::More)) => None,
        };
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
        if let Some(now) = now {
            *far = Some(now);
            if let Some(phase) = tell(now) {
                context.set_phase(writer, phase, None);
                planted::step("adoption-served");
            }
        }
    }
}

/// Below this the way is no longer told from the noise of its measurement, and matters to nobody who waits for an answer.
const NEAR: Duration = Duration::from_millis(20);

/// When the way is measured first: what happens at the start of a launch would disturb it.
const SETTLED: Duration = Duration::from_secs(1);

/// Measures from time to time how long it takes to the hive and back. Never ends.
pub(crate) async fn measure(context: &Context, writer: &HiveWriter, client: &HiveClient) {
    let mut known: Option<Duration> = None;
    sleep(SETTLED.min(context.settings.measure)).await;
    loop {
        let mut shortest: Option<Duration> = None;
        // The first call may open the connection, which takes longer; one that is held up says little of the way.
        for _ in 0..3 {
            let began = Instant::now();
            if client.workers().await.is_err() {
                break;
            }
            let took = began.elapsed();
            shortest = Some(shortest.map_or(took, |shortest| shortest.min(took)));
        }
        if let Some(took) = shortest {
            let smooth = known.map_or(took, |known| if took < known { took } else { (known * 3 + took) / 4 });
            known = Some(smooth);
            writer.round_trip(if smooth < NEAR { Duration::ZERO } else { smooth });
        }
        sleep(context.settings.measure).await;
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

/// Probes that have to fail, or after a flap to succeed, in a row.
const PROBES: u32 = 2;

/// Two probes on fresh connections. `Ok` if the right hive answers one of them. While the queen was away herself, nobody could be
/// heard: whoever is not found then is looked for once more, for as long as a hive may be silent.
pub(crate) async fn probe(context: &Context, endpoint: &HiveEndpoint, was_away: bool) -> Result<(), Probed> {
    let Settings { suspect, probe, .. } = context.settings;
    let mut not_before = Instant::now() + if was_away { suspect } else { Duration::ZERO };
    let mut failed = 0;
    loop {
        let began = Moment::now();
        let Err(found) = probe_once(context, endpoint).await else { return Ok(()) };
        // A refused connection answers at once; the second probe must not be the same instant over again.
        sleep_until(began.at() + probe).await;
        failed += 1;
        if began.was_away(probe) {
            (failed, not_before) = (0, Instant::now() + suspect);
        }
        if failed >= PROBES && Instant::now() >= not_before {
            return Err(found);
        }
    }
}

/// The other way round: both have to find it.
pub(crate) async fn prove(context: &Context, endpoint: &HiveEndpoint) -> Result<(), Probed> {
    for _ in 0..PROBES {
        let began = Instant::now();
        probe_once(context, endpoint).await?;
        sleep_until(began + context.settings.probe).await;
    }
    Ok(())
}

async fn probe_once(context: &Context, endpoint: &HiveEndpoint) -> Result<(), Probed> {
    let health = context.connections.health(&endpoint.host, endpoint.port, endpoint.pin);
    match timeout(context.settings.probe, health).await {
        Err(_) => Err(Probed::Nobody("no answer to a probe".to_owned())),
        Ok(Err(error))
            if matches!(
                error.kind,
                ClientErrorKind::NotAHive { .. } | ClientErrorKind::WrongCertificate(_)
            ) =>
        {
            Err(Probed::NotAHive(error.kind.to_string()))
        }
        Ok(Err(error)) => Err(Probed::Nobody(error.kind.to_string())),
        Ok(Ok(health)) if health.hive_id != endpoint.hive_id => {
            Err(Probed::NotAHive(format!("the hive there calls itself {}", health.hive_id)))
        }
        Ok(Ok(health)) if health.launch_id != endpoint.launch_id => Err(Probed::OtherLaunch),
        Ok(Ok(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests;

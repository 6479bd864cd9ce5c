//! Waiting until a hive is where somebody wants it.

use std::{pin::pin, time::Duration};

use fleet::{EventKind, HiveId, HivePhase};
use futures_util::{Stream, StreamExt};
use queen_api::HiveInfo;
use queen_client::{ClientError, Happening, QueenClient};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::{failure::Failure, screen::Screen, words};

/// How often the hive is looked at, whatever the events say.
const LOOK: Duration = Duration::from_millis(500);

/// A failure from before the request counts once it has outlived it by this long: whoever tries again says so before.
const OUTLIVED: Duration = Duration::from_secs(5);

/// Lines of a hive's log that are shown with its failure.
const LOG_LINES: usize = 12;

/// Where a hive should come to, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) phase: HivePhase,
    pub(crate) within: Duration,
}

impl Goal {
    /// Uploads of engines take their time on slow lines.
    pub(crate) const ONLINE: Self = Self { phase: HivePhase::Online, within: Duration::from_secs(1800) };
    pub(crate) const DRAINING: Self = Self { phase: HivePhase::Draining, within: Duration::from_secs(60) };
    pub(crate) const OFFLINE: Self = Self { phase: HivePhase::Offline, within: Duration::from_secs(120) };
}

/// Follows a hive to its goal, and tells each step on the way. `events` must have been asked for before whatever sets the
/// hive going, so that none is missed.
pub(crate) async fn until(
    queen: &QueenClient,
    events: impl Stream<Item = Result<Happening, ClientError>>,
    id: &HiveId,
    goal: Goal,
    screen: &Screen,
) -> Result<HiveInfo, Failure> {
    let began = Instant::now();
    let mut events = pin!(events);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut followed = true;
    let mut failed = false;
    loop {
        let next = timeout_at(began + goal.within, async {
            tokio::select! {
                event = events.next(), if followed => Some(event),
                _ = looks.tick() => None,
            }
        });
        let Ok(next) = next.await else {
            let seconds = goal.within.as_secs();
            return Err(Failure::Told(format!("hive {id} is not {} after {seconds} s", goal.phase.as_str())));
        };
        match next {
            // The queen stops, or the stream broke: looking goes on and says what is the matter.
            Some(None | Some(Err(_))) => followed = false,
            Some(Some(Ok(happening))) => {
                let phase = show(&happening, id, screen);
                if phase.is_none() {
                    continue;
                }
                failed |= phase.is_some_and(|phase| is_failure(phase, goal));
            }
            None => {}
        }
        let hive = queen.hive(id).await?;
        if hive.phase == goal.phase {
            // The look may be ahead of the event that says so.
            screen.step(goal.phase.as_str());
            return Ok(hive);
        }
        if is_failure(hive.phase, goal) && (failed || began.elapsed() > OUTLIVED) {
            return Err(failure(queen, &hive).await);
        }
    }
}

/// Whether nothing good comes without somebody doing something, or only much later.
fn is_failure(phase: HivePhase, goal: Goal) -> bool {
    match phase {
        HivePhase::Error => true,
        HivePhase::Unreachable => goal.phase != HivePhase::Offline,
        HivePhase::Starting
        | HivePhase::Online
        | HivePhase::Draining
        | HivePhase::Stopping
        | HivePhase::Offline => false,
    }
}

/// Tells an event of this hive; returns the phase that it came to.
fn show(happening: &Happening, id: &HiveId, screen: &Screen) -> Option<HivePhase> {
    let Happening::Event(event) = happening else { return None };
    match &event.kind {
        EventKind::HivePhase { hive_id, phase, reason, .. } if hive_id == id => {
            let reason = reason.as_ref().map(|reason| format!(": {}", words::printable(reason)));
            screen.step(&format!("{}{}", phase.as_str(), reason.unwrap_or_default()));
            Some(*phase)
        }
        EventKind::HiveLaunch { hive_id, progress, .. } if hive_id == id => {
            let line = words::printable(&words::launching(progress));
            if progress.bytes.is_some() {
                screen.amount(&line)
            } else {
                screen.step(&line)
            }
            None
        }
        EventKind::HiveAdopted { hive_id, .. } if hive_id == id => {
            screen.step("a hive that ran already was taken over");
            None
        }
        _ => None,
    }
}

async fn failure(queen: &QueenClient, hive: &HiveInfo) -> Failure {
    let id = &hive.id;
    let reason = hive.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let is = if hive.phase == HivePhase::Error { "in error" } else { hive.phase.as_str() };
    let told = format!(
        "hive {id} is {is}{reason}; it stays registered: `rbee hive start {id}` tries again, `rbee hive rm {id}` forgets it"
    );
    // A log that cannot be read is no news beside the failure.
    let log = queen.logs(&queen_api::LogSource::Hive(id.clone()), LOG_LINES).await.unwrap_or_default();
    Failure::Process { told, log }
}

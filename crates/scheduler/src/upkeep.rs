//! How many workers a model has: those that its owner wants, more while a queue lasts, fewer when it does not.
//!
//! ```text
//!             a queue is worth a start, another hive has room
//!   wanted ───────────────────────────────────────▶ wanted + 1
//!          ◀───────────────────────────────────────
//!             half of the rest's slots do for much longer, or a worker idles
//! ```
//!
//! A queue is worth a start if whoever is last in it is expected to wait for longer than a start takes, as then the new worker still
//! finds somebody waiting. Where that is not so, or not known, it is worth one once it has lasted for as long as a start takes: so
//! never more is paid for starts than twice what somebody who knew the future would pay (Karlin et al., "Competitive
//! Randomized Algorithms for Nonuniform Problems", 1990, the rent-or-buy rule).
//!
//! What is wanted outlives a hive that does not answer: its workers count as there until it has been away for
//! [`UpkeepTimes::lost`], since most come back with all that they had, and are missed from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use fleet::{HiveId, WorkerId};

/// What the owner wants of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelPolicy {
    /// Whether it is loaded whenever the queen runs, asked for or not.
    pub pinned: bool,
    /// From the end of a worker's last request until it is stopped; zero is never.
    pub idle: Duration,
    /// Workers that there always are.
    pub least: u32,
    /// Workers that there are at most.
    pub most: u32,
}

impl ModelPolicy {
    /// Workers that there are, asked for or not.
    #[must_use]
    pub fn floor(&self) -> u32 {
        self.least.max(u32::from(self.pinned)).min(self.most)
    }
}

/// Times that the number of workers is decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepTimes {
    /// How long a hive is away before its workers are missed.
    pub lost: Duration,
    /// How long a queue lasts at least before another worker is worth its start, unless it is expected to outlast the start.
    pub pressed: Duration,
    /// How long a queue lasts before what is expected of it is believed.
    pub sure: Duration,
    /// How long the others must have been enough before one is stopped.
    pub slack: Duration,
    /// Pause after a start that failed; each further failure doubles it.
    pub again: Duration,
    /// The longest such pause.
    pub again_most: Duration,
}

impl Default for UpkeepTimes {
    fn default() -> Self {
        Self {
            lost: Duration::from_secs(60),
            pressed: Duration::from_secs(10),
            sure: Duration::from_secs(1),
            slack: Duration::from_secs(300),
            again: Duration::from_secs(5),
            again_most: Duration::from_secs(300),
        }
    }
}

/// A worker of the model on a hive that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its hive.
    pub hive_id: HiveId,
    /// Which.
    pub worker_id: WorkerId,
    /// Whether it takes requests; otherwise it will soon.
    pub ready: bool,
    /// Whether it stands where those who wait may go.
    pub within_reach: bool,
    /// Its slots.
    pub slots: u32,
    /// Requests under way on it.
    pub in_flight: u32,
    /// Since the last one ended; none while one is under way.
    pub idle: Option<Duration>,
}

/// A model as it stands.
#[derive(Debug, Clone, Default)]
pub struct ModelSeen {
    /// Its workers.
    pub replicas: Vec<Replica>,
    /// Hives that should answer and do not.
    pub away: BTreeSet<HiveId>,
    /// Requests that wait for a slot.
    pub waiting: u32,
    /// How long the last of them is expected to, if that is known.
    pub expected: Option<Duration>,
    /// How long a further worker takes to start, if that is known.
    pub takes: Option<Duration>,
    /// Whether a worker is being brought up already.
    pub starting: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpkeepStep {
    /// Start one more worker.
    Start(StartReason),
    /// Stop this one.
    Stop(Replica, StopReason),
}

/// Why a worker is started though no request waits for its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartReason {
    /// There are fewer than there should be.
    Missing {
        /// How many there are.
        present: u32,
        /// How many there should be.
        wanted: u32,
    },
    /// Requests wait.
    Queue {
        /// How many.
        waiting: u32,
        /// For how long there have been some.
        lasting: Duration,
        /// How long the last one is expected to, if that is known.
        expected: Option<Duration>,
        /// How long the start is expected to take, if that is known.
        takes: Option<Duration>,
    },
}

impl fmt::Display for StartReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { present, wanted } => write!(f, "{present} of {wanted} workers are there"),
            Self::Queue { waiting, lasting, expected, takes } => {
                write!(f, "{waiting} requests wait, and some have for {:.1} s", lasting.as_secs_f64())?;
                if let Some(expected) = expected {
                    write!(f, ", the last one for another {:.1} s", expected.as_secs_f64())?;
                }
                match takes {
                    Some(takes) => write!(f, "; a start takes {:.1} s", takes.as_secs_f64()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Why a worker is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nobody has asked it for so long.
    Idle(Duration),
    /// The others have been enough for so long.
    Slack(Duration),
    /// There are more than there may be.
    Excess,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle(idle) => write!(f, "nobody has asked it for {} s", idle.as_secs()),
            Self::Slack(lasting) => write!(f, "the others have been enough for {} s", lasting.as_secs()),
            Self::Excess => f.write_str("there are more than there may be"),
        }
    }
}

/// What is remembered of one model.
#[derive(Debug, Clone, Default)]
pub struct Upkeep {
    /// Workers that there should be, once there are more than one or the owner wants some.
    wanted: u32,
    /// Where its workers were when their hive last answered, how many, and when.
    homes: BTreeMap<HiveId, (u32, Duration)>,
    pressed_since: Option<Duration>,
    slack_since: Option<Duration>,
    /// When a start may be tried again, and the pause that led there.
    again: Option<(Duration, Duration)>,
}

impl Upkeep {
    /// What is to be done at `now`, which never goes back. At most one start at a time; who is told to stop is idle.
    pub fn look(
        &mut self,
        policy: &ModelPolicy,
        times: &UpkeepTimes,
        seen: &ModelSeen,
        now: Duration,
    ) -> Vec<UpkeepStep> {
        let here = count(seen.replicas.len());
        let present = here + self.lost(times, seen, now);
        let floor = policy.floor();
        self.wanted = self.wanted.max(present).clamp(floor, policy.most.max(floor));
        let mut steps = self.stops(policy, times, seen, now);
        if steps.is_empty() {
            steps.extend(self.start(policy, times, seen, present, now).map(UpkeepStep::Start));
        }
        steps
    }

    /// A start that was asked for did not lead to a worker.
    pub fn failed(&mut self, times: &UpkeepTimes, now: Duration) {
        let pause = self.again.map_or(times.again, |(_, pause)| pause.saturating_mul(2));
        let pause = pause.min(times.again_most);
        self.again = Some((now + pause, pause));
        self.let_go();
    }

    /// A start led to a worker.
    pub const fn started(&mut self) {
        self.again = None;
    }

    /// One fewer will do: somebody else needed its place, or there was none for it.
    pub const fn let_go(&mut self) {
        self.wanted = self.wanted.saturating_sub(1);
    }

    /// Whether there is nothing to remember.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty() && self.again.is_none()
    }

    /// Workers that still count though their hive does not answer.
    fn lost(&mut self, times: &UpkeepTimes, seen: &ModelSeen, now: Duration) -> u32 {
        self.homes.retain(|hive, (_, at)| seen.away.contains(hive) && now.saturating_sub(*at) < times.lost);
        let lost = self.homes.values().map(|(workers, _)| *workers).sum();
        for replica in seen.replicas.iter().filter(|replica| replica.ready) {
            let home = self.homes.entry(replica.hive_id.clone()).or_insert((0, now));
            *home = (home.0 + 1, now);
        }
        lost
    }

    fn stops(
        &mut self,
        policy: &ModelPolicy,
        times: &UpkeepTimes,
        seen: &ModelSeen,
        now: Duration,
    ) -> Vec<UpkeepStep> {
        let mut here = count(seen.replicas.len());
        let mut unused: Vec<_> = seen.replicas.iter().filter(|replica| replica.ready).collect();
        unused.retain(|replica| replica.in_flight == 0 && replica.idle.is_some());
        unused.sort_by(|a, b| b.idle.cmp(&a.idle).then(a.worker_id.cmp(&b.worker_id)));
        let mut steps = Vec::new();
        for replica in &unused {
            let idle = replica.idle.filter(|idle| !policy.idle.is_zero() && *idle >= policy.idle);
            let reason = match idle {
                _ if here > policy.most.max(policy.floor()) => StopReason::Excess,
                Some(idle) if here > policy.floor() => StopReason::Idle(idle),
                _ => continue,
            };
            here -= 1;
            steps.push(UpkeepStep::Stop((*replica).clone(), reason));
        }
        let lasting = self.slack(policy, seen, now);
        if steps.is_empty()
            && let Some(lasting) = lasting.filter(|lasting| *lasting >= times.slack.max(takes(seen)))
            && let Some(replica) = unused.first()
        {
            self.slack_since = None;
            steps.push(UpkeepStep::Stop((*replica).clone(), StopReason::Slack(lasting)));
        }
        self.wanted = self.wanted.saturating_sub(count(steps.len()));
        steps
    }

    /// For how long one worker fewer would have been more than enough.
    fn slack(&mut self, policy: &ModelPolicy, seen: &ModelSeen, now: Duration) -> Option<Duration> {
        let load: u32 = seen.replicas.iter().map(|replica| replica.in_flight).sum();
        let slots: u32 = seen.replicas.iter().map(|replica| replica.slots).sum();
        let largest = seen.replicas.iter().map(|replica| replica.slots).max().unwrap_or(0);
        let here = count(seen.replicas.len());
        let settled = !seen.starting && seen.replicas.iter().all(|replica| replica.ready);
        let enough = settled && seen.waiting == 0 && load.saturating_mul(2) <= slots - largest;
        if !enough || here < 2 || here <= policy.floor() {
            self.slack_since = None;
            return None;
        }
        Some(now.saturating_sub(*self.slack_since.get_or_insert(now)))
    }

    fn start(
        &mut self,
        policy: &ModelPolicy,
        times: &UpkeepTimes,
        seen: &ModelSeen,
        present: u32,
        now: Duration,
    ) -> Option<StartReason> {
        let settled = !seen.starting && seen.replicas.iter().all(|replica| replica.ready);
        let mut reached = seen.replicas.iter().filter(|replica| replica.within_reach).peekable();
        // Whoever has none within reach starts one himself.
        let some = reached.peek().is_some();
        let full = some && reached.all(|replica| replica.in_flight >= replica.slots);
        let pressed = settled && full && seen.waiting > 0;
        if !pressed {
            self.pressed_since = None;
        }
        let since = pressed.then(|| *self.pressed_since.get_or_insert(now));
        if !settled || self.again.is_some_and(|(at, _)| now < at) {
            return None;
        }
        // One worker that nobody insists on is started by whoever asks for it.
        let wanted = if policy.floor() == 0 && self.wanted < 2 { 0 } else { self.wanted };
        if present < wanted {
            return Some(StartReason::Missing { present, wanted });
        }
        let lasting = now.saturating_sub(since?);
        if !is_worth_a_start(times, seen, lasting) || present >= policy.most {
            return None;
        }
        self.pressed_since = None;
        self.wanted = present + 1;
        let ModelSeen { waiting, expected, takes, .. } = *seen;
        Some(StartReason::Queue { waiting, lasting, expected, takes })
    }
}

/// How long a start takes, where that is known.
fn takes(seen: &ModelSeen) -> Duration {
    seen.takes.unwrap_or_default()
}

/// Whether a queue that has lasted for so long is worth a further worker.
fn is_worth_a_start(times: &UpkeepTimes, seen: &ModelSeen, lasting: Duration) -> bool {
    let outlasts = seen.expected.zip(seen.takes).is_some_and(|(expected, takes)| expected > takes);
    lasting >= times.pressed.max(takes(seen)) || (outlasts && lasting >= times.sure)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

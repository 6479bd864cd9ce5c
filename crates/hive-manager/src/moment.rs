//! Whether the queen herself was away: a process that was stopped, or a machine that slept, hears nothing of anybody.
//!
//! Two clocks tell. One that runs on while a process is stopped shows it by the time at which a wait ends, which is then far
//! behind its end. While the whole machine sleeps that clock stands still; the time since boot does not, on Linux.

use std::time::Duration;

use tokio::time::Instant;

/// How late a wait may end on a busy machine. Whoever is later did not run, and judges nobody by that time.
const LATE: Duration = Duration::from_secs(1);

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: Instant,
    asleep: Duration,
}

impl Moment {
    /// Now.
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), asleep: asleep() }
    }

    /// On the clock that stands still while the machine sleeps.
    pub(crate) const fn at(self) -> Instant {
        self.at
    }

    /// Whether the queen was away for a part of the time since then, of which `awaited` was to pass.
    pub(crate) fn was_away(self, awaited: Duration) -> bool {
        self.was_away_until(Self::now(), awaited)
    }

    fn was_away_until(self, now: Self, awaited: Duration) -> bool {
        let late = now.at.saturating_duration_since(self.at + awaited);
        late.max(now.asleep.saturating_sub(self.asleep)) > LATE
    }
}

/// How long the machine has slept since it was started.
#[cfg(target_os = "linux")]
fn asleep() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    let read = |clock| {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
        Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
    };
    // In this order what passes between the two does not look like sleep that was taken back.
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}

#[cfg(not(target_os = "linux"))]
const fn asleep() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32, asleep: u32) -> impl Fn(Instant) -> Moment {
        move |start| Moment { at: start + SECOND * seconds, asleep: SECOND * asleep }
    }

    #[test]
    fn a_process_that_was_stopped_and_a_machine_that_slept_were_away() {
        let start = Instant::now();
        let then = at(0, 5)(start);
        for (now, was_away) in [
            (at(3, 5), false),
            (at(4, 5), false),
            (at(5, 5), true),
            (at(60, 5), true),
            (at(1, 65), true),
            (at(3, 6), false),
        ] {
            assert_eq!(then.was_away_until(now(start), SECOND * 3), was_away, "{:?}", now(start));
        }
    }

    #[test]
    fn nobody_is_away_who_only_looks_twice() {
        let then = Moment::now();
        assert!(!then.was_away(SECOND * 600));
    }
}

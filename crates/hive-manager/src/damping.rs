//! A hive that comes and goes is believed less each time it comes.
//!
//! ```text
//!   steady ──lost──▶ lost once ──back, lost soon──▶ flapping(n): held back for 1 s · 2ⁿ, at most 60 s, then two probes
//!     ▲                 │                                │
//!     └── served long ──┴────────────────────────────────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// A hive that served this long since it came back is steady again, as is one that served for as long as it was held back.
const STEADY: Duration = Duration::from_secs(60);

/// How long a hive is held back that was lost a second time.
const PENALTY: Duration = Duration::from_secs(1);

/// The longest that a hive is held back.
const PENALTY_MAX: Duration = Duration::from_secs(60);

/// What a hive's losses cost it.
#[derive(Debug, Default)]
pub(crate) struct Damping {
    /// Losses since it was steady.
    losses: u32,
    /// Since when it serves; none while it does not.
    serves: Option<Instant>,
    /// Until when it is held back.
    held: Option<Instant>,
}

/// What stands between a hive that flapped and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// How often it was lost, each time soon after it had come back.
    pub(crate) losses: u32,
    /// Not before this.
    pub(crate) until: Instant,
}

impl Damping {
    /// The hive takes requests.
    pub(crate) fn serves(&mut self, now: Instant) {
        self.serves.get_or_insert(now);
    }

    /// The hive takes no requests any more, and nobody wanted that. One that took none has nothing to lose.
    pub(crate) fn lost(&mut self, now: Instant) {
        let Some(since) = self.serves.take() else { return };
        if now.saturating_duration_since(since) >= STEADY.max(self.penalty()) {
            self.losses = 0;
        }
        self.losses = self.losses.saturating_add(1);
        self.held = Some(now + self.penalty());
    }

    /// Whether it takes requests.
    pub(crate) const fn is_serving(&self) -> bool {
        self.serves.is_some()
    }

    /// What it has to pass before it takes requests again; nothing after a single loss.
    pub(crate) fn held(&self) -> Option<Held> {
        self.held
            .filter(|_| self.losses > 1 && !self.is_serving())
            .map(|until| Held { losses: self.losses, until })
    }

    fn penalty(&self) -> Duration {
        match self.losses.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => (PENALTY * 2_u32.saturating_pow(doublings.min(16))).min(PENALTY_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Serves for so long, is lost, and tells how long it is held back.
    fn cycle(damping: &mut Damping, now: &mut Instant, served: Duration) -> Duration {
        damping.serves(*now);
        *now += served;
        damping.lost(*now);
        damping.held().map_or(Duration::ZERO, |held| held.until - *now)
    }

    #[test]
    fn the_first_loss_is_free_and_each_further_one_costs_twice_as_much_up_to_a_minute() {
        let (mut damping, mut now) = (Damping::default(), Instant::now());
        let held: Vec<u64> = (0..10).map(|_| cycle(&mut damping, &mut now, SECOND).as_secs()).collect();
        assert_eq!(held, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(damping.held().map(|held| held.losses), Some(10));
    }

    #[test]
    fn a_hive_that_served_for_a_minute_is_steady_again() {
        let (mut damping, mut now) = (Damping::default(), Instant::now());
        for _ in 0..4 {
            cycle(&mut damping, &mut now, SECOND);
        }
        assert_eq!(cycle(&mut damping, &mut now, STEADY), Duration::ZERO);
        assert_eq!(damping.held(), None);
        assert_eq!(cycle(&mut damping, &mut now, SECOND), PENALTY);
    }

    #[test]
    fn nothing_holds_a_hive_that_serves() {
        let (mut damping, mut now) = (Damping::default(), Instant::now());
        for _ in 0..4 {
            cycle(&mut damping, &mut now, SECOND);
        }
        damping.serves(now);
        assert_eq!(damping.held(), None);
    }

    #[test]
    fn what_never_served_is_not_lost_again() {
        let (mut damping, mut now) = (Damping::default(), Instant::now());
        cycle(&mut damping, &mut now, SECOND);
        for _ in 0..100 {
            now += SECOND;
            damping.lost(now);
        }
        assert_eq!(damping.held(), None, "a machine that is off for long does not flap");
    }
}

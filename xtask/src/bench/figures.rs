//! Many measurements of one thing.

use std::time::Duration;

/// Values in one unit, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures(Vec<f64>);

impl Figures {
    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1000.0);
    }

    #[expect(clippy::cast_precision_loss, reason = "memory is shown in tenths of a mebibyte")]
    pub(super) fn add_kib(&mut self, kib: u64) {
        self.0.push(kib as f64);
    }

    pub(super) fn p50(&self) -> f64 {
        self.part(50)
    }

    pub(super) fn p99(&self) -> f64 {
        self.part(99)
    }

    /// The smallest value that so many of a hundred do not exceed (nearest rank).
    fn part(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_values_that_were_measured() {
        let mut figures = Figures::default();
        for milliseconds in (1..=10).rev() {
            figures.add(Duration::from_millis(milliseconds));
        }
        assert_eq!((figures.p50(), figures.p99()), (5.0, 10.0));
        assert!(Figures::default().p50().is_nan());
    }
}

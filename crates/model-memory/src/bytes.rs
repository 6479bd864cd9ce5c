//! Sizes for people.

use std::fmt;

/// A size in bytes, shown in the unit that suits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gib(pub u64);

impl fmt::Display for Gib {
    #[expect(clippy::cast_precision_loss, reason = "one decimal place is shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            small if small < 1 << 20 => write!(f, "{} KiB", small >> 10),
            medium if medium < 1 << 30 => write!(f, "{:.1} MiB", medium as f64 / f64::from(1 << 20)),
            large => write!(f, "{:.1} GiB", large as f64 / f64::from(1 << 30)),
        }
    }
}

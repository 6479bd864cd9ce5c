//! How many tests passed, failed and did not run.

use std::{fmt, ops::AddAssign};

use crate::cluster::Summary;

/// The closing line of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Counts {
    /// What a step that could not be finished comes to.
    pub(crate) const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };

    pub(crate) const fn passed(passed: usize) -> Self {
        Self { passed, failed: 0, skipped: 0 }
    }

    /// Reads a line of libtest: `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for part in rest.split(';') {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let slot = match what {
                "passed" => &mut counts.passed,
                "failed" => &mut counts.failed,
                "ignored" => &mut counts.skipped,
                _ => continue,
            };
            *slot = number.parse().ok()?;
        }
        Some(counts)
    }
}

impl From<Summary> for Counts {
    fn from(Summary { passed, failed, .. }: Summary) -> Self {
        Self { passed, failed, skipped: 0 }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_libtest_is_read() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        let counts = Counts { passed: 3, failed: 1, skipped: 2 };
        assert_eq!(Counts::of_line(line), Some(counts));
        assert_eq!(counts.to_string(), "3 passed, 1 failed, 2 skipped");
        assert_eq!(Counts::passed(2).to_string(), "2 passed, 0 failed");
        assert_eq!(Counts::of_line("test a ... ok"), None);
    }
}

//! What came of the scenarios: a line for each, a table at the end.

use std::{path::PathBuf, time::Duration};

use crate::workspace;

/// What came of one scenario.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    /// The line that plays it again.
    pub(crate) again: String,
    pub(crate) took: Duration,
    pub(crate) requests: usize,
    pub(crate) faults: usize,
    /// What it measured.
    pub(crate) figures: Vec<String>,
    /// Why it failed, if it did: what the scenario says itself, then what the checker found.
    pub(crate) failures: Vec<String>,
    /// Where its logs are, if they were kept.
    pub(crate) folder: PathBuf,
}

impl Outcome {
    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// One line, and for a failure everything that is needed to look into it.
    pub(crate) fn print(&self) {
        let verdict = if self.passed() { "ok  " } else { "FAIL" };
        let seconds = self.took.as_secs_f64();
        println!("  {verdict} {:<38} {seconds:>6.1} s {:>5} requests", self.name, self.requests);
        for figure in &self.figures {
            println!("       {figure}");
        }
        if self.passed() {
            return;
        }
        for failure in &self.failures {
            println!("       {}", failure.replace('\n', "\n         "));
        }
        println!("       logs:  {}", workspace::shown(&self.folder.join("logs")));
        println!("       again: {}", self.again);
    }
}

/// The table at the end.
pub(crate) fn print_table(outcomes: &[Outcome], took: Duration) {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    println!();
    println!("  scenarios        {:>7}   {failed} failed", outcomes.len());
    println!("  requests         {:>7}", sum(|o| o.requests));
    println!("  faults injected  {:>7}", sum(|o| o.faults));
    println!("  violations       {:>7}", sum(|o| o.failures.len()));
    if let Some(slowest) = outcomes.iter().max_by_key(|outcome| outcome.took) {
        println!("  slowest          {:>5.1} s   {}", slowest.took.as_secs_f64(), slowest.name);
    }
    println!("  in all           {:>5.1} s", took.as_secs_f64());
}

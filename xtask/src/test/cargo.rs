//! What cargo's own test runner runs.
//!
//! Always `cargo test`, never another runner where one is installed: it is there with every toolchain, it runs the
//! examples in the documentation too, and one way of running tests is one that is always tried.

use std::time::Duration;

use anyhow::ensure;

use super::{Counts, needs};
use crate::{ci::ENGINE, command::Command, stop::Stop};

/// The variable that tells tests which have a long form to take it.
const WHICH: &str = "RBEE_TESTS";

/// How long tests that are built already may take, and building them with it.
const BOUND: Duration = Duration::from_secs(40 * 60);

/// The modules that hold every test which needs something of the system, in whatever package it is.
const WITH: &[(&str, &str)] = &[(needs::SSHD, "with_sshd::"), (needs::LSOF, "with_lsof::")];

/// Unit tests, integration tests and documentation of everything but the engine, and but what needs what is `missing`.
pub(super) async fn everyday(full: bool, missing: &[&str], stop: &Stop) -> anyhow::Result<Counts> {
    let tests = Command::cargo().args(["test", "--workspace", "--exclude", ENGINE, "--no-fail-fast"]);
    let tests = tests.args(["--", "--show-output"]);
    let skipped: Vec<_> = WITH.iter().filter(|(need, _)| missing.contains(need)).collect();
    let tests = skipped.iter().fold(tests, |tests, (_, module)| tests.args(["--skip", module]));
    let mut counts = counted(if full { tests.env(WHICH, "full") } else { tests }, stop).await?;
    counts.skipped += skipped.len();
    Ok(counts)
}

/// The built-in worker's tests, in the one profile that the engine is built in.
pub(super) async fn engine(stop: &Stop) -> anyhow::Result<Counts> {
    counted(
        Command::cargo().args(["test", "--profile", "engine", "--package", ENGINE, "--no-fail-fast"]),
        stop,
    )
    .await
}

async fn counted(command: Command, stop: &Stop) -> anyhow::Result<Counts> {
    let shown = command.shown();
    let (mut counts, mut part) = (Counts::default(), Part::Progress);
    let status = command
        .within(BOUND)
        .lines(
            stop,
            Some(|line: &str| {
                if let Some(more) = Counts::of_line(line) {
                    counts += more;
                }
                part = part.after(line);
                if let Some(shown) = part.shown(line) {
                    println!("{shown}");
                }
            }),
        )
        .await?;
    println!("   {counts}");
    ensure!(status.success() || counts.failed > 0, "`{shown}` failed: {status}");
    ensure!(counts.passed + counts.failed > 0, "`{shown}` ran no test");
    Ok(counts)
}

/// What a test that passed has measured begins with this.
const FIGURE: &str = "figure: ";

/// The part of libtest's report that a line belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A line for each test, and around them what cargo and the tests' programs say.
    Progress,
    /// What the tests wrote that passed.
    Successes,
}

impl Part {
    fn after(self, line: &str) -> Self {
        match line {
            "successes:" => Self::Successes,
            "failures:" => Self::Progress,
            _ if line.starts_with("test result: ") => Self::Progress,
            _ => self,
        }
    }

    /// Failures with all that they say, and figures; not each test that passed.
    fn shown(self, line: &str) -> Option<String> {
        if self == Self::Successes {
            return line.strip_prefix(FIGURE).map(|figure| format!("   {figure}"));
        }
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        let frame = line.is_empty() || line.starts_with("running ") || line.starts_with("test result: ok");
        (!passed && !frame).then(|| line.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_not_shown_and_what_failed_or_was_measured_is() {
        let report = "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED\n\nsuccesses:\n\n---- a::b stdout ----\n\
                      trying\nfigure: 0 of 9 were lost\n\n\nsuccesses:\n    a::b\n\nfailures:\n\n---- a::c stdout ----\n\
                      thread 'a::c' panicked at src/a.rs:1:1:\n\nfailures:\n    a::c\n\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored\nwarning: something";
        let mut part = Part::Progress;
        let lines = report.lines().filter_map(|line| {
            part = part.after(line);
            part.shown(line)
        });
        let expected = [
            "test a::c ... FAILED",
            "   0 of 9 were lost",
            "failures:",
            "---- a::c stdout ----",
            "thread 'a::c' panicked at src/a.rs:1:1:",
            "failures:",
            "    a::c",
            "warning: something",
        ];
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }
}

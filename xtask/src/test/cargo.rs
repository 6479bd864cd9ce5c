//! What cargo's own test runner runs.
//!
//! Always `cargo test`, never another runner where one is installed: it is there with every toolchain, it runs the
//! examples in the documentation too, and one way of running tests is one that is always tried.

use std::time::Duration;

use anyhow::ensure;

use super::Counts;
use crate::{ci::ENGINE, command::Command, stop::Stop};

/// The variable that tells tests which have a long form to take it.
const WHICH: &str = "RBEE_TESTS";

/// How long tests that are built already may take, and building them with it.
const BOUND: Duration = Duration::from_secs(40 * 60);

/// The module that holds every test which needs the system's `sshd`, in whatever package it is.
const WITH_SSHD: &str = "with_sshd::";

/// Unit tests, integration tests and documentation of everything but the engine.
pub(super) async fn everyday(full: bool, has_sshd: bool, stop: &Stop) -> anyhow::Result<Counts> {
    let tests = Command::cargo().args(["test", "--workspace", "--exclude", ENGINE, "--no-fail-fast"]);
    let tests = if has_sshd { tests } else { tests.args(["--", "--skip", WITH_SSHD]) };
    counted(if full { tests.env(WHICH, "full") } else { tests }, stop).await
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
    let mut counts = Counts::default();
    let status = command
        .within(BOUND)
        .lines(
            stop,
            Some(|line: &str| {
                if let Some(more) = Counts::of_line(line) {
                    counts += more;
                }
                if is_worth_showing(line) {
                    println!("{line}");
                }
            }),
        )
        .await?;
    println!("   {counts}");
    ensure!(status.success() || counts.failed > 0, "`{shown}` failed: {status}");
    ensure!(counts.passed + counts.failed > 0, "`{shown}` ran no test");
    Ok(counts)
}

/// Failures with all that they say; not each test that passed.
fn is_worth_showing(line: &str) -> bool {
    let passed = line.starts_with("test ") && line.ends_with(" ... ok");
    let frame = line.is_empty() || line.starts_with("running ") || line.starts_with("test result: ok");
    !passed && !frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_not_shown_and_what_failed_is() {
        assert!(!is_worth_showing("test a::b ... ok"));
        assert!(!is_worth_showing("test result: ok. 1 passed; 0 failed; 0 ignored"));
        assert!(is_worth_showing("test a::b ... FAILED"));
        assert!(is_worth_showing("thread 'a::b' panicked at src/a.rs:1:1:"));
    }
}

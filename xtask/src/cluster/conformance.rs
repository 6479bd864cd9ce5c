//! The contract's own checks, against any hive.

use std::path::Path;

use anyhow::Context as _;

use crate::{command::Command, stop::Stop};

/// Runs them; they print one line each. They are a program of their own, so that this one stays small.
pub(super) async fn check(
    hive: &str,
    token_file: &Path,
    model: Option<&str>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let token_file =
        token_file.canonicalize().with_context(|| format!("could not find {}", token_file.display()))?;
    let command = Command::cargo()
        .args(["run", "--quiet", "--package", "hive-conformance", "--example", "check", "--", hive])
        .arg(token_file);
    command.args(model).run(stop).await
}

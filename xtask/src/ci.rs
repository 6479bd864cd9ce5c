//! `cargo xtask ci`: everything that must hold before a change is taken.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;

use crate::{
    command::Command,
    step::Steps,
    stop::Stop,
    test::{self, Counts},
    tidy, workspace,
};

/// The one package outside of everyday builds: it carries an inference engine.
pub(crate) const ENGINE: &str = "llm-worker-rbee";

/// Runs all of it, whatever fails on the way, and ends with the counts of the tests.
pub(crate) async fn run(stop: &Stop) -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.step("format", Command::cargo().args(["fmt", "--all", "--check"]).run(stop)).await?;
    steps.step("tidy", async { tidy::run() }).await?;
    let everyday = ["--workspace", "--exclude", ENGINE];
    let clippy = Command::cargo().arg("clippy").args(everyday).args(["--all-targets", "--all-features"]);
    steps.step("lints", clippy.args(["--", "-D", "warnings"]).run(stop)).await?;
    let docs = Command::cargo().arg("doc").args(everyday).args(["--no-deps", "--document-private-items"]);
    steps.step("documentation", docs.env("RUSTDOCFLAGS", "-D warnings").run(stop)).await?;
    steps.step("dependencies", dependencies(stop)).await?;
    let options = test::Options { ci: true, install: true, full: false, only: None };
    let counts = test::steps(&options, &mut steps, stop).await?;
    finish(&steps, counts)
}

/// Prints what was done and the counts, which come last because machines read them there.
pub(crate) fn finish(steps: &Steps, counts: Counts) -> anyhow::Result<()> {
    steps.print();
    println!();
    println!("{counts}");
    let failed = steps.failed();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    ensure!(counts.failed == 0, "not every test passed");
    Ok(())
}

/// Licences, sources and bans of all packages; advisories want a repository and are asked where one is reachable.
async fn dependencies(stop: &Stop) -> anyhow::Result<()> {
    let program = cargo_deny(stop).await?;
    // For every platform, which is more than was built; from here on no network is needed.
    Command::cargo().args(["fetch", "--locked", "--quiet"]).run(stop).await?;
    let check = ["check", "--hide-inclusion-graph"];
    let everyday = ["--offline", "--all-features", "--exclude", ENGINE];
    Command::new(&program).args(everyday).args(check).arg("bans").run(stop).await?;
    let all = Command::new(&program).args(["--offline", "--all-features"]).args(check);
    all.args(["licenses", "sources"]).run(stop).await
}

async fn cargo_deny(stop: &Stop) -> anyhow::Result<PathBuf> {
    let tools = workspace::target().join("tools");
    let ours = tools.join("bin/cargo-deny");
    if let Some(found) = workspace::on_path("cargo-deny").or_else(|| ours.exists().then(|| ours.clone())) {
        return Ok(found);
    }
    println!("   cargo-deny is installed into {} once; that takes about 5 minutes", workspace::shown(&tools));
    let install =
        Command::cargo().args(["install", "cargo-deny", "--locked", "--quiet", "--root"]).arg(&tools);
    install.arg("--target-dir").arg(tools.join("build")).within(Duration::from_secs(1800)).run(stop).await?;
    Ok(ours)
}

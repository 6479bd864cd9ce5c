//! The examples of the crates, run as their first lines say.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Counts;
use crate::{
    cluster::FakeHive,
    command::Command,
    programs::{self, Profile},
    stop::Stop,
    workspace,
};

/// How each example is called. `{folder}` stands for an empty folder, `{hive}` and `{token}` for address and token file of a
/// fake hive that runs.
const CALLS: &[(&str, &str, &[&str])] = &[
    ("hive-api", "ask", &["{hive}", "{token}"]),
    ("hive-conformance", "check", &["{hive}", "{token}"]),
    ("registry-sqlite", "standalone", &["{folder}", "box", "192.168.1.100"]),
    ("tiny-model", "write", &["{folder}/tiny.gguf"]),
];

/// Runs them all. One that is not in the table fails, so that none is forgotten.
pub(super) async fn run(stop: &Stop) -> anyhow::Result<Counts> {
    programs::build(Profile::Dev, &["fake-hive"], stop).await?;
    let folder = workspace::target().join("test-examples");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let mut hive = FakeHive::start("example", &folder, &folder, &json!({})).await?;
    let counts = stop.unless(all(&folder, &hive, stop)).await;
    hive.stop().await?;
    let counts = counts?;
    if counts.failed == 0 {
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(counts)
}

async fn all(folder: &Path, hive: &FakeHive, stop: &Stop) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    for (package, example) in listed(stop).await? {
        match one(&package, &example, folder, hive, stop).await {
            Ok(()) => counts.passed += 1,
            Err(error) if stop.was_asked() => return Err(error),
            Err(error) => {
                println!("   {package} {example}: {error:#}");
                counts.failed += 1;
            }
        }
    }
    ensure!(
        counts.passed + counts.failed >= CALLS.len(),
        "an example of the table in xtask is not there any more"
    );
    Ok(counts)
}

/// Package and name of every example.
async fn listed(stop: &Stop) -> anyhow::Result<Vec<(String, String)>> {
    let metadata =
        Command::cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output(stop).await?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut examples = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in
            package["targets"].as_array().into_iter().flatten().filter(|t| t["kind"][0] == "example")
        {
            examples.push((text(&package["name"]), text(&target["name"])));
        }
    }
    Ok(examples)
}

async fn one(
    package: &str,
    example: &str,
    folder: &Path,
    hive: &FakeHive,
    stop: &Stop,
) -> anyhow::Result<()> {
    let call = CALLS.iter().find(|(owner, name, _)| (*owner, *name) == (package, example));
    let (_, _, args) = call.context("say in xtask/src/test/examples.rs how it is called")?;
    let own = folder.join(example);
    std::fs::create_dir_all(&own)?;
    let address = format!("http://127.0.0.1:{}", hive.port);
    let token = hive.data_dir.join("token");
    let fill = |arg: &&str| {
        arg.replace("{folder}", &own.display().to_string())
            .replace("{hive}", &address)
            .replace("{token}", &token.display().to_string())
    };
    let run = Command::cargo().args(["run", "--quiet", "--package", package, "--example", example, "--"]);
    run.args(args.iter().map(fill)).within(Duration::from_secs(600)).output(stop).await.map(drop)
}

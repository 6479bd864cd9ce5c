//! The examples of the crates, run as their first lines say.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use throwaway_sshd::Sshd;

use super::Counts;
use crate::{
    cluster::{self, Cluster, FakeHive, Kit, Plan},
    command::Command,
    programs::{self, Profile},
    stop::Stop,
    workspace,
};

/// How examples are called that want arguments. `{folder}` stands for an empty folder, `{hive}` and `{token}` for address
/// and token file of a hive that has no queen, `{queen}` for the address of a queen that has another.
const CALLS: &[(&str, &str, &[&str])] = &[
    ("hive-api", "ask_hive", &["{hive}", "{token}"]),
    ("hive-conformance", "check", &["{hive}", "{token}", "hf:fake/alpha"]),
    ("queen-client", "ask", &["Tell me a story.", "hf:fake/alpha", "{queen}"]),
    ("registry-sqlite", "standalone", &["{folder}", "box", "192.168.1.100"]),
    ("tiny-model", "write", &["{folder}/tiny.gguf"]),
];

/// Runs them all.
pub(super) async fn run(stop: &Stop) -> anyhow::Result<Counts> {
    programs::build(Profile::Dev, &["queen-rbee", "fake-hive", "rbee-hive"], stop).await?;
    let folder = workspace::target().join("test-examples");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let counts = async {
        let counts = beside_a_fleet(&folder, stop).await?;
        // That there is none is said where what this machine has is looked at.
        if throwaway_sshd::program().is_some() {
            stop.unless(on_another_machine(&folder, stop)).await.context("start_hive")?;
        }
        anyhow::Ok(counts)
    };
    let counts = counts.await;
    // What could not be started or ended whole left its part to this.
    let left = cluster::sweep(&folder).await;
    let counts = counts?;
    ensure!(left.is_empty(), "{}", left.join("\n"));
    if counts.failed == 0 {
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(counts)
}

async fn beside_a_fleet(folder: &Path, stop: &Stop) -> anyhow::Result<Counts> {
    let plan = Plan { hives: 1, workers_per_hive: 4, seed: 1, ..Plan::default() };
    let mut fleet = Cluster::start(&folder.join("fleet"), plan).await?;
    let mut alone = FakeHive::start("alone", folder, &json!({}), &Kit::default()).await?;
    let counts = stop.unless(all(folder, &fleet, &alone, stop)).await;
    alone.stop().await?;
    let violations = cluster::end(&mut fleet).await;
    let counts = counts?;
    ensure!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(counts)
}

/// A hive is brought to a machine that knows nothing, answers there, and is taken away again with all that it brought.
async fn on_another_machine(folder: &Path, stop: &Stop) -> anyhow::Result<()> {
    let sshd = Sshd::start(&[])?;
    let (key, known, dir) = (sshd.client_key(), sshd.known_hosts(), folder.join("box"));
    sshd.trust(&sshd.host_key()?)?;
    let host = format!("127.0.0.1:{}", sshd.port());
    let hive = Profile::Dev.program("rbee-hive");
    let paths = [("--hive", &hive), ("--key", &key), ("--known-hosts", &known), ("--dir", &dir)];
    let ask = |last: &'static [&'static str]| {
        let run =
            Command::cargo().args(["run", "--quiet", "-p", "ssh-lifecycle", "--example", "start_hive", "--"]);
        let run = run.args([host.clone()]);
        let run =
            paths.iter().fold(run, |run, (flag, path)| run.args([*flag]).args([path.display().to_string()]));
        run.args(last).within(Duration::from_secs(120)).output(stop)
    };
    let said = ask(&["--listen", "127.0.0.1"]).await?;
    let address = said.split("listens at ").nth(1).and_then(|rest| rest.split(',').next());
    let address = address.with_context(|| format!("it does not say where the hive listens: {said}"))?;
    let client = http_client::builder(http_client::Trust::Nobody).build()?;
    let health: Value = client.get(format!("http://{address}/v1/health")).send().await?.json().await?;
    ensure!(
        said.contains(health["launch_id"].as_str().context("no launch")?),
        "{said}, but {health} answers"
    );
    let said = ask(&["--stop"]).await?;
    ensure!(said.contains("1 processes ended"), "it was not stopped: {said}");
    ensure!(!dir.exists(), "something was left in {}", dir.display());
    Ok(())
}

async fn all(folder: &Path, fleet: &Cluster, alone: &FakeHive, stop: &Stop) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    for (package, example) in listed(stop).await? {
        match one(&package, &example, folder, (fleet, alone), stop).await {
            Ok(()) => counts.passed += 1,
            Err(error) if stop.was_asked() => return Err(error),
            Err(error) => {
                println!(
                    "   {package} {example}: {error:#}; arguments it needs belong into xtask/src/test/examples.rs"
                );
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
    (fleet, hive): (&Cluster, &FakeHive),
    stop: &Stop,
) -> anyhow::Result<()> {
    let call = CALLS.iter().find(|(owner, name, _)| (*owner, *name) == (package, example));
    let args = call.map_or(&[][..], |(_, _, args)| args);
    let own = folder.join(format!("{package}-{example}"));
    std::fs::create_dir_all(&own)?;
    let address = format!("http://127.0.0.1:{}", hive.port);
    let token = hive.data_dir.join("token");
    let fill = |arg: &&str| {
        arg.replace("{folder}", &own.display().to_string())
            .replace("{hive}", &address)
            .replace("{token}", &token.display().to_string())
            .replace("{queen}", &fleet.queen.server.base)
    };
    let run = Command::cargo().args(["run", "--quiet", "--package", package, "--example", example, "--"]);
    let run = run
        .args(args.iter().map(fill))
        .env("QUEEN_RBEE_TOKEN", fleet.queen.server.token.as_deref().unwrap_or(""));
    run.within(Duration::from_secs(600)).output(stop).await.map(drop)
}

//! What tests need of a machine beyond a Rust toolchain and a C compiler.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};

use super::{KILLS, Options};
use crate::{cluster, command::Command, stop::Stop, workspace};

/// Something that a package brings.
pub(crate) struct Need {
    /// The program that shows that it is there.
    program: &'static str,
    /// Its package, in Debian's names.
    package: &'static str,
    /// What does not run without it.
    pub(crate) without: &'static str,
}

/// Something that no package can bring.
pub(crate) struct Beyond {
    name: &'static str,
    without: &'static str,
    pub(crate) is_met: fn() -> bool,
}

/// The name under which the OpenAI client's check is missing.
pub(crate) const OPENAI: &str = "OpenAI's own client against the queen";

/// The name under which clocks that jump are missing.
const CLOCKS: &str = "scenarios in which a wall clock jumps";

/// The name under which tests against a real SSH server are missing.
pub(crate) const SSHD: &str = "hives started over a real SSH server";

/// The name under which ending what tests leave behind, as it is done on macOS, is missing.
pub(crate) const LSOF: &str = "the end of what tests leave behind, where there is no /proc";

const NEEDS: &[Need] = &[
    Need { program: "python3", package: "python3-venv", without: OPENAI },
    Need { program: "sshd", package: "openssh-server", without: SSHD },
    Need { program: "csh", package: "csh", without: SSHD },
    Need { program: "lsof", package: "lsof", without: LSOF },
    Need { program: "faketime", package: "faketime", without: CLOCKS },
    Need { program: "strace", package: "strace", without: KILLS },
    Need {
        program: "ip",
        package: "iproute2",
        without: "scenarios with a network that breaks, or a full disk",
    },
];

/// Printed at each run, so that nobody takes them for tested.
pub(crate) const BEYOND: &[Beyond] = &[
    Beyond {
        name: "a GPU",
        without: "a worker on a GPU, and the probe of a real one (recorded outputs are tested)",
        is_met: || {
            Path::new("/dev/nvidia0").exists() || Path::new("/dev/kfd").exists() || cfg!(target_os = "macos")
        },
    },
    Beyond {
        name: "namespaces for whoever runs this",
        without: "scenarios with a network that breaks, or a full disk",
        is_met: || cluster::can_isolate() || workspace::on_path("ip").is_none(),
    },
    Beyond {
        name: "macOS",
        without: "processes and devices as macOS has them (it builds there in the hosted checks)",
        is_met: || cfg!(target_os = "macos"),
    },
];

/// Looks, installs if asked to, and names what is missing.
pub(super) async fn meet(options: &Options, stop: &Stop) -> anyhow::Result<Vec<&'static str>> {
    for beyond in BEYOND.iter().filter(|beyond| !(beyond.is_met)()) {
        println!(
            "   not run here: {}: this machine has not {}, and no package brings it",
            beyond.without, beyond.name
        );
    }
    let missing = || NEEDS.iter().filter(|need| workspace::on_path(need.program).is_none());
    let packages: Vec<_> = missing().map(|need| need.package).collect();
    if !packages.is_empty() && options.install {
        install(&packages, stop).await?;
    }
    let mut without: Vec<_> = missing().map(|need| need.without).collect();
    without.dedup();
    if !without.contains(&OPENAI)
        && let Err(error) = client_library(options, stop).await
    {
        println!("   {error:#}");
        without.push(OPENAI);
    }
    for gap in &without {
        println!("   not run here: {gap} (--install gets what it needs)");
    }
    ensure!(without.is_empty() || !options.ci, "with --ci everything has to run");
    Ok(without)
}

async fn install(packages: &[&str], stop: &Stop) -> anyhow::Result<()> {
    if workspace::on_path("apt-get").is_none() {
        bail!("there is no apt-get here; install {} yourself", packages.join(", "));
    }
    let apt = |args: &[&str]| Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive");
    apt(&["update", "--quiet"]).run(stop).await?;
    apt(&["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages).run(stop).await
}

/// Where Python finds the client library, apart from the system's own packages.
pub(super) fn python() -> PathBuf {
    workspace::target().join("tools/python/bin/python")
}

async fn client_library(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    let python = python();
    let is_there = || Command::new(&python).args(["-c", "import openai"]).run(stop);
    if python.exists() && is_there().await.is_ok() {
        return Ok(());
    }
    ensure!(options.install, "the Python package openai is not in {}", workspace::shown(&python));
    let folder = workspace::target().join("tools/python");
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).run(stop).await;
    if made.is_err() {
        // Debian's python3 comes without what `venv` needs.
        install(&["python3-venv"], stop).await?;
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).run(stop).await?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "openai"];
    Command::new(&python).args(pip).run(stop).await?;
    is_there().await
}

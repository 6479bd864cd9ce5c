//! The programs of the workspace, built.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{command::Command, stop::Stop, workspace};

/// How long the longest build may take.
const BUILD: Duration = Duration::from_secs(45 * 60);

/// How programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Profile {
    /// Quickly, as tests are.
    #[default]
    Dev,
    /// As quickly, with the bugs of the crate `planted` in them.
    Planted,
    /// As people run them.
    Release,
    /// The built-in worker.
    Engine,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Dev | Self::Planted => "dev",
            Self::Release => "release",
            Self::Engine => "engine",
        }
    }

    /// Where its programs lie.
    pub(crate) fn folder(self) -> PathBuf {
        match self {
            Self::Dev => workspace::target().join("debug"),
            Self::Planted => planted_target().join("debug"),
            Self::Release | Self::Engine => workspace::target().join(self.name()),
        }
    }

    /// The path of a program.
    pub(crate) fn program(self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

/// Programs with bugs lie where nobody takes them for others, and everyday builds need not be made again for them.
fn planted_target() -> PathBuf {
    workspace::target().join("planted")
}

/// Builds packages; cargo shows its own progress.
pub(crate) async fn build(profile: Profile, packages: &[&str], stop: &Stop) -> anyhow::Result<()> {
    let began = Instant::now();
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let mut command =
        Command::cargo().args(["build", "--profile", profile.name()]).args(packages).within(BUILD);
    if profile == Profile::Planted {
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        command = command.env("RUSTFLAGS", format!("{flags} --cfg planted").trim_start());
        command = command.env("CARGO_TARGET_DIR", planted_target());
    }
    eprintln!("   {}", command.shown());
    command.run(stop).await?;
    eprintln!("   built in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Builds the built-in worker, unless it is up to date, and says beforehand how long that takes the first time.
pub(crate) async fn build_engine(stop: &Stop) -> anyhow::Result<PathBuf> {
    let program = Profile::Engine.program("llm-worker-rbee");
    if !program.exists() {
        eprintln!("   the built-in inference engine is built once; that takes about 13 minutes on 2 cores");
    }
    build(Profile::Engine, &["llm-worker-rbee"], stop).await?;
    Ok(program)
}

//! `cargo xtask dist`: the programs as people install them.
//!
//! ```text
//! target/dist/<triple>/
//!   queen-rbee  rbee                     what a person starts
//!   rbee-hive ─▶ hives/<os>-<arch>/      the hive of the queen's own machine
//!   hives/<os>-<arch>/rbee-hive          what a queen brings to other machines of that kind,
//!   hives/<os>-<arch>/llm-worker-rbee    with the built-in worker, unless it was not wanted
//! target/dist/queen-rbee-<version>-<triple>.tar.gz, and .sha256 beside it
//! ```
//!
//! A queen looks for `hives/<os>-<arch>/` beside itself and in `<data-dir>/bundles/`. So a fleet of several kinds of machine
//! takes the `hives` of each kind's archive, in one folder.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::{ci::ENGINE, command::Command, stop::Stop, workspace};

/// How long the longest build may take.
const BUILD: Duration = Duration::from_secs(90 * 60);

/// The hive's program, and what lies beside it.
const HIVE: &str = "rbee-hive";

/// What is built.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// For another kind of machine than this one, such as x86_64-unknown-linux-musl
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Without the built-in worker, whose engine takes long to build: for machines that have an engine of their own
    #[arg(long)]
    without_worker: bool,
}

/// Builds, lays out and packs.
pub(crate) async fn run(options: &Options, stop: &Stop) -> anyhow::Result<()> {
    let triple = match &options.target {
        Some(triple) => triple.clone(),
        None => host(stop).await?,
    };
    let kind = kind(&triple)?;
    let release = build(options, "release", &["queen-rbee", HIVE, "rbee-keeper"], stop).await?;
    let mut programs = Programs {
        queen: release.join("queen-rbee"),
        keeper: release.join("rbee"),
        hive: release.join(HIVE),
        worker: None,
    };
    if !options.without_worker {
        programs.worker = Some(build(options, "engine", &[ENGINE], stop).await?.join(ENGINE));
    }
    let dist = workspace::target().join("dist");
    let folder = dist.join(&triple);
    lay_out(&folder, &kind, &programs)?;
    let archive = dist.join(format!("queen-rbee-{}-{triple}.tar.gz", env!("CARGO_PKG_VERSION")));
    pack(&folder, &archive, stop).await?;
    for made in [&folder, &archive] {
        println!("{}", workspace::shown(made));
    }
    Ok(())
}

struct Programs {
    queen: PathBuf,
    keeper: PathBuf,
    hive: PathBuf,
    worker: Option<PathBuf>,
}

async fn host(stop: &Stop) -> anyhow::Result<String> {
    let about = Command::new("rustc").arg("-vV").output(stop).await?;
    let line = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc does not say what it builds for")?.to_owned())
}

/// What a queen calls machines of that kind.
fn kind(triple: &str) -> anyhow::Result<String> {
    let arch = triple.split('-').next().unwrap_or_default();
    let os = match triple {
        _ if triple.contains("-linux-") => "linux",
        _ if triple.ends_with("-apple-darwin") => "macos",
        _ => bail!("there are no hives for {triple}: Linux and macOS have some"),
    };
    ensure!(
        ["x86_64", "aarch64"].contains(&arch),
        "there are no hives for {triple}: x86_64 and aarch64 have some"
    );
    Ok(format!("{os}-{arch}"))
}

/// Builds packages, and returns where their programs are.
async fn build(options: &Options, profile: &str, packages: &[&str], stop: &Stop) -> anyhow::Result<PathBuf> {
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let mut command =
        Command::cargo().args(["build", "--locked", "--profile", profile]).args(packages).within(BUILD);
    let mut folder = workspace::target();
    if let Some(triple) = &options.target {
        command = command.args(["--target", triple]);
        folder = folder.join(triple);
    }
    eprintln!("   {}", command.shown());
    command.run(stop).await?;
    Ok(folder.join(profile))
}

/// Makes the folder anew.
fn lay_out(folder: &Path, kind: &str, programs: &Programs) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    let hives = Path::new("hives").join(kind);
    fs::create_dir_all(folder.join(&hives))
        .with_context(|| format!("could not make {}", folder.display()))?;
    let copy = |from: &Path, to: PathBuf| {
        let copied = fs::copy(from, folder.join(&to));
        copied.map(drop).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))
    };
    copy(&programs.queen, "queen-rbee".into())?;
    copy(&programs.keeper, "rbee".into())?;
    copy(&programs.hive, hives.join(HIVE))?;
    if let Some(worker) = &programs.worker {
        copy(worker, hives.join(ENGINE))?;
    }
    for text in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&workspace::root().join(text), text.into())?;
    }
    symlink(hives.join(HIVE), folder.join(HIVE)).context("could not link the hive of this machine")
}

/// One file of the folder, and its SHA-256 as `sha256sum --check` reads it.
async fn pack(folder: &Path, archive: &Path, stop: &Stop) -> anyhow::Result<()> {
    let (parent, name) = (folder.parent().unwrap_or(folder), folder.file_name().unwrap_or_default());
    Command::new("tar").arg("-czf").arg(archive).arg("-C").arg(parent).arg(name).run(stop).await?;
    let file_name = archive.file_name().unwrap_or_default().to_string_lossy();
    let line = format!("{}  {file_name}\n", sha256(archive)?);
    let beside = archive.with_file_name(format!("{file_name}.sha256"));
    fs::write(&beside, line).with_context(|| format!("could not write {}", beside.display()))
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("could not read {}", path.display()))?;
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => digest.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_machine_are_called_as_a_queen_calls_them() {
        for (triple, expected) in [
            ("x86_64-unknown-linux-gnu", Some("linux-x86_64")),
            ("aarch64-unknown-linux-musl", Some("linux-aarch64")),
            ("aarch64-apple-darwin", Some("macos-aarch64")),
            ("x86_64-pc-windows-msvc", None),
            ("riscv64gc-unknown-linux-gnu", None),
        ] {
            assert_eq!(kind(triple).ok().as_deref(), expected, "{triple}");
        }
    }

    #[tokio::test]
    async fn an_archive_holds_what_a_queen_looks_for_and_its_digest_is_right() {
        let stop = Stop::default();
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\necho {name}\n")).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let programs = Programs {
            queen: program("queen-rbee"),
            keeper: program("rbee"),
            hive: program(HIVE),
            worker: Some(program(ENGINE)),
        };
        let dist = folder.path().join("dist/some-triple");
        fs::create_dir_all(dist.join("left over")).unwrap();
        lay_out(&dist, "linux-x86_64", &programs).unwrap();
        let archive = folder.path().join("dist/a.tar.gz");
        pack(&dist, &archive, &stop).await.unwrap();
        let listed = Command::new("tar").arg("-tzf").arg(&archive).output(&stop).await.unwrap();
        let mut files: Vec<_> = listed.lines().filter(|line| !line.ends_with('/')).collect();
        files.sort_unstable();
        assert_eq!(
            files,
            [
                "some-triple/LICENSE-APACHE",
                "some-triple/LICENSE-MIT",
                "some-triple/README.md",
                "some-triple/hives/linux-x86_64/llm-worker-rbee",
                "some-triple/hives/linux-x86_64/rbee-hive",
                "some-triple/queen-rbee",
                "some-triple/rbee",
                "some-triple/rbee-hive",
            ]
        );
        let said = Command::new(dist.join(HIVE)).output(&stop).await.unwrap();
        assert_eq!(said, "rbee-hive\n", "the link leads to the hive");
        let line = fs::read_to_string(folder.path().join("dist/a.tar.gz.sha256")).unwrap();
        assert_eq!(line, format!("{}  a.tar.gz\n", sha256(&archive).unwrap()));
        let hello = folder.path().join("hello");
        fs::write(&hello, "hello\n").unwrap();
        // As coreutils' sha256sum says it.
        assert_eq!(
            sha256(&hello).unwrap(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
    }
}

//! Network and mounts of the harness's own, where the system gives them.
//!
//! Scenarios run in a second process of this program, inside a network and a mount namespace, so that they can cut cables
//! and fill disks without a trace on the machine; and no port of theirs is one of the machine's. As root that is a matter
//! of course, for others it takes user namespaces. Where neither is to be had, scenarios run as they are, and those that
//! need more are named.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Options, Summary, run};
use crate::{command::Command, stop::Stop};

/// What the inner process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    options: Options,
    folder: PathBuf,
}

const LOOPBACK: &str = "ip link set lo up";

/// The arguments of `unshare` before a script that is run inside. Whatever is mounted there is seen by nobody else.
fn arguments(script: String) -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let user = (!root).then_some("--map-root-user");
    let rest = ["--net", "--mount", "sh", "-c", &script, "sh"];
    user.into_iter().chain(rest).map(str::to_owned).collect()
}

/// Whether the system gives them. Asked once.
pub(crate) fn is_possible() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let script =
            format!("{LOOPBACK} && ip link add rbee-0 type veth peer name rbee-1 && mount -t tmpfs x /tmp");
        let mut tried = std::process::Command::new("unshare");
        tried.args(arguments(script)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        cfg!(target_os = "linux") && tried.status().is_ok_and(|status| status.success())
    })
}

/// Runs scenarios inside, by a process of its own.
pub(crate) async fn run_inside(options: &Options, folder: &Path, stop: &Stop) -> anyhow::Result<Summary> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join("order.json");
    let order = Order { options: options.clone(), folder: folder.to_path_buf() };
    std::fs::write(&file, serde_json::to_vec(&order)?)?;
    let us = std::env::current_exe().context("where this program lies")?;
    let inner = Command::new("unshare").args(arguments(format!("{LOOPBACK} && exec \"$@\"")));
    let inner = inner.arg(us).args(["inside".as_ref(), file.as_os_str()]);
    inner.within(super::run::bound(options)).run(stop).await?;
    let summary = std::fs::read(&file).context("the inner run left no outcome")?;
    let _ = std::fs::remove_file(&file);
    serde_json::from_slice(&summary).context("the inner run left no outcome")
}

/// What the inner process does: takes its order from a file, and leaves the outcome in it.
pub(crate) async fn inside(file: &Path, stop: &Stop) -> anyhow::Result<()> {
    let order: Order = serde_json::from_slice(&std::fs::read(file)?)?;
    let summary = run::run_here(&order.options, &order.folder, run::Place::Own, stop).await?;
    Ok(std::fs::write(file, serde_json::to_vec(&summary)?)?)
}

/// Makes a folder a disk of its own. It goes with the namespace at the latest.
pub(crate) async fn mount_disk(folder: &Path, size: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let options = format!("size={size},mode=0700");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "small-disk"]).arg(folder);
    mount.run(&Stop::default()).await
}

/// Takes the disk away again, with all that is on it.
pub(crate) async fn unmount_disk(folder: &Path) {
    Command::new("umount").arg(folder).silently(&Stop::default()).await;
}

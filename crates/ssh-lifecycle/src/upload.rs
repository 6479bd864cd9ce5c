//! Bringing files, so that what is executed is what was sent, and nothing is sent twice.
//!
//! ```text
//!   files/<sha256>.<mark>.tmp ──size and SHA-256 right──▶ files/<sha256>          one per content
//!   bin/<bundle>.<mark>.tmp/  ──`rbee-hive --version`──▶  bin/<bundle>/rbee-hive  hard links to those
//!                                                         bin/current             the bundle that was started last
//! ```
//!
//! Each arrow is a rename. What has a name of the right-hand side is whole; everything else is removed by the next one who comes.

use std::{fs::File, sync::Arc};

use fleet::LaunchProgress;
use fleet::LaunchStage;

use crate::{
    Disk, Machine, Settings, SshError,
    bundle::{Bundle, BundleFile},
    machine::about,
    remote::{Remote, Sent},
    script::{Answer, Input},
};

/// Told how far it is.
pub(crate) type Tell = Arc<dyn Fn(LaunchProgress) + Send + Sync>;

/// Exit statuses of the scripts.
const DISK: i32 = 73;
const DAMAGED: i32 = 75;
const SMOKE: i32 = 76;

/// How many bytes more are worth telling.
const TELL_EVERY: u64 = 512 * 1024;

/// Brings what is missing of a bundle, and makes it the current one.
pub(crate) async fn bring(
    remote: &Remote,
    machine: &Machine,
    settings: &Settings,
    bundle: &Bundle,
    tell: &Tell,
) -> Result<(), SshError> {
    let host = || remote.to.host.clone();
    if let Some(disk) = machine.disk {
        return Err(SshError::Disk { host: host(), dir: machine.dir.clone(), disk });
    }
    let Some(missing) = missing(remote, machine, settings, bundle).await? else { return Ok(()) };
    let need: u64 = missing.iter().map(|file| file.bytes).sum();
    if let Some(free) = machine.free_bytes.filter(|free| *free < need) {
        let mega = |bytes: u64| bytes / 1_000_000;
        return Err(SshError::Room {
            host: host(),
            dir: machine.dir.clone(),
            free: mega(free),
            need: mega(need),
        });
    }
    let mut done = 0;
    for file in missing {
        upload(remote, machine, settings, file, (done, need), tell).await?;
        planted::step("upload-named");
        done += file.bytes;
    }
    activate(remote, machine, settings, bundle).await
}

fn failed(remote: &Remote, machine: &Machine, doing: &'static str, status: i32, said: String) -> SshError {
    let host = remote.to.host.clone();
    match Disk::of(&said) {
        Some(disk) if status == DISK => SshError::Disk { host, dir: machine.dir.clone(), disk },
        _ => SshError::Failed { host, doing, status, said },
    }
}

/// What is not there. Where all of it is, the bundle is made the current one, too, and nothing is left to do.
async fn missing<'a>(
    remote: &Remote,
    machine: &Machine,
    settings: &Settings,
    bundle: &'a Bundle,
) -> Result<Option<Vec<&'a BundleFile>>, SshError> {
    let doing = "prepare the hive's directory";
    let line = |file: &BundleFile| format!("{} {} {}\n", file.sha256, file.bytes, file.name);
    let list: String = bundle.files.iter().map(line).collect();
    let script = about(&machine.dir, include_str!("scripts/prepare.sh"))
        .then(include_str!("scripts/activate.sh"))
        .with("bundle", &bundle.id)
        .with("mark", mark())
        .reading(Input::Text(list));
    let patience = settings.patience.stall + settings.patience.command;
    let (answer, status, said) = remote.run(doing, patience, script, None).await?;
    let missing: Vec<&str> = answer.all("missing").collect();
    if missing.is_empty() {
        return activated(remote, machine, doing, (&answer, status, said)).map(|()| None);
    }
    if status != 0 {
        return Err(failed(remote, machine, doing, status, said));
    }
    Ok(Some(bundle.files.iter().filter(|file| missing.contains(&file.sha256.as_str())).collect()))
}

async fn upload(
    remote: &Remote,
    machine: &Machine,
    settings: &Settings,
    file: &BundleFile,
    (before, total): (u64, u64),
    tell: &Tell,
) -> Result<(), SshError> {
    let doing = "bring a file";
    let read = |source| SshError::Read { path: file.path.clone(), source };
    let opened = File::open(&file.path).map_err(read)?;
    let script = about(&machine.dir, include_str!("scripts/upload.sh"))
        .with("sha", &file.sha256)
        .with("bytes", file.bytes.to_string())
        .with("mark", mark())
        .reading(Input::File(opened, file.bytes));
    let sent = telling(&file.name, before, total, Arc::clone(tell));
    let (answer, status, said) = remote.run(doing, settings.patience.stall, script, Some(sent)).await?;
    match status {
        0 => Ok(()),
        DAMAGED => {
            let got = |field: &str| answer.get(field).unwrap_or("?").to_owned();
            let (bytes, sha256) = (got("bytes"), got("sha256"));
            Err(SshError::Damaged { host: remote.to.host.clone(), file: file.name.clone(), bytes, sha256 })
        }
        _ => Err(failed(remote, machine, doing, status, said)),
    }
}

fn telling(name: &str, before: u64, total: u64, tell: Tell) -> Sent {
    let told = std::sync::atomic::AtomicU64::new(u64::MAX);
    let name = name.to_owned();
    Arc::new(move |sent| {
        use std::sync::atomic::Ordering::Relaxed;
        let last = told.load(Relaxed);
        let at = (before + sent).min(total);
        if last != u64::MAX && at < last.saturating_add(TELL_EVERY) && at != total {
            return;
        }
        told.store(at, Relaxed);
        // What is sent first may still be on its way when the machine there has not begun to read.
        planted::step(match total - at {
            0 => "upload-sent",
            left if left * 2 <= total => "upload-sending",
            _ => "upload-begun",
        });
        tell(LaunchProgress {
            stage: LaunchStage::Upload,
            detail: Some(name.clone()),
            bytes: Some(at),
            total: Some(total),
        });
    })
}

async fn activate(
    remote: &Remote,
    machine: &Machine,
    settings: &Settings,
    bundle: &Bundle,
) -> Result<(), SshError> {
    let doing = "make the hive ready";
    let list: String = bundle.files.iter().map(|file| format!("{} {}\n", file.sha256, file.name)).collect();
    let script = about(&machine.dir, include_str!("scripts/activate.sh"))
        .with("list", "")
        .with("bundle", &bundle.id)
        .with("mark", mark())
        .reading(Input::Text(list));
    let (answer, status, said) = remote.run(doing, settings.patience.command, script, None).await?;
    activated(remote, machine, doing, (&answer, status, said))
}

fn activated(
    remote: &Remote,
    machine: &Machine,
    doing: &'static str,
    (answer, status, said): (&Answer, i32, String),
) -> Result<(), SshError> {
    match status {
        0 => Ok(()),
        SMOKE => Err(SshError::Smoke {
            host: remote.to.host.clone(),
            system: machine.to_string(),
            said: answer.get("version").unwrap_or_default().to_owned(),
        }),
        _ => Err(failed(remote, machine, doing, status, said)),
    }
}

/// A part of a name that nobody else uses.
fn mark() -> String {
    let mut bytes = [0; 6];
    // The process id alone tells two of ours apart well enough.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold(std::process::id().to_string(), |text, byte| format!("{text}{byte:02x}"))
}

//! Processes that were started for a folder and still run.
//!
//! Everything that a queen starts lives below its data directory: its own arguments name it, a hive's name a part of it,
//! and a worker's output goes to a file in it. So whatever is left of a fleet is found by its folder, whoever its parent is
//! by now. An editor or a shell that looks into the folder is none of ours and is not found.

use std::{path::Path, time::Duration};

use fleet::ProcessIdentity;
use process::Process;

/// How long a process that was killed may take to disappear.
const GONE: Duration = Duration::from_secs(5);

/// A process, and how it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stray {
    pub(crate) identity: ProcessIdentity,
    pub(crate) command: String,
}

impl Stray {
    /// Whether it is a run of the program of this name.
    pub(crate) fn runs(&self, program: &str) -> bool {
        let path = self.command.split(' ').next().unwrap_or_default();
        Path::new(path).file_name().is_some_and(|name| name == program)
    }
}

impl std::fmt::Display for Stray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {}, {}", self.identity.pid, self.command)
    }
}

/// Every living process that belongs to the folder.
pub(crate) fn below(folder: &Path) -> Vec<Stray> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let us = std::process::id();
    let pids = system::pids().into_iter().filter(|pid| *pid != us);
    let mut strays: Vec<_> = pids.filter_map(|pid| stray(pid, &folder)).collect();
    strays.sort_by_key(|stray| stray.identity.pid);
    strays
}

fn stray(pid: u32, folder: &Path) -> Option<Stray> {
    let identity = process::of(pid).ok()??;
    // A process that was just born has no arguments yet, but its output is where it will be.
    let arguments = system::arguments(pid).unwrap_or_default();
    let folder_text = folder.to_string_lossy();
    let program_is_ours = arguments.first().is_some_and(|program| is_ours(program));
    let named = program_is_ours && arguments.iter().any(|a| a.contains(&*folder_text));
    if !named && !system::writes_below(pid, folder) {
        return None;
    }
    // Asked again, so that a pid that changed hands meanwhile cannot be taken for what it was before.
    let unchanged = process::of(pid).ok()?? == identity;
    unchanged.then(|| Stray { identity, command: arguments.join(" ") })
}

/// Whether a program is part of a fleet.
fn is_ours(program: &str) -> bool {
    let name = Path::new(program).file_name().unwrap_or_default();
    ["queen-rbee", "rbee-hive", "fake-hive", "llm-worker-rbee", "llama-server"]
        .iter()
        .any(|ours| name == *ours)
}

/// Ends processes, each only if it still is the one that was found. What could not be ended is returned.
pub(crate) async fn end(strays: Vec<Stray>) -> Vec<Stray> {
    let mut left = Vec::new();
    for stray in strays {
        let process = Process::open(&stray.identity).ok().flatten();
        let Some(process) = process else { continue };
        let killed = process.signal(process::Signal::KILL);
        let gone = tokio::time::timeout(GONE, process.exited()).await;
        if killed.is_err() || gone.is_err() {
            left.push(stray);
        }
    }
    left
}

#[cfg(target_os = "linux")]
mod system {
    use std::{fs, path::Path};

    pub(super) fn pids() -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// None for a zombie and for the kernel's own threads.
    pub(super) fn arguments(pid: u32) -> Option<Vec<String>> {
        let text = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let text = text.strip_suffix(b"\0")?;
        Some(text.split(|&b| b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect())
    }

    pub(super) fn writes_below(pid: u32, folder: &Path) -> bool {
        [1, 2].into_iter().any(|fd| {
            fs::read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|target| target.starts_with(folder))
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::{path::Path, process::Command};

    /// What `ps` prints in two columns: pid and arguments.
    fn table() -> Vec<(u32, String)> {
        let output = Command::new("ps").args(["-axo", "pid=,args="]).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let row = |line: &str| {
            let (pid, arguments) = line.trim().split_once(' ')?;
            Some((pid.parse().ok()?, arguments.trim().to_owned()))
        };
        text.lines().filter_map(row).collect()
    }

    pub(super) fn pids() -> Vec<u32> {
        table().into_iter().map(|(pid, _)| pid).collect()
    }

    pub(super) fn arguments(pid: u32) -> Option<Vec<String>> {
        let (_, arguments) = table().into_iter().find(|(found, _)| *found == pid)?;
        Some(arguments.split(' ').map(str::to_owned).collect())
    }

    pub(super) fn writes_below(_pid: u32, _folder: &Path) -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::File,
        process::{Command, Stdio},
    };

    use super::*;

    #[tokio::test]
    async fn a_process_that_writes_into_the_folder_is_found_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut child = Command::new("sleep").arg("600").stdout(log).stdin(Stdio::null()).spawn().unwrap();
        let found = below(folder.path());
        assert_eq!(found.iter().map(|s| s.identity.pid).collect::<Vec<_>>(), [child.id()], "{found:?}");
        assert_eq!(end(found).await, []);
        assert_eq!(below(folder.path()), []);
        child.wait().unwrap();
    }

    #[test]
    fn who_only_looks_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap();
        let mut child = Command::new("tail")
            .arg("-f")
            .arg(&path)
            .stdout(Stdio::null())
            .current_dir(&folder)
            .spawn()
            .unwrap();
        assert_eq!(below(folder.path()), []);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

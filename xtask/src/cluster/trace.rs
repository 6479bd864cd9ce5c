//! System calls of a running program that are slow, or fail, through `strace`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use process::Signal;

use super::program::{Running, Start};

/// How long `strace` may take to have every thread of the program, or to let go of them.
const ATTACH: Duration = Duration::from_secs(10);

/// Faults that are being injected, until [`Trace::end`].
#[derive(Debug)]
pub(crate) struct Trace {
    strace: Running,
}

impl Trace {
    /// Injects a fault, in the words of `strace --inject`, into the program's calls of these names on these files.
    pub(crate) async fn inject(
        program: &Running,
        files: &[PathBuf],
        calls: &str,
        fault: &str,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        // What is traced is thrown away: a part of it could be a secret.
        let mut start = Start::new("strace", logs.join("strace.log"))
            .args(["-f", "-o", "/dev/null", "-e"])
            .args([format!("trace={calls}"), "-e".to_owned(), format!("inject={calls}:{fault}")]);
        for file in files {
            start = start.args(["-P".as_ref(), file.as_os_str()]);
        }
        let pid = program.identity().pid;
        let strace = start.args(["-p".to_owned(), pid.to_string()]).spawn()?;
        let traced = async {
            // Every thread has a tracer, or none that was there when `strace` came would be traced.
            while !threads_traced(pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let traced = tokio::time::timeout(ATTACH, traced).await;
        traced.with_context(|| format!("strace does not trace: {}", strace.tail()))?;
        Ok(Self { strace })
    }

    /// Lets the program go on as it is.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.strace.signal(Signal::INT)?;
        self.strace.ended(ATTACH).await.map(drop)
    }
}

fn threads_traced(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let statuses: Vec<_> =
        tasks.map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default()).collect();
    !statuses.is_empty()
        && statuses.iter().all(|status| status.contains("TracerPid:") && !status.contains("TracerPid:\t0\n"))
}

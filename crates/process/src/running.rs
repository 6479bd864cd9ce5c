//! A living process, whoever started it: signal it, wait for its end, stop it with its group.

use std::time::Duration;

use fleet::ProcessIdentity;
pub use rustix::process::Signal;
use rustix::{io::Errno, process::Pid};

use crate::{LogFile, ProcessError, identity};

/// How long a killed process may take to disappear. Only one that hangs in the kernel takes longer.
const KILL_BOUND: Duration = Duration::from_secs(5);

/// How often is looked where the system cannot tell of an end.
const POLL: Duration = Duration::from_millis(50);

/// A process that is certainly the one its identity names.
#[derive(Debug, Clone)]
pub struct Process {
    identity: ProcessIdentity,
    #[cfg(target_os = "linux")]
    pidfd: std::sync::Arc<std::os::fd::OwnedFd>,
}

impl Process {
    /// The process of this identity, if it still lives.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn open(identity: &ProcessIdentity) -> Result<Option<Self>, ProcessError> {
        let Some(process) = Self::pin(identity)? else { return Ok(None) };
        // Only now: had the pid been given to another process before it was pinned, this shows it.
        Ok((identity::of(identity.pid)?.as_ref() == Some(identity)).then_some(process))
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn pin(identity: &ProcessIdentity) -> Result<Option<Self>, ProcessError> {
        let Some(pid) = raw(identity.pid) else { return Ok(None) };
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Self { identity: identity.clone(), pidfd: pidfd.into() })),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(ProcessError::Identify { pid: identity.pid, source: error.into() }),
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "the same signature as where pinning can fail")]
    pub(crate) fn pin(identity: &ProcessIdentity) -> Result<Option<Self>, ProcessError> {
        Ok(Some(Self { identity: identity.clone() }))
    }

    /// Which process this is.
    #[must_use]
    pub const fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Whether it still lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        identity::is_alive(&self.identity)
    }

    /// Signals the process itself. One that is gone is no error.
    ///
    /// # Errors
    /// When the system refuses, as for a process of another user.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        self.sent(self.send(signal))
    }

    #[cfg(target_os = "linux")]
    fn send(&self, signal: Signal) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
    }

    #[cfg(not(target_os = "linux"))]
    fn send(&self, signal: Signal) -> Result<(), Errno> {
        match raw(self.identity.pid) {
            Some(pid) if self.is_alive() => rustix::process::kill_process(pid, signal),
            _ => Err(Errno::SRCH),
        }
    }

    /// Signals the whole group that the process leads.
    ///
    /// While the group has a member its number is not given to another process, so it is enough that no *other* process
    /// holds the pid now. A process that leads no group is signalled alone: another's group is never hit.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal_group(&self, signal: Signal) -> Result<(), ProcessError> {
        let pid = self.identity.pid;
        match identity::of_any(pid)? {
            Some((found, _)) if found != self.identity => return Ok(()),
            Some((_, stat)) if stat.group != pid => return self.signal(signal),
            Some(_) | None => {}
        }
        let Some(group) = raw(pid) else { return Ok(()) };
        self.sent(rustix::process::kill_process_group(group, signal))
    }

    fn sent(&self, result: Result<(), Errno>) -> Result<(), ProcessError> {
        match result {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(ProcessError::Signal { pid: self.identity.pid, source: error.into() }),
        }
    }

    /// Ends when the process has ended, also if it is then a zombie. Notices it at once on Linux, within 50 ms elsewhere.
    pub async fn exited(&self) {
        #[cfg(target_os = "linux")]
        if self.pidfd_readable().await.is_ok() {
            return;
        }
        while self.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// A pidfd becomes readable when its process ends (pidfd_open(2)). Each wait has a descriptor of its own, because one
    /// can be registered only once.
    #[cfg(target_os = "linux")]
    #[expect(
        deprecated,
        reason = "unsound only for a type whose descriptor can change while it is registered, which an OwnedFd's cannot; \
                  its replacement is unsafe"
    )]
    async fn pidfd_readable(&self) -> std::io::Result<()> {
        use tokio::io::{Interest, unix::AsyncFd};
        let pidfd = AsyncFd::with_interest(self.pidfd.try_clone()?, Interest::READABLE)?;
        pidfd.readable().await?.retain_ready();
        Ok(())
    }

    /// Like [`Process::exited`]; meanwhile keeps the process's log file below its cap.
    pub async fn exited_with_log(&self, log: &LogFile) {
        tokio::select! {
            () = self.exited() => {}
            () = log.keep_below_cap() => {}
        }
    }

    /// Asks the group to end (SIGCONT first, since a stopped process does not hear SIGTERM), waits up to `grace`, and ends
    /// by force what is left. False if it still lives 5 s after that.
    ///
    /// # Errors
    /// When the system refuses a signal.
    pub async fn stop(&self, grace: Duration) -> Result<bool, ProcessError> {
        if !grace.is_zero() {
            self.signal_group(Signal::CONT)?;
            self.signal_group(Signal::TERM)?;
            let _ = tokio::time::timeout(grace, self.exited()).await;
        }
        self.kill().await
    }

    /// Ends the group by force. False if the process still lives 5 s later.
    ///
    /// # Errors
    /// When the system refuses the signal.
    pub async fn kill(&self) -> Result<bool, ProcessError> {
        self.signal_group(Signal::KILL)?;
        Ok(tokio::time::timeout(KILL_BOUND, self.exited()).await.is_ok())
    }
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// The living members of the group that a process leads; none where that cannot be seen.
#[must_use]
pub fn members_of_group(group: u32) -> Vec<u32> {
    identity::group_members(group)
}

/// Main memory that the living members of a group hold, in bytes; 0 where that cannot be seen.
#[must_use]
pub fn memory_of_group(group: u32) -> u64 {
    identity::group_members(group).into_iter().filter_map(resident).sum()
}

/// Resident pages (second field of proc_pid_statm(5)).
#[cfg(target_os = "linux")]
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(target_os = "macos")]
fn resident(pid: u32) -> Option<u64> {
    use libproc::{proc_pid::pidinfo, task_info::TaskInfo};
    let info = pidinfo::<TaskInfo>(i32::try_from(pid).ok()?, 0).ok()?;
    Some(info.pti_resident_size)
}

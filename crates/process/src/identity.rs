//! Which process a pid stands for.

#[cfg(target_os = "linux")]
#[path = "identity/linux.rs"]
mod system;
#[cfg(target_os = "macos")]
#[path = "identity/macos.rs"]
mod system;

use std::io;

use fleet::ProcessIdentity;

use crate::ProcessError;

pub use system::find_marked;
pub(crate) use system::group_members;

/// What the kernel says of a pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// It has ended and nobody has asked for its exit status yet.
    pub(crate) zombie: bool,
    /// The group that it belongs to.
    pub(crate) group: u32,
    /// When it started, in the system's unit since boot.
    pub(crate) start_time: u64,
}

/// This process.
///
/// # Errors
/// When the kernel does not tell, as with `/proc` not mounted.
pub fn own() -> Result<ProcessIdentity, ProcessError> {
    let pid = std::process::id();
    let missing = || ProcessError::Identify { pid, source: io::ErrorKind::NotFound.into() };
    of(pid)?.ok_or_else(missing)
}

/// The living process that has this pid now; none if there is none, or only a zombie.
///
/// # Errors
/// When the kernel does not tell.
pub fn of(pid: u32) -> Result<Option<ProcessIdentity>, ProcessError> {
    Ok(of_any(pid)?.and_then(|(identity, stat)| (!stat.zombie).then_some(identity)))
}

/// The same with zombies: a child that ended at once still has an identity until it is waited for.
pub(crate) fn of_any(pid: u32) -> Result<Option<(ProcessIdentity, Stat)>, ProcessError> {
    let failed = |source| ProcessError::Identify { pid, source };
    let Some(stat) = system::stat(pid).map_err(failed)? else { return Ok(None) };
    let boot_id = system::boot_id().map_err(failed)?;
    Ok(Some((ProcessIdentity { pid, start_time: stat.start_time, boot_id }, stat)))
}

/// Whether this very process still lives. When the kernel does not tell, it does not: nothing is done to a process that
/// cannot be identified.
#[must_use]
pub fn is_alive(identity: &ProcessIdentity) -> bool {
    of(identity.pid).is_ok_and(|found| found.as_ref() == Some(identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_namesake_of_another_time_or_boot_is_not() {
        let own = own().unwrap();
        assert!(is_alive(&own));
        assert!(!is_alive(&ProcessIdentity { start_time: own.start_time + 1, ..own.clone() }));
        assert!(!is_alive(&ProcessIdentity { boot_id: "another".into(), ..own }));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let (_, stat) =
                of_any(child.id()).unwrap().expect("a child that was not waited for has an entry");
            if stat.zombie {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "`true` does not end");
            std::thread::yield_now();
        }
        assert_eq!(of(child.id()).unwrap(), None);
        child.wait().unwrap();
    }
}

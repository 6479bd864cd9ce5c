//! `libproc`, and `sysctl` for the boot.

use std::{io, process::Command, sync::OnceLock};

use fleet::ProcessIdentity;
use libproc::{
    bsd_info::BSDInfo,
    proc_pid::pidinfo,
    processes::{ProcFilter, pids_by_type},
};

use super::Stat;

/// `pbi_status` of a process that ended and was not waited for (`SZOMB` of sys/proc.h).
const ZOMBIE: u32 = 5;

pub(super) fn boot_id() -> io::Result<String> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id.clone());
    }
    let output = Command::new("/usr/sbin/sysctl").args(["-n", "kern.bootsessionuuid"]).output()?;
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if id.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(BOOT_ID.get_or_init(|| id).clone())
}

pub(super) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let Ok(number) = i32::try_from(pid) else { return Ok(None) };
    // The library gives its failures as text only; the one that matters is that there is no such process.
    let Ok(info) = pidinfo::<BSDInfo>(number, 0) else { return Ok(None) };
    Ok(Some(Stat {
        zombie: info.pbi_status == ZOMBIE,
        group: info.pbi_pgid,
        start_time: info.pbi_start_tvsec.saturating_mul(1_000_000).saturating_add(info.pbi_start_tvusec),
    }))
}

/// The living members of a process group.
pub(crate) fn group_members(group: u32) -> Vec<u32> {
    let pids = pids_by_type(ProcFilter::ByProgramGroup { pgrpid: group }).unwrap_or_default();
    pids.into_iter().filter(|&pid| stat(pid).ok().flatten().is_some_and(|stat| !stat.zombie)).collect()
}

/// Other processes' environments cannot be read here, so none is found.
#[must_use]
pub fn find_marked(_name: &str, _value: &str) -> Vec<ProcessIdentity> {
    Vec::new()
}

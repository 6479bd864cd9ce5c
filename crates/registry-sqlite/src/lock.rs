//! The lock file that keeps two queens off one data directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::error::OpenError;

/// Name of the lock file in the data directory.
const NAME: &str = "queen.lock";

/// How long a held lock is tried.
const PATIENCE: Duration = Duration::from_millis(200);

/// A held lock: free again as soon as this is dropped or the process ends, however it ends.
///
/// It is an advisory `flock(2)` on a file that stays where it is: removing it would let a third process lock a new file
/// of the same name beside the second one's. The descriptor closes on exec, which the standard library sees to, so a hive
/// that the queen starts does not keep the lock when the queen is killed.
#[derive(Debug)]
pub(crate) struct LockFile {
    _held: File,
}

impl LockFile {
    /// Takes the lock, or says who has it.
    pub(crate) fn acquire(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| OpenError::not_writable(&path, "open", source))?;
        match try_for(PATIENCE, &file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked { data_dir: data_dir.to_owned(), pid: pid_in(&mut file) });
            }
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::not_writable(&path, "lock", source));
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|source| OpenError::not_writable(&path, "write", source))?;
        Ok(Self { _held: file })
    }
}

/// Tries again for a while: a process that another thread of the holder is just starting has the descriptor until its
/// exec, so the lock of a queen that was killed at that moment becomes free a little later than the queen is gone.
#[expect(
    clippy::disallowed_methods,
    reason = "a lock that becomes free says nothing, and this blocks anyway"
)]
fn try_for(patience: Duration, file: &File) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => thread::sleep(patience / 20),
            outcome => return outcome,
        }
    }
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_the_pid_of_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = LockFile::acquire(dir.path()).expect("free");
        let second = LockFile::acquire(dir.path()).expect_err("held");
        assert!(
            matches!(second, OpenError::Locked { pid, .. } if pid == Some(std::process::id())),
            "{second}"
        );
        drop(first);
        LockFile::acquire(dir.path()).expect("free again");
    }

    #[test]
    fn the_lock_is_not_inherited_by_a_program_that_is_started() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = LockFile::acquire(dir.path()).expect("free");
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("sleep starts");
        drop(first);
        let second = LockFile::acquire(dir.path());
        child.kill().expect("it still ran");
        child.wait().expect("it ended");
        second.expect("free in spite of the child");
    }
}

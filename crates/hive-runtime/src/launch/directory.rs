//! The data directory: one hive at a time, and what it keeps there.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hive_api::HiveFile;

use super::StartError;

/// A data directory that this process alone holds, until it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock ends with the descriptor, hence with the process, however that ends. It is closed on exec, so no worker
    /// inherits it.
    _lock: File,
}

/// Where a hive keeps its state unless told otherwise: `~/.local/share/rbee-hive`.
///
/// # Errors
/// When there is no home directory.
pub fn default_data_dir() -> Result<PathBuf, StartError> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(|home| Path::new(&home).join(".local/share/rbee-hive")).ok_or_else(|| StartError::Io {
        action: "find a home directory for",
        path: "rbee-hive".into(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub fn lock(path: &Path) -> Result<Self, StartError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Io { action, path, source }
        };
        durable_file::create_private_directory(path).map_err(io("create", path))?;
        // Processes are told this path later, when they may stand elsewhere.
        let path = path.canonicalize().map_err(io("open", path))?;
        let name = path.join("hive.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&name)
            .map_err(io("open", &name))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only to name it: without the name the error stays the same.
                let _ = file.read_to_string(&mut text);
                return Err(StartError::Locked { dir: path, pid: text.trim().parse().ok() });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(io("lock", &name)(source)),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(io("write", &name))?;
        Ok(Self { path, _lock: file })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `hive.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn announce(&self, file: &HiveFile) -> Result<(), StartError> {
        let path = self.path.join(HiveFile::NAME);
        durable_file::replace(&path, file.to_json().as_bytes()).map_err(|source| StartError::Io {
            action: "write",
            path,
            source,
        })
    }

    /// Removes `hive.json`.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn withdraw(&self) -> Result<(), StartError> {
        let path = self.path.join(HiveFile::NAME);
        durable_file::remove(&path).map_err(|source| StartError::Io { action: "remove", path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_hive_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::lock(&dir.path().join("data")).unwrap();
        let error = DataDir::lock(&dir.path().join("data")).unwrap_err();
        assert!(matches!(error, StartError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
        assert_eq!(error.exit_code(), 73);
        drop(held);
        DataDir::lock(&dir.path().join("data")).unwrap();
    }
}

//! Putting the file where the service manager looks for it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// What became of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// It is new, or replaced as was asked.
    Written,
    /// It stood there already, with this very text.
    Unchanged,
}

/// Why the file is not there, or not this one.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Another text stands there.
    #[error("{} is there already and differs; look at it, and replace it with --force", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Writes the file and makes the directories above it. A file that differs stays as it is unless `force` says otherwise.
///
/// # Errors
/// A file that differs, or whatever the system said; then what was there is still there.
pub fn install(path: &Path, text: &str, force: bool) -> Result<Installed, InstallError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| InstallError::Io { action, path, source }
    };
    match fs::read(path) {
        Ok(found) if found == text.as_bytes() => return Ok(Installed::Unchanged),
        Ok(_) if !force => return Err(InstallError::Differs { path: path.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", path)(error)),
    }
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(failed("make", folder))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&beside);
    let written = written.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        // Whatever is left of it is of no use; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    renamed.map(|()| Installed::Written).map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_is_replaced_only_when_that_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/queen-rbee.service");
        assert_eq!(install(&path, "one", false).unwrap(), Installed::Written);
        assert_eq!(install(&path, "one", false).unwrap(), Installed::Unchanged);
        assert!(matches!(install(&path, "two", false), Err(InstallError::Differs { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(install(&path, "two", true).unwrap(), Installed::Written);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = install(&folder.path().join("file/queen-rbee.service"), "x", true).unwrap_err();
        assert!(error.to_string().contains("queen-rbee.service"), "{error}");
    }
}

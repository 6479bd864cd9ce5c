//! Where `rbee-hive` is.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const NAME: &str = "rbee-hive";

/// The configured program and no other; without one, the program beside this one, then those in `PATH`. The error lists
/// every place that was looked at.
pub(crate) fn find(configured: Option<&Path>) -> Result<PathBuf, Vec<PathBuf>> {
    let candidates = match configured {
        Some(path) => vec![path.to_owned()],
        None => usual_places(),
    };
    match candidates.iter().find(|path| is_executable(path)) {
        Some(path) => Ok(path.clone()),
        None => Err(candidates),
    }
}

fn usual_places() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|dir| dir.join(NAME));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(NAME))).collect()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_program_has_no_substitute() {
        let missing = Path::new("/nowhere/rbee-hive");
        assert_eq!(find(Some(missing)), Err(vec![missing.to_owned()]));
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("rbee-hive");
        std::fs::write(&plain, "").unwrap();
        assert!(find(Some(&plain)).is_err(), "a file that cannot be executed is no program");
        assert_eq!(find(Some(Path::new("/bin/sh"))), Ok("/bin/sh".into()));
    }
}

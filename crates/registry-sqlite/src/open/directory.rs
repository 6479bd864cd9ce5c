//! The data directory: there, private, and on a disk that keeps its word.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use crate::error::OpenError;

/// Makes the directory, or closes an existing one to other users.
///
/// One that holds other things and no database yet is left open as it is: somebody may have named his home directory,
/// and the files in it are closed one by one anyway.
pub(super) fn prepare(data_dir: &Path, database: &str) -> Result<(), OpenError> {
    let failed = |action| move |source| OpenError::not_writable(data_dir, action, source);
    match fs::metadata(data_dir) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(failed("use")(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
            let empty = || fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_none());
            if data_dir.join(database).exists() || empty() {
                fs::set_permissions(data_dir, Permissions::from_mode(0o700))
                    .map_err(failed("close to others"))?;
            } else {
                tracing::warn!(data_dir = %data_dir.display(), "data directory is open to other users");
            }
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed("create"))?;
        }
        Err(error) => return Err(failed("look at")(error)),
    }
    if let Some(file_system) = forgetful(data_dir) {
        tracing::warn!(
            data_dir = %data_dir.display(),
            file_system,
            "data directory is on a file system that may lose or share the database"
        );
    }
    Ok(())
}

/// The name of a file system on which locks or fsync do not do what the database relies on (`statfs(2)`).
#[cfg(target_os = "linux")]
fn forgetful(path: &Path) -> Option<&'static str> {
    match rustix::fs::statfs(path).ok()?.f_type {
        0x6969 => Some("nfs"),
        0x0102_1994 => Some("tmpfs"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("smb"),
        0x6573_5546 => Some("fuse"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn forgetful(_: &Path) -> Option<&'static str> {
    None
}

//! The queen's secret, from which every launch's token is derived, so that a restarted queen knows them all.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fleet::{LaunchId, Token};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secret in `<data-dir>/queen.key`.
#[derive(Clone)]
pub struct QueenKey([u8; 32]);

/// Why the key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("could not {action} the queen's key {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is not a key. It is not replaced: hives that run could not be reached any more.
    #[error("{} is not a key of 32 bytes; restore it, or remove it after stopping all hives", .0.display())]
    Damaged(PathBuf),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random(#[source] getrandom::Error),
}

impl QueenKey {
    /// Its name in the data directory.
    pub const NAME: &'static str = "queen.key";

    /// Reads the key, or makes one where there is none.
    ///
    /// # Errors
    /// [`KeyError`]; an existing file is never overwritten.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeyError> {
        let path = data_dir.join(Self::NAME);
        let io_error = |action| {
            let path = path.clone();
            move |source| KeyError::Io { action, path, source }
        };
        match fs::File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(33).read_to_end(&mut bytes).map_err(io_error("read"))?;
                return bytes.try_into().map(Self).map_err(|_| KeyError::Damaged(path));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read")(error)),
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
        // Written beside and renamed, so that a crash leaves no half key.
        let partial = data_dir.join("queen.key.new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&partial).map_err(io_error("create"))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io_error("write"))?;
        fs::rename(&partial, &path).map_err(io_error("create"))?;
        fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync"))?;
        Ok(Self(bytes))
    }

    /// The token of a launch: HMAC-SHA-256 of its id, in hexadecimal.
    #[must_use]
    pub fn token(&self, launch: &LaunchId) -> Token {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("any length is a key"));
        mac.update(launch.as_str().as_bytes());
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        hex.parse().unwrap_or_else(|_| unreachable!("64 hexadecimal digits are a token"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_restarted_queen_derives_the_same_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let launch: LaunchId = "l-1".parse().unwrap();
        let first = QueenKey::load_or_create(dir.path()).unwrap().token(&launch);
        let second = QueenKey::load_or_create(dir.path()).unwrap().token(&launch);
        assert_eq!(first, second);
        assert_ne!(first, QueenKey::load_or_create(dir.path()).unwrap().token(&"l-2".parse().unwrap()));
        let mode = fs::metadata(dir.path().join(QueenKey::NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(QueenKey::NAME), "short").unwrap();
        assert!(matches!(QueenKey::load_or_create(dir.path()), Err(KeyError::Damaged(_))));
        assert_eq!(fs::read(dir.path().join(QueenKey::NAME)).unwrap(), b"short");
    }
}

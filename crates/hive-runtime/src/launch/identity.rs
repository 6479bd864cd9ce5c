//! Who this hive is: id, launch, token.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use fleet::{HiveCommand, HiveId, LaunchId, SecretSource, Token};
use hive_api::SecretLine;

use super::{DataDir, StartError};

/// Longest secret line, in bytes. A token has at most 512 characters.
const LINE_MAX: u64 = 4096;

/// Who started the hive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchedBy {
    /// A queen, which will want it to end when it is forgotten.
    Queen,
    /// A person, who ends it when they like.
    Hand,
}

/// One start of one hive.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The hive.
    pub hive_id: HiveId,
    /// The launch.
    pub launch_id: LaunchId,
    /// What it asks for in `Authorization`.
    pub token: Token,
    /// Who started it.
    pub by: LaunchedBy,
}

impl Launch {
    /// Takes what the command says and fetches the secret from where it says; blocks until it is there.
    ///
    /// # Errors
    /// When the secret cannot be had, or the own token cannot be written.
    pub fn accept(command: &HiveCommand, dir: &DataDir) -> Result<Self, StartError> {
        let (token, by) = match &command.secret {
            SecretSource::Stdin => (from_reader(std::io::stdin(), "standard input")?, LaunchedBy::Queen),
            SecretSource::File(path) => (from_file(path)?, LaunchedBy::Queen),
            SecretSource::OwnToken => (own_token(dir.path())?, LaunchedBy::Hand),
        };
        let hive_id = match &command.hive_id {
            Some(id) => id.clone(),
            None => machine_name(),
        };
        let launch_id = match &command.launch_id {
            Some(id) => id.clone(),
            None => new_launch_id()?,
        };
        Ok(Self { hive_id, launch_id, token, by })
    }
}

fn from_reader(reader: impl Read, from: &str) -> Result<Token, StartError> {
    let refused = |reason: String| StartError::Secret { from: from.to_owned(), reason };
    let mut line = String::new();
    BufReader::new(reader.take(LINE_MAX)).read_line(&mut line).map_err(|error| refused(error.to_string()))?;
    if line.is_empty() {
        return Err(refused("it ended before a line came".to_owned()));
    }
    let line = SecretLine::parse(line.trim_end()).map_err(|error| refused(error.to_string()))?;
    Ok(line.token)
}

fn from_file(path: &Path) -> Result<Token, StartError> {
    let from = path.display().to_string();
    let refused = |reason: String| StartError::Secret { from: from.clone(), reason };
    // A symbolic link could make the hive read, and then remove, somebody else's file.
    let flags = i32::try_from(rustix_nofollow()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file: File = file.map_err(|error| refused(error.to_string()))?;
    let mode = file.metadata().map_err(|error| refused(error.to_string()))?.mode();
    if mode & 0o077 != 0 {
        return Err(refused(format!(
            "its mode is {:o}; others could read it, so it must be 600",
            mode & 0o777
        )));
    }
    let token = from_reader(file, &from)?;
    std::fs::remove_file(path).map_err(|error| refused(format!("it could not be removed: {error}")))?;
    Ok(token)
}

const fn rustix_nofollow() -> u32 {
    rustix::fs::OFlags::NOFOLLOW.bits()
}

/// Writes a new token for each start: who has read an old file cannot use the new hive.
fn own_token(dir: &Path) -> Result<Token, StartError> {
    let path = dir.join("token");
    let failed = |action, source| StartError::Io { action, path: path.clone(), source };
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| failed("make", std::io::Error::other(error)))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let token =
        text.parse().map_err(|error: fleet::TokenError| failed("make", std::io::Error::other(error)))?;
    durable_file::replace(&path, format!("{text}\n").as_bytes()).map_err(|source| failed("write", source))?;
    Ok(token)
}

fn new_launch_id() -> Result<LaunchId, StartError> {
    let failed = |error: String| StartError::Io {
        action: "name",
        path: "this launch".into(),
        source: std::io::Error::other(error),
    };
    let number = getrandom::u64().map_err(|error| failed(error.to_string()))?;
    format!("l-{number:016x}").parse().map_err(|error: fleet::IdError| failed(error.to_string()))
}

/// The machine's name as an id; characters that no id holds are left out.
fn machine_name() -> HiveId {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let text: String = name.chars().filter(legal).take(64).collect();
    text.parse().unwrap_or_else(|_| "hive".parse().unwrap_or_else(|_| unreachable!("a literal id")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LINE: &str = "{\"token\":\"0123456789abcdef\"}\n";

    #[test]
    fn a_secret_file_is_read_once_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        durable_file::replace(&path, LINE.as_bytes()).unwrap();
        assert_eq!(from_file(&path).unwrap().reveal(), "0123456789abcdef");
        assert!(!path.exists());
    }

    #[test]
    fn a_secret_that_others_could_read_is_refused_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, LINE).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = from_file(&path).unwrap_err().to_string();
        assert!(error.contains("644") && !error.contains("0123456789abcdef"), "{error}");
        let link = dir.path().join("link");
        durable_file::replace(&path, LINE.as_bytes()).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(from_file(&link).is_err() && path.exists());
    }

    #[test]
    fn an_input_that_ends_or_babbles_is_no_secret() {
        for text in ["", "\n", "{}\n", "0123456789abcdef\n"] {
            assert!(matches!(from_reader(text.as_bytes(), "x"), Err(StartError::Secret { .. })), "{text:?}");
        }
        assert!(from_reader("x".repeat(1 << 20).as_bytes(), "x").is_err());
    }

    #[test]
    fn a_hive_started_by_hand_leaves_its_token_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::lock(dir.path()).unwrap();
        let launch = Launch::accept(&HiveCommand::by_hand(), &held).unwrap();
        let path = held.path().join("token");
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), launch.token.reveal());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(launch.by, LaunchedBy::Hand);
    }
}

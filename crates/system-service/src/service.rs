//! What is started, for whom.

use std::{ffi::OsString, path::PathBuf};

/// The name of the service, and of its file.
pub(crate) const NAME: &str = "queen-rbee";

/// Seconds that a queen may take to stop: its grace and the hives' with some to spare.
pub(crate) const STOP_SECONDS: u32 = 120;

/// For whom the service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// For the user who installs it, as that user.
    User,
    /// For the machine, as this user.
    System {
        /// The account's name.
        account: String,
    },
}

/// What is started, for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The program, by its absolute path.
    pub program: PathBuf,
    /// Its arguments. Everybody on the machine can read them.
    pub arguments: Vec<OsString>,
    /// The directories in which engines are looked for, as in `PATH`.
    pub search_path: OsString,
    /// For whom.
    pub scope: Scope,
}

/// Why there is no text for a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Something that the file's format cannot hold.
    #[error("{what} {text:?} cannot stand in a service's file: {why}")]
    Text {
        /// Which part.
        what: &'static str,
        /// The part, as far as it can be shown.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Service {
    /// Program and arguments as text, the account checked.
    pub(crate) fn command(&self) -> Result<Vec<String>, ServiceError> {
        let program = text("the program", self.program.as_os_str())?;
        if !self.program.is_absolute() {
            return Err(ServiceError::Text { what: "the program", text: program, why: "it is not absolute" });
        }
        let arguments = self.arguments.iter().map(|argument| text("the argument", argument));
        std::iter::once(Ok(program)).chain(arguments).collect()
    }

    pub(crate) fn search_path(&self) -> Result<String, ServiceError> {
        text("the search path", &self.search_path)
    }

    /// The account, as useradd(8) lets one be called.
    pub(crate) fn account(&self) -> Result<Option<&str>, ServiceError> {
        let Scope::System { account } = &self.scope else { return Ok(None) };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if account.is_empty() || account.starts_with('-') || !account.chars().all(plain) {
            let (text, why) = (account.clone(), "letters, digits, `.`, `_` and `-` make an account's name");
            return Err(ServiceError::Text { what: "the account", text, why });
        }
        Ok(Some(account))
    }
}

fn text(what: &'static str, value: &std::ffi::OsStr) -> Result<String, ServiceError> {
    let refused = |why| ServiceError::Text { what, text: value.to_string_lossy().into_owned(), why };
    let text = value.to_str().ok_or_else(|| refused("it is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(refused("it holds a control character"));
    }
    Ok(text.to_owned())
}

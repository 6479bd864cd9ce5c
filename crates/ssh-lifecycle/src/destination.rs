//! Where to log in, as somebody wrote it.

use std::{fmt, path::PathBuf, str::FromStr};

use fleet::{Hostname, HostnameError, SshTarget};

use crate::{HostKey, HostKeyError};

/// An account of another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteUser(String);

/// Why a string names no account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no user name (1 to 64 letters, digits, `.`, `_`, `-`, `+` and `@`, not beginning with `-`)"
)]
pub struct RemoteUserError(String);

impl RemoteUser {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RemoteUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RemoteUser {
    type Err = RemoteUserError;

    fn from_str(text: &str) -> Result<Self, RemoteUserError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'@');
        if !(1..=64).contains(&text.len()) || text.starts_with('-') || !text.bytes().all(legal) {
            return Err(RemoteUserError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The one directory of the remote account that everything is kept below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteDir(String);

/// Why a string is no such directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the hive's directory: give a path below the remote home (`~/hive`) or an absolute one of at least two \
     parts, without `.`, `..` or control characters"
)]
pub struct RemoteDirError(String);

impl RemoteDir {
    /// An absolute path, or one relative to the remote home.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RemoteDir {
    /// Where a hive that is started by hand keeps its state too, so that each finds the other.
    fn default() -> Self {
        Self(".local/share/rbee-hive".to_owned())
    }
}

impl FromStr for RemoteDir {
    type Err = RemoteDirError;

    fn from_str(text: &str) -> Result<Self, RemoteDirError> {
        let path = text.strip_prefix("~/").unwrap_or(text).trim_end_matches('/');
        let (parts, least) = path.strip_prefix('/').map_or((path, 1), |below_root| (below_root, 2));
        let parts: Vec<&str> = parts.split('/').collect();
        let legal = |part: &&str| !part.is_empty() && !matches!(*part, "." | ".." | "~");
        let refused = path.len() > 512
            || path.chars().any(char::is_control)
            || path.starts_with('~')
            || parts.len() < least
            || !parts.iter().all(legal);
        if refused {
            return Err(RemoteDirError(text.chars().take(80).collect()));
        }
        Ok(Self(path.to_owned()))
    }
}

/// A machine and how to log in there. What is absent comes from `~/.ssh/config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The machine, or what `~/.ssh/config` calls it.
    pub host: Hostname,
    /// Account there.
    pub user: Option<RemoteUser>,
    /// Port of its SSH server.
    pub port: Option<u16>,
    /// The only private key to try.
    pub key_path: Option<PathBuf>,
    /// The only host key to accept.
    pub host_key: Option<HostKey>,
}

/// Why something names no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostnameError),
    /// The account.
    #[error(transparent)]
    User(#[from] RemoteUserError),
    /// The port.
    #[error("{0:?} is no port (1 to 65535)")]
    Port(String),
    /// The pinned host key.
    #[error("the accepted host key is none")]
    HostKey(#[from] HostKeyError),
}

impl Destination {
    /// A machine of which nothing but the name is known.
    #[must_use]
    pub const fn new(host: Hostname) -> Self {
        Self { host, user: None, port: None, key_path: None, host_key: None }
    }

    /// What was registered for a hive.
    ///
    /// # Errors
    /// Names the part that is not legal.
    pub fn of(host: &Hostname, ssh: &SshTarget) -> Result<Self, DestinationError> {
        if ssh.port == Some(0) {
            return Err(DestinationError::Port("0".to_owned()));
        }
        Ok(Self {
            host: host.clone(),
            user: ssh.user.as_deref().map(str::parse).transpose()?,
            port: ssh.port,
            key_path: ssh.key_path.clone(),
            host_key: ssh.host_key.as_deref().map(str::parse).transpose()?,
        })
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    /// Reads `[user@]host[:port]`; an IPv6 address with a port stands in brackets.
    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(user.parse()?), rest),
            None => (None, text),
        };
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
            None if rest.matches(':').count() == 1 => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
            None => (rest, None),
        };
        let number = |port: &str| match port.parse() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(DestinationError::Port(port.chars().take(20).collect())),
        };
        Ok(Self { user, port: port.map(number).transpose()?, ..Self::new(host.parse()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_read_as_people_write_it() {
        let read = |text: &str| {
            let Destination { host, user, port, .. } = text.parse().expect(text);
            (user.map(|user| user.to_string()).unwrap_or_default(), host.to_string(), port)
        };
        assert_eq!(read("box"), (String::new(), "box".into(), None));
        assert_eq!(read("ann@box:2222"), ("ann".into(), "box".into(), Some(2222)));
        assert_eq!(read("ann@corp@box"), ("ann@corp".into(), "box".into(), None));
        assert_eq!(read("fe80::1"), (String::new(), "fe80::1".into(), None));
        assert_eq!(read("root@[fe80::1]:22"), ("root".into(), "fe80::1".into(), Some(22)));
    }

    #[test]
    fn directories_that_hold_more_than_a_hive_are_refused() {
        for text in
            ["", "/", "~", "~/", "/home", "..", "a/../..", "/a/./b", "a\nb", "~root/x", "/a//b", "a/~"]
        {
            assert!(text.parse::<RemoteDir>().is_err(), "{text:?} was accepted");
        }
        for (text, path) in [("~/hive", "hive"), ("/srv/hive/", "/srv/hive"), ("a b/c'd", "a b/c'd")] {
            assert_eq!(text.parse::<RemoteDir>().expect(text).as_str(), path);
        }
    }
}

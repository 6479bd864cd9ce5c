//! Inference engines that the queen brings to machines.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{DeviceKind, Digest, Hostname, Target};

/// An engine that comes along to machines of a kind, so that a bare machine serves from its GPU. It speaks `llama-server`'s
/// command line and lies in the hive's `PATH` there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSpec {
    /// The name of its program: `llama-server`.
    pub name: EngineName,
    /// The kind of machine.
    pub target: Target,
    /// What it computes on. It is brought to machines that have such a device; any machine has a processor.
    pub backend: DeviceKind,
    /// Where it comes from.
    pub origin: EngineOrigin,
}

/// Where an engine comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineOrigin {
    /// This machine has it.
    Path {
        /// The program, or a directory with it and the libraries that it wants beside it.
        path: PathBuf,
        /// SHA-256 of the program, if it is to be checked.
        sha256: Option<Digest>,
    },
    /// It is fetched once.
    Url {
        /// The program, or a `.tar.gz` that holds it and the libraries that it wants beside it.
        url: EngineUrl,
        /// SHA-256 of what is fetched.
        sha256: Digest,
    },
}

/// The name of an engine's program: a plain file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineName(String);

/// Why a string is no name of an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a program: letters, digits, `.`, `-`, `_` and `+`, begun with a letter or a digit"
)]
pub struct EngineNameError(String);

impl EngineName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a file may have that name beside a hive.
    #[must_use]
    pub fn is_legal(name: &str) -> bool {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        name.len() <= 128 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(legal)
    }
}

impl FromStr for EngineName {
    type Err = EngineNameError;

    fn from_str(text: &str) -> Result<Self, EngineNameError> {
        if Self::is_legal(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(EngineNameError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an engine is fetched: over https, or over plain HTTP from this machine itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineUrl(String);

/// Why an engine cannot be fetched there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EngineUrlError {
    /// It cannot be told what it means.
    #[error("is not a URL")]
    Malformed,
    /// Anybody on the way could read along, and send something else.
    #[error("is neither https nor of this machine")]
    Plain,
    /// It holds a user or a password, which would stand in logs.
    #[error("holds a user")]
    User,
    /// An archive that is not unpacked.
    #[error("is an archive of a kind that is not unpacked")]
    Archive,
}

impl EngineUrl {
    /// The URL as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL as it may be shown: a query often carries a right to read.
    #[must_use]
    pub fn shown(&self) -> &str {
        path(&self.0)
    }
}

/// Without query.
fn path(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

impl FromStr for EngineUrl {
    type Err = EngineUrlError;

    fn from_str(text: &str) -> Result<Self, EngineUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(EngineUrlError::Malformed)?;
        let printable = text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        let (authority, file) = rest.split_once('/').ok_or(EngineUrlError::Malformed)?;
        if !printable || file.is_empty() {
            return Err(EngineUrlError::Malformed);
        }
        if authority.contains('@') {
            return Err(EngineUrlError::User);
        }
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']').map(|(host, _)| host),
            None => authority.split(':').next(),
        };
        let host = host.and_then(|host| host.parse::<Hostname>().ok()).ok_or(EngineUrlError::Malformed)?;
        match scheme.to_ascii_lowercase().as_str() {
            "https" => {}
            "http" if host.is_loopback() => {}
            _ => return Err(EngineUrlError::Plain),
        }
        let name = path(text).to_ascii_lowercase();
        if [".zip", ".tar", ".tar.xz", ".tar.bz2", ".tar.zst", ".7z"].iter().any(|end| name.ends_with(end)) {
            return Err(EngineUrlError::Archive);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_fetched_over_https_or_from_this_machine() {
        for (url, shown) in [
            ("https://example.org/llama-b7000.tar.gz", "https://example.org/llama-b7000.tar.gz"),
            ("https://example.org/x.TGZ?token=a.zip", "https://example.org/x.TGZ"),
            ("https://example.org:8443/llama-server", "https://example.org:8443/llama-server"),
            ("http://127.0.0.1:8080/llama-server", "http://127.0.0.1:8080/llama-server"),
            ("http://localhost/llama-server", "http://localhost/llama-server"),
            ("http://[::1]:80/llama-server", "http://[::1]:80/llama-server"),
        ] {
            let read = url.parse::<EngineUrl>().map(|url| url.shown().to_owned());
            assert_eq!(read.as_deref(), Ok(shown), "{url}");
        }
        for (url, expected) in [
            ("llama-server", EngineUrlError::Malformed),
            ("https://example.org", EngineUrlError::Malformed),
            ("https:///llama-server", EngineUrlError::Malformed),
            ("https://example.org/a b", EngineUrlError::Malformed),
            ("https://example.org/a#b", EngineUrlError::Malformed),
            ("http://example.org/llama-server", EngineUrlError::Plain),
            ("http://127.0.0.1.example.org/x", EngineUrlError::Plain),
            ("ftp://example.org/x", EngineUrlError::Plain),
            ("file://localhost/x", EngineUrlError::Plain),
            ("https://me:secret@example.org/x", EngineUrlError::User),
            ("https://example.org/llama.zip", EngineUrlError::Archive),
        ] {
            assert_eq!(url.parse::<EngineUrl>(), Err(expected), "{url}");
        }
    }

    #[test]
    fn a_name_is_a_plain_file_name() {
        for name in ["llama-server", "libggml.so.0", "a+b_c"] {
            assert!(name.parse::<EngineName>().is_ok(), "{name}");
        }
        for name in ["", ".", "..", "-x", "a/b", "a b", "ä", "a\n", "a;b"] {
            assert!(name.parse::<EngineName>().is_err(), "{name:?}");
        }
    }
}

//! The public key by which a machine is known.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use sha2::{Digest, Sha256};

/// A public key in SSH's wire form (RFC 4253, section 6.6).
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    kind: String,
    blob: Vec<u8>,
}

/// Why something is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no public key as in known_hosts (`ssh-ed25519 AAAA…`)")]
pub struct HostKeyError;

impl HostKey {
    /// Reads the wire form.
    ///
    /// # Errors
    /// When it does not begin with the name of its kind.
    pub fn from_blob(blob: &[u8]) -> Result<Self, HostKeyError> {
        let mut rest = blob;
        let kind = string(&mut rest).and_then(|kind| std::str::from_utf8(kind).ok()).ok_or(HostKeyError)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'@' | b'.');
        if kind.is_empty() || kind.len() > 64 || !kind.bytes().all(legal) || rest.is_empty() {
            return Err(HostKeyError);
        }
        Ok(Self { kind: kind.to_owned(), blob: blob.to_owned() })
    }

    /// What kind of key it is, such as `ssh-ed25519`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The wire form.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The key as it stands in known_hosts after the names: `ssh-ed25519 AAAA…`.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.kind, STANDARD.encode(&self.blob))
    }

    /// `SHA256:…`, as `ssh` and `ssh-keygen -l` show it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }
}

/// Takes one length-prefixed string (RFC 4251, section 5) off the front.
pub(crate) fn string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (string, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *bytes = rest;
    Some(string)
}

impl FromStr for HostKey {
    type Err = HostKeyError;

    /// Reads `KIND BASE64 [COMMENT]`.
    fn from_str(text: &str) -> Result<Self, HostKeyError> {
        let mut words = text.split_ascii_whitespace();
        let (Some(kind), Some(base64)) = (words.next(), words.next()) else { return Err(HostKeyError) };
        let blob = STANDARD.decode(base64).map_err(|_| HostKeyError)?;
        let key = Self::from_blob(&blob)?;
        if key.kind == kind { Ok(key) } else { Err(HostKeyError) }
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({} {})", self.kind, self.fingerprint())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn a_key_reads_back_and_has_the_fingerprint_that_ssh_shows() {
        let key: HostKey = ED25519.parse().expect("a key");
        assert_eq!((key.kind(), key.line().as_str()), ("ssh-ed25519", ED25519));
        assert!(key.fingerprint().starts_with("SHA256:"));
        assert_eq!(key.fingerprint().len(), 7 + 43, "unpadded, as ssh-keygen writes it");
        assert_eq!(HostKey::from_blob(key.blob()), Ok(key));
    }

    #[test]
    fn what_is_no_key_or_another_kind_than_it_says_is_refused() {
        let mislabelled = ED25519.replacen("ssh-ed25519", "ssh-rsa", 1);
        for text in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 !!", &mislabelled] {
            assert_eq!(text.parse::<HostKey>(), Err(HostKeyError), "{text}");
        }
    }
}

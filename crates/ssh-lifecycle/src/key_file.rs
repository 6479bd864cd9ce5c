//! Private key files, told apart before they are tried: libssh2 has one text for a wrong passphrase, a missing one and a format
//! that it does not know.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{HostKey, host_key};

/// A key file that can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateKey {
    /// The file.
    pub path: PathBuf,
    /// Its public half, where the format shows it.
    pub public: Option<HostKey>,
    /// Whether a passphrase opens it.
    pub is_encrypted: bool,
}

/// Why a key file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It is not there.
    #[error("there is no such file")]
    Missing,
    /// It is there and cannot be read.
    #[error("it cannot be read ({0})")]
    Unreadable(String),
    /// Others may read it, which ssh refuses too.
    #[error("others may read it (mode {mode:04o}), so it is not used; `chmod 600 {}`", .path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody gave the public half.
    #[error("it is the public half; give the file without .pub")]
    PublicHalf,
    /// PuTTY's format.
    #[error("it is in PuTTY's format; convert it with `puttygen KEY -O private-openssh -o NEW`")]
    Putty,
    /// The key is on a hardware token, which wants a touch.
    #[error(
        "it is a security key ({0}), which wants a touch at each use; give a key of ed25519, ecdsa or rsa"
    )]
    SecurityKey(String),
    /// A kind that is not supported.
    #[error("keys of the kind {0} are not supported; give one of ed25519, ecdsa or rsa")]
    Kind(String),
    /// Encrypted in a way that is not supported.
    #[error("its encryption ({0}) is not supported; `ssh-keygen -p -Z aes256-ctr -f KEY` changes it")]
    Cipher(String),
    /// Nothing that looks like a key.
    #[error("it is no private key")]
    NotAKey,
    /// It is encrypted and no passphrase was given.
    #[error(
        "it wants a passphrase, and nobody is there to type one: give a file with it, load the key into \
         an agent, or take it off with `ssh-keygen -p`"
    )]
    PassphraseMissing,
    /// It is encrypted and the passphrase does not open it.
    #[error("the passphrase from {} does not open it", .0.display())]
    PassphraseWrong(PathBuf),
}

/// Ciphers of OpenSSH's own format that libssh2 reads.
const CIPHERS: &[&str] =
    &["aes256-ctr", "aes192-ctr", "aes128-ctr", "aes256-cbc", "aes192-cbc", "aes128-cbc", "3des-cbc"];

/// No key is larger.
const LARGEST: u64 = 64 * 1024;

impl PrivateKey {
    /// Looks at a file.
    ///
    /// # Errors
    /// Why it cannot be used, apart from passphrases.
    pub fn look(path: &Path) -> Result<Self, KeyFault> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => KeyFault::Missing,
            _ => KeyFault::Unreadable(error.to_string()),
        };
        let metadata = path.metadata().map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > LARGEST {
            return Err(KeyFault::NotAKey);
        }
        let text = std::fs::read(path).map_err(unreadable)?;
        let key = Self::read(path, &String::from_utf8_lossy(&text))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFault::TooOpen { path: path.to_owned(), mode });
        }
        Ok(key)
    }

    fn read(path: &Path, text: &str) -> Result<Self, KeyFault> {
        let mut lines = text.lines().map(str::trim).skip_while(|line| line.is_empty());
        let first = lines.next().unwrap_or_default();
        let plain = |is_encrypted| Self { path: path.to_owned(), public: None, is_encrypted };
        match first {
            "-----BEGIN OPENSSH PRIVATE KEY-----" => {
                let body: String = lines.take_while(|line| !line.starts_with("-----")).collect();
                openssh(path, &STANDARD.decode(body).map_err(|_| KeyFault::NotAKey)?)
            }
            "-----BEGIN RSA PRIVATE KEY-----"
            | "-----BEGIN EC PRIVATE KEY-----"
            | "-----BEGIN PRIVATE KEY-----" => Ok(plain(
                lines.next().is_some_and(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")),
            )),
            "-----BEGIN ENCRYPTED PRIVATE KEY-----" => Ok(plain(true)),
            "-----BEGIN DSA PRIVATE KEY-----" => Err(KeyFault::Kind("ssh-dss".to_owned())),
            "---- BEGIN SSH2 PUBLIC KEY ----" | "-----BEGIN PUBLIC KEY-----" => Err(KeyFault::PublicHalf),
            _ if first.starts_with("PuTTY-User-Key-File") => Err(KeyFault::Putty),
            _ if first.parse::<HostKey>().is_ok() => Err(KeyFault::PublicHalf),
            _ => Err(KeyFault::NotAKey),
        }
    }
}

/// OpenSSH's own format, as PROTOCOL.key of its source describes it.
fn openssh(path: &Path, bytes: &[u8]) -> Result<PrivateKey, KeyFault> {
    let parse = || {
        let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
        let cipher = String::from_utf8_lossy(host_key::string(&mut rest)?).into_owned();
        let _derivation = host_key::string(&mut rest)?;
        let _options = host_key::string(&mut rest)?;
        rest = rest.strip_prefix(&1_u32.to_be_bytes())?;
        let public = HostKey::from_blob(host_key::string(&mut rest)?).ok()?;
        Some((cipher, public))
    };
    let (cipher, public) = parse().ok_or(KeyFault::NotAKey)?;
    match public.kind() {
        "ssh-ed25519" | "ssh-rsa" | "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" => {
        }
        kind if kind.starts_with("sk-") => return Err(KeyFault::SecurityKey(kind.to_owned())),
        kind => return Err(KeyFault::Kind(kind.to_owned())),
    }
    let is_encrypted = cipher != "none";
    if is_encrypted && !CIPHERS.contains(&cipher.as_str()) {
        return Err(KeyFault::Cipher(cipher));
    }
    Ok(PrivateKey { path: path.to_owned(), public: Some(public), is_encrypted })
}

/// What opens a key. Shows nothing of itself.
#[derive(Clone)]
pub(crate) struct Passphrase {
    pub(crate) text: String,
    pub(crate) file: PathBuf,
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

impl Passphrase {
    /// The first line of a file that only its owner may read.
    pub(crate) fn read(file: &Path) -> Result<Self, KeyFault> {
        let unreadable =
            |error: io::Error| KeyFault::Unreadable(format!("passphrase file {}: {error}", file.display()));
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFault::TooOpen { path: file.to_owned(), mode });
        }
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        Ok(Self { text: text.lines().next().unwrap_or_default().to_owned(), file: file.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt, process::Command};

    use proptest::prelude::*;

    use super::*;

    /// A key as `ssh-keygen` makes it.
    fn made(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
        let path = dir.join(name);
        let output =
            Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(args).output().expect("ssh-keygen");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        path
    }

    #[test]
    fn keys_are_told_apart_by_kind_and_encryption() {
        let dir = tempfile::tempdir().expect("a directory");
        let look = |name: &str, args: &[&str]| PrivateKey::look(&made(dir.path(), name, args)).expect(name);
        let plain = look("ed25519", &["-t", "ed25519", "-N", ""]);
        assert_eq!(plain.public.as_ref().map(HostKey::kind), Some("ssh-ed25519"));
        let text = std::fs::read_to_string(dir.path().join("ed25519.pub")).expect("its public half");
        assert_eq!(plain.public, text.parse().ok());
        assert!(!plain.is_encrypted);
        assert!(look("encrypted", &["-t", "ed25519", "-N", "secret"]).is_encrypted);
        assert!(!look("ecdsa", &["-t", "ecdsa", "-N", ""]).is_encrypted);
        assert!(!look("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]).is_encrypted);
        assert!(
            look("pem-encrypted", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret"]).is_encrypted
        );
        assert!(look("pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", "secret"]).is_encrypted);
        let strange =
            made(dir.path(), "gcm", &["-t", "ed25519", "-N", "secret", "-Z", "aes256-gcm@openssh.com"]);
        assert_eq!(PrivateKey::look(&strange), Err(KeyFault::Cipher("aes256-gcm@openssh.com".into())));
    }

    #[test]
    fn files_that_are_no_usable_key_are_named_for_what_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = made(dir.path(), "key", &["-t", "ed25519", "-N", ""]);
        assert_eq!(PrivateKey::look(&key.with_extension("pub")), Err(KeyFault::PublicHalf));
        assert_eq!(PrivateKey::look(&dir.path().join("none")), Err(KeyFault::Missing));
        assert_eq!(PrivateKey::look(dir.path()), Err(KeyFault::NotAKey));
        std::fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("a mode");
        assert_eq!(PrivateKey::look(&key), Err(KeyFault::TooOpen { path: key.clone(), mode: 0o644 }));
        let read = |text: &str| PrivateKey::read(Path::new("key"), text);
        assert_eq!(read("PuTTY-User-Key-File-3: ssh-ed25519\n"), Err(KeyFault::Putty));
        assert_eq!(read("-----BEGIN DSA PRIVATE KEY-----\n"), Err(KeyFault::Kind("ssh-dss".into())));
        assert_eq!(read("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"), Err(KeyFault::NotAKey));
        assert_eq!(read("hello"), Err(KeyFault::NotAKey));
        let mut token = b"openssh-key-v1\0".to_vec();
        for part in [&b"none"[..], b"none", b""] {
            token.extend(u32::try_from(part.len()).expect("short").to_be_bytes());
            token.extend(part);
        }
        let kind = b"sk-ssh-ed25519@openssh.com";
        token.extend([0, 0, 0, 1]);
        token.extend(u32::try_from(kind.len() + 5).expect("short").to_be_bytes());
        token.extend(u32::try_from(kind.len()).expect("short").to_be_bytes());
        token.extend(kind);
        token.extend([7]);
        assert!(matches!(openssh(Path::new("key"), &token), Err(KeyFault::SecurityKey(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = b"openssh-key-v1\0".to_vec();
            framed.extend(&bytes);
            let _ = openssh(Path::new("key"), &framed);
            let _ = PrivateKey::read(Path::new("key"), &String::from_utf8_lossy(&bytes));
        }
    }
}

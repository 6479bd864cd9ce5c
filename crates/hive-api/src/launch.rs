//! What passes between a launcher and a hive outside HTTP: the secret line and `hive.json`.

use fleet::{HiveId, LaunchId, ProcessIdentity, RunningHive, TlsFingerprint, Token};
use serde::{Deserialize, Serialize};

/// The one JSON line by which a launcher gives a hive its token, on standard input or in a file of mode 0600. It never
/// travels in an argument list or an environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretLine {
    /// What the hive asks for in `Authorization`.
    #[serde(with = "token")]
    pub token: Token,
}

/// Text that is no secret line. Does not show the text, nor what is wrong within it.
#[derive(Debug, thiserror::Error)]
#[error("the secret line is not {{\"token\":\"…\"}} with a token of 16 to 512 printable characters")]
pub struct SecretLineError;

/// Tokens in JSON, for the few messages that carry one.
pub(crate) mod token {
    use fleet::Token;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(token: &Token, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(token.reveal())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Token, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl SecretLine {
    /// The line, with its line feed.
    #[must_use]
    pub fn to_line(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_else(|_| unreachable!("one string"));
        format!("{json}\n")
    }

    /// Reads the line.
    ///
    /// # Errors
    /// Never shows what it read.
    pub fn parse(line: &str) -> Result<Self, SecretLineError> {
        serde_json::from_str(line).map_err(|_| SecretLineError)
    }
}

/// `<data-dir>/hive.json`: written before the hive listens, removed when it ends as asked. It is how a launcher, or the
/// next queen, finds a hive that it did not see start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiveFile {
    /// The hive.
    pub hive_id: HiveId,
    /// Its launch.
    pub launch_id: LaunchId,
    /// The process; a reader believes the file only while all three parts match.
    #[serde(flatten)]
    pub process: ProcessIdentity,
    /// The port that it listens on.
    pub port: u16,
    /// What it is.
    pub version: String,
    /// The certificate that it shows, if it serves TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<TlsFingerprint>,
}

impl From<HiveFile> for RunningHive {
    fn from(file: HiveFile) -> Self {
        let HiveFile { hive_id: _, launch_id, process, port, version: _, tls_fingerprint } = file;
        Self { launch_id, process, port, tls_fingerprint }
    }
}

impl HiveFile {
    /// Its name in the data directory.
    pub const NAME: &'static str = "hive.json";

    /// The file's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|_| unreachable!("strings and numbers only"))
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// Text that is not such a file.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_secret_line_is_refused_without_showing_it() {
        for line in ["", "{}", "{\"token\":7}", "{\"token\":\"short\"}", "s3cret"] {
            let error = SecretLine::parse(line).expect_err("not a secret line");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        let line = SecretLine { token: "0123456789abcdef".parse().expect("a token") }.to_line();
        assert_eq!(SecretLine::parse(&line).expect("its own line").token.reveal(), "0123456789abcdef");
    }

    #[test]
    fn hive_json_reads_back_as_itself() {
        let file = HiveFile {
            hive_id: "box".parse().expect("an id"),
            launch_id: "l-1".parse().expect("an id"),
            process: ProcessIdentity { pid: 7, start_time: 9, boot_id: "b".into() },
            port: 7835,
            version: "0.1.0".into(),
            tls_fingerprint: Some(TlsFingerprint::new([7; 32])),
        };
        assert_eq!(HiveFile::parse(&file.to_json()).expect("its own text"), file);
    }
}

//! What a hive's certificate is known by.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// SHA-256 of a certificate in DER form. A hive makes its certificate itself at each launch, so nobody vouches for it: whoever
/// connects compares this, which came by another way (SSH, or a person).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TlsFingerprint([u8; 32]);

/// Why a string is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a TLS fingerprint is 64 hexadecimal digits, the SHA-256 of the certificate; {0:?} is not")]
pub struct TlsFingerprintError(String);

impl TlsFingerprint {
    /// The fingerprint with these bytes.
    #[must_use]
    pub const fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for TlsFingerprint {
    type Err = TlsFingerprintError;

    fn from_str(text: &str) -> Result<Self, TlsFingerprintError> {
        let refused = || TlsFingerprintError(text.chars().take(80).collect());
        // OpenSSL and browsers print colons between the bytes.
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return Err(refused());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit =
                |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or_else(refused);
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for TlsFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TlsFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsFingerprint({self})")
    }
}

impl TryFrom<String> for TlsFingerprint {
    type Error = TlsFingerprintError;

    fn try_from(text: String) -> Result<Self, TlsFingerprintError> {
        text.parse()
    }
}

impl From<TlsFingerprint> for String {
    fn from(fingerprint: TlsFingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_back_with_and_without_colons() {
        let fingerprint = TlsFingerprint::new(std::array::from_fn(|i| u8::try_from(i * 7).unwrap_or(0xff)));
        let text = fingerprint.to_string();
        assert_eq!(text.parse(), Ok(fingerprint));
        let bytes: Vec<&str> = (0..32).map(|i| &text[2 * i..2 * i + 2]).collect();
        assert_eq!(bytes.join(":").to_uppercase().parse(), Ok(fingerprint));
    }

    #[test]
    fn what_is_no_sha256_is_refused() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66), "é"] {
            assert!(text.parse::<TlsFingerprint>().is_err(), "{text:?}");
        }
    }
}

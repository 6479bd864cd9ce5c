//! Names of hives, workers, launches and requests.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a string is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The empty string, or more than 64 bytes.
    #[error("{what} must have 1 to 64 characters, this one has {length}")]
    Length {
        /// Which kind of id was parsed.
        what: &'static str,
        /// Length of the refused string, in bytes.
        length: usize,
    },
    /// A character outside `A-Z a-z 0-9 . _ -`, or a first one that is not a letter or a digit.
    #[error(
        "{what} may hold letters, digits, `.`, `_` and `-` and starts with a letter or digit; {found:?} at {at} is \
         neither"
    )]
    Character {
        /// Which kind of id was parsed.
        what: &'static str,
        /// The first refused character.
        found: char,
        /// Its byte offset.
        at: usize,
    },
}

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > 64 {
        return Err(IdError::Length { what, length: text.len() });
    }
    // Each request has one, so it is read by its bytes; behind legal ones a character begins.
    let legal = |at, byte: u8| byte.is_ascii_alphanumeric() || (at > 0 && matches!(byte, b'.' | b'_' | b'-'));
    match text.bytes().enumerate().find(|&(at, byte)| !legal(at, byte)) {
        Some((at, _)) => {
            let found = text[at..].chars().next().unwrap_or_default();
            Err(IdError::Character { what, found, at })
        }
        None => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                check($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A hive, as its owner calls it. Unique in the fleet, stable over restarts.
    HiveId,
    "a hive id"
);
id!(
    /// A worker. Unique within its hive's launch; the pair (launch, worker) is unique for ever.
    WorkerId,
    "a worker id"
);
id!(
    /// One start of a hive. It is the fencing token: a hive refuses requests meant for another launch.
    LaunchId,
    "a launch id"
);
id!(
    /// One request of a client, as shown in `x-request-id`.
    RequestId,
    "a request id"
);
id!(
    /// One transfer of a model into one store.
    DownloadId,
    "a download id"
);
id!(
    /// A directory of model files. Hives that report the same one share their files.
    StoreId,
    "a store id"
);
id!(
    /// An API key's public name; the key itself is never stored.
    ApiKeyId,
    "a key id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_be_mistaken_for_flags_paths_or_markup_are_refused() {
        for text in ["", "-x", ".x", "a b", "a/b", "a\n", "ü", "a;b", "../a", "a\u{0}", &"a".repeat(65)] {
            assert!(text.parse::<HiveId>().is_err(), "{text:?} was accepted");
        }
        for text in ["a", "box-1", "192.168.1.10", "gaming_pc", "A9"] {
            assert_eq!(text.parse::<HiveId>().expect("a legal id").as_str(), text);
        }
    }

    #[test]
    fn a_refused_id_names_the_character_and_its_place() {
        let error = "box 1".parse::<HiveId>().expect_err("a space");
        assert_eq!(error, IdError::Character { what: "a hive id", found: ' ', at: 3 });
    }
}

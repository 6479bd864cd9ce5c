//! Why a header could not be read.

use std::io;
use std::path::PathBuf;

use crate::value::ValueType;

/// What is wrong with a file, or with the part of it that was given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes end before the header does. More of the same file may complete it.
    #[error("the header is not complete: at least {needed} bytes are needed")]
    Truncated {
        /// A lower bound for the length of the prefix to try next, in bytes from the start of the file.
        needed: u64,
    },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?}")]
    NotGguf {
        /// The first bytes of the file.
        found: [u8; 4],
    },
    /// A version this crate does not read; a byte-swapped version is a big-endian file.
    #[error("GGUF version {version:#x} is not supported, only little-endian versions 2 and 3 are")]
    UnsupportedVersion {
        /// The version as it stands in the file.
        version: u32,
    },
    /// A count or length is larger than any real model has.
    #[error("{what} of {claimed} is implausible, at most {limit} is accepted")]
    Implausible {
        /// Which count or length.
        what: &'static str,
        /// What the file claims.
        claimed: u64,
        /// The bound it breaks.
        limit: u64,
    },
    /// A value of a type the format does not define.
    #[error("unknown value type {0}")]
    UnknownValueType(u32),
    /// A name or text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// What the text is.
        what: &'static str,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("{0} is not a boolean")]
    NotABool(u8),
    /// The same key or tensor name occurs twice, so the file has no single meaning.
    #[error("{what} {name:?} occurs twice")]
    Duplicate {
        /// Key or tensor.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A tensor whose shape cannot be: an overflow, or rows that do not fill whole quantisation blocks.
    #[error("tensor {name:?} has an impossible shape {dimensions:?}")]
    BadShape {
        /// The tensor's name.
        name: String,
        /// Its dimensions, innermost first.
        dimensions: Vec<u64>,
    },
    /// An alignment that is not a power of two.
    #[error("alignment {0} is not a power of two")]
    BadAlignment(u64),
    /// A key that this question needs is missing.
    #[error("the metadata has no {0:?}")]
    MissingKey(String),
    /// A key has a value of a type that makes no sense for it.
    #[error("{key:?} has the type {found:?}, which it cannot have")]
    WrongType {
        /// The key.
        key: String,
        /// The type found.
        found: ValueType,
    },
    /// The file ends before its tensors do: a download that was cut off.
    #[error("the file is cut off: its tensors end at byte {expected}, it has {actual}")]
    FileTooShort {
        /// Where the last tensor ends, in bytes.
        expected: u64,
        /// The length of the file, in bytes.
        actual: u64,
    },
    /// The file could not be opened or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The reader given to [`crate::Header::read`] failed.
    #[error("cannot read the header")]
    Read(#[source] io::Error),
}

//! A parsed header: the metadata and the table of tensors.

use std::collections::BTreeMap;
use std::io::Read;

use crate::error::Error;
use crate::model::ModelInfo;
use crate::parse::{self, Limits};
use crate::quant::TensorType;
use crate::value::{Array, Value};

/// Everything that stands before the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The version of the format, 2 or 3.
    pub version: u32,
    /// The metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Where the weights begin, in bytes from the start of the file.
    pub data_offset: u64,
}

/// One line of the table of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The dimensions, innermost first.
    pub dimensions: Vec<u64>,
    /// How the weights are stored.
    pub tensor_type: TensorType,
    /// Where the weights begin, in bytes from [`Header::data_offset`].
    pub offset: u64,
    /// How many bytes they take, or `None` for a storage type this crate does not know.
    pub bytes: Option<u64>,
}

impl Header {
    /// Reads a header from the first bytes of a file.
    ///
    /// # Errors
    /// [`Error::Truncated`] says how many bytes to bring at least; every other error is final.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        parse::header(bytes, &Limits::default())
    }

    /// Reads a header from the front of a reader, with bounds of one's own. The reader is asked for small pieces, so
    /// wrap a file in a [`std::io::BufReader`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(reader: impl Read, limits: &Limits) -> Result<Self, Error> {
        parse::header(reader, limits)
    }

    /// What the header says about the model.
    ///
    /// # Errors
    /// [`Error::MissingKey`] without an architecture, [`Error::WrongType`] where a key has a value that it cannot have.
    pub fn model(&self) -> Result<ModelInfo, Error> {
        ModelInfo::from_header(self)
    }

    /// The non-negative integer at `key`, `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::WrongType`] if something else stands there.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, Value::as_u64)
    }

    /// The text at `key`, `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::WrongType`] if something else stands there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, Value::as_str)
    }

    /// The truth value at `key`, `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::WrongType`] if something else stands there.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, Value::as_bool)
    }

    /// The array at `key`, `None` if the key is missing.
    ///
    /// # Errors
    /// [`Error::WrongType`] if something else stands there.
    pub fn array(&self, key: &str) -> Result<Option<&Array>, Error> {
        self.typed(key, Value::as_array)
    }

    fn typed<'a, T>(&'a self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::WrongType { key: key.to_owned(), found: value.value_type() }),
        }
    }

    /// Bytes of all weights, `None` if one is stored in a way this crate does not know.
    #[must_use]
    pub fn tensor_bytes(&self) -> Option<u64> {
        self.tensors.iter().try_fold(0_u64, |sum, tensor| sum.checked_add(tensor.bytes?))
    }

    /// The shortest file that holds all tensors of known size.
    #[must_use]
    pub fn expected_len(&self) -> u64 {
        let ends = self.tensors.iter().map(|tensor| tensor.offset.saturating_add(tensor.bytes.unwrap_or(0)));
        match ends.max() {
            Some(end) => self.data_offset.saturating_add(end),
            // A file without tensors (a vocabulary) need not be padded up to where they would begin.
            None => 0,
        }
    }

    /// Whether a file of `actual` bytes holds all its tensors.
    ///
    /// # Errors
    /// [`Error::FileTooShort`] for a file that was cut off.
    pub fn check_len(&self, actual: u64) -> Result<(), Error> {
        let expected = self.expected_len();
        if actual < expected { Err(Error::FileTooShort { expected, actual }) } else { Ok(()) }
    }
}

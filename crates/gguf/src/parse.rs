//! The bytes of a header, read once from front to back.

use std::collections::{BTreeMap, HashSet};
use std::io::{ErrorKind, Read};

use crate::error::Error;
use crate::header::{Header, TensorInfo};
use crate::quant::TensorType;
use crate::value::{Array, Value, ValueType};

const MAGIC: [u8; 4] = *b"GGUF";
/// The alignment of tensor data where `general.alignment` says nothing.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;

/// What a reader accepts, and what it keeps. The defaults are far above every published model and far below what would
/// hurt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole header.
    pub header_bytes: u64,
    /// Metadata entries.
    pub entries: u64,
    /// Tensors.
    pub tensors: u64,
    /// Bytes of one text; chat templates are the longest ones.
    pub text_bytes: u64,
    /// Bytes of a key or of a tensor's name.
    pub name_bytes: u64,
    /// Dimensions of a tensor. The format allows four; the rest is room for its future.
    pub dimensions: u32,
    /// Arrays inside arrays.
    pub depth: u32,
    /// Longer arrays are read over, and only their length is kept.
    pub kept_array: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 256 << 20,
            entries: 1 << 16,
            tensors: 1 << 20,
            text_bytes: 16 << 20,
            name_bytes: u16::MAX.into(),
            dimensions: 8,
            depth: 4,
            kept_array: 1024,
        }
    }
}

/// Reads a header from the front of `reader`.
pub(crate) fn header(reader: impl Read, limits: &Limits) -> Result<Header, Error> {
    let mut source = Source { reader, position: 0, limits };
    let magic = source.array::<4>()?;
    if magic != MAGIC {
        return Err(Error::NotGguf { found: magic });
    }
    let version = source.u32()?;
    if !matches!(version, 2 | 3) {
        return Err(Error::UnsupportedVersion { version });
    }
    let tensors = source.count("number of tensors", limits.tensors)?;
    let entries = source.count("number of metadata entries", limits.entries)?;
    let metadata = source.metadata(entries)?;
    let tensors = source.tensors(tensors)?;
    let alignment = alignment(&metadata)?;
    let data_offset = source.position.next_multiple_of(alignment);
    Ok(Header { version, metadata, tensors, data_offset })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, Error> {
    /// No file has more; the bound keeps `next_multiple_of` far from overflow.
    const LARGEST: u64 = 1 << 30;
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= LARGEST => Ok(alignment),
        Some(alignment) => Err(Error::BadAlignment(alignment)),
        None => Err(Error::WrongType { key: "general.alignment".to_owned(), found: value.value_type() }),
    }
}

struct Source<'a, R> {
    reader: R,
    /// Bytes consumed so far.
    position: u64,
    limits: &'a Limits,
}

impl<R: Read> Source<'_, R> {
    fn metadata(&mut self, entries: u64) -> Result<BTreeMap<String, Value>, Error> {
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = self.text("metadata key", self.limits.name_bytes)?;
            let value_type = self.value_type()?;
            let value = self.value(value_type, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Error::Duplicate { what: "key", name: key });
            }
        }
        Ok(metadata)
    }

    fn tensors(&mut self, count: u64) -> Result<Vec<TensorInfo>, Error> {
        let mut names = HashSet::new();
        // Not `with_capacity(count)`: the count is a claim until that many tensors have arrived.
        let mut tensors = Vec::new();
        for _ in 0..count {
            let tensor = self.tensor()?;
            if !names.insert(tensor.name.clone()) {
                return Err(Error::Duplicate { what: "tensor", name: tensor.name });
            }
            tensors.push(tensor);
        }
        Ok(tensors)
    }

    fn tensor(&mut self) -> Result<TensorInfo, Error> {
        let name = self.text("tensor name", self.limits.name_bytes)?;
        let rank = self.u32()?;
        within("number of dimensions", rank.into(), self.limits.dimensions.into())?;
        let dimensions = (0..rank).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        let tensor_type = TensorType(self.u32()?);
        let offset = self.u64()?;
        match tensor_type.bytes(&dimensions) {
            Ok(bytes) if bytes.is_none_or(|bytes| offset.checked_add(bytes).is_some()) => {
                Ok(TensorInfo { name, dimensions, tensor_type, offset, bytes })
            }
            Ok(_) | Err(()) => Err(Error::BadShape { name, dimensions }),
        }
    }

    fn value(&mut self, value_type: ValueType, depth: u32) -> Result<Value, Error> {
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            ValueType::U32 => Value::U32(self.u32()?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            ValueType::Bool => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Error::NotABool(other)),
            },
            ValueType::String => Value::String(self.text("metadata text", self.limits.text_bytes)?),
            ValueType::Array => Value::Array(self.list(depth)?),
            ValueType::U64 => Value::U64(self.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
        })
    }

    fn list(&mut self, depth: u32) -> Result<Array, Error> {
        within("depth of arrays", u64::from(depth) + 1, self.limits.depth.into())?;
        let element = self.value_type()?;
        let len = self.u64()?;
        if len > self.limits.kept_array {
            self.skip_list(element, len, depth)?;
            return Ok(Array { element, len, items: None });
        }
        let items = (0..len).map(|_| self.value(element, depth + 1)).collect::<Result<Vec<_>, _>>()?;
        Ok(Array { element, len, items: Some(items) })
    }

    /// Reads over the elements of a list. Every element costs at least one byte of input, so the loop ends with the
    /// input however long the list claims to be.
    fn skip_list(&mut self, element: ValueType, len: u64, depth: u32) -> Result<(), Error> {
        if let Some(size) = element.fixed_size() {
            return self.skip(len.saturating_mul(size));
        }
        for _ in 0..len {
            if element == ValueType::String {
                let bytes = self.count("length of a metadata text", self.limits.text_bytes)?;
                self.skip(bytes)?;
            } else {
                self.list(depth + 1)?;
            }
        }
        Ok(())
    }

    fn value_type(&mut self) -> Result<ValueType, Error> {
        let number = self.u32()?;
        ValueType::from_number(number).ok_or(Error::UnknownValueType(number))
    }

    fn text(&mut self, what: &'static str, limit: u64) -> Result<String, Error> {
        let length = self.count(what, limit)?;
        let end = self.reserve(length)?;
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(length).read_to_end(&mut bytes).map_err(Error::Read)?;
        if (read as u64) < length {
            return Err(Error::Truncated { needed: end });
        }
        self.position = end;
        String::from_utf8(bytes).map_err(|_| Error::NotUtf8 { what })
    }

    fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, Error> {
        let claimed = self.u64()?;
        within(what, claimed, limit)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let end = self.reserve(N as u64)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes, end)?;
        self.position = end;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Result<(), Error> {
        let end = self.reserve(length)?;
        let mut scratch = [0_u8; 8192];
        while self.position < end {
            let step = (end - self.position).min(scratch.len() as u64);
            let part = usize::try_from(step).map_or(scratch.len(), |step| step.min(scratch.len()));
            self.fill(&mut scratch[..part], end)?;
            self.position += step;
        }
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8], end: u64) -> Result<(), Error> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::Truncated { needed: end },
            _ => Error::Read(error),
        })
    }

    /// Where the next `length` bytes end, if the header may be that long.
    fn reserve(&self, length: u64) -> Result<u64, Error> {
        within("length of the header", self.position.saturating_add(length), self.limits.header_bytes)
    }
}

fn within(what: &'static str, claimed: u64, limit: u64) -> Result<u64, Error> {
    if claimed > limit { Err(Error::Implausible { what, claimed, limit }) } else { Ok(claimed) }
}

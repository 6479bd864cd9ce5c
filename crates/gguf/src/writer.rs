//! Writing small files.

use crate::header::TensorInfo;
use crate::parse::DEFAULT_ALIGNMENT;
use crate::quant::TensorType;
use crate::value::{Array, Value, ValueType};

/// Why a file cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The weights are more or fewer than the dimensions say.
    #[error("tensor {name:?} needs {needed:?} weights, it has {given}")]
    WrongCount {
        /// The tensor.
        name: String,
        /// The product of its dimensions, `None` if it overflows.
        needed: Option<u64>,
        /// The weights given.
        given: u64,
    },
    /// An array whose elements were skipped while reading, or are not all of its type.
    #[error("the array at {key:?} is not complete or not of one type")]
    BadArray {
        /// The key.
        key: String,
    },
}

/// A GGUF version 3 file in the making. Keys and tensors are written in the order in which they were added, so the same
/// calls make the same bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Writer {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    tensor_type: TensorType,
    weights: Vec<f32>,
}

impl Writer {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one metadata entry.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor stored in single precision, dimensions innermost first.
    #[must_use]
    pub fn with_f32(self, name: &str, dimensions: &[u64], weights: Vec<f32>) -> Self {
        self.with_tensor(name, dimensions, TensorType::F32, weights)
    }

    /// Adds a tensor stored in half precision (rounded to the nearest, ties to even), dimensions innermost first.
    #[must_use]
    pub fn with_f16(self, name: &str, dimensions: &[u64], weights: Vec<f32>) -> Self {
        self.with_tensor(name, dimensions, TensorType::F16, weights)
    }

    fn with_tensor(
        mut self,
        name: &str,
        dimensions: &[u64],
        tensor_type: TensorType,
        weights: Vec<f32>,
    ) -> Self {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dimensions: dimensions.to_vec(),
            tensor_type,
            weights,
        });
        self
    }

    /// The file.
    ///
    /// # Errors
    /// [`WriteError`] names the tensor or the key that makes no sense.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let mut out = Vec::new();
        out.extend(b"GGUF");
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            out.extend((value.value_type() as u32).to_le_bytes());
            put_value(&mut out, value).ok_or_else(|| WriteError::BadArray { key: key.clone() })?;
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            let info = tensor.info(offset)?;
            put_info(&mut out, &info);
            offset = (offset + info.bytes.unwrap_or(0)).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        for tensor in &self.tensors {
            pad(&mut out);
            put_weights(&mut out, tensor);
        }
        pad(&mut out);
        Ok(out)
    }
}

impl Tensor {
    fn info(&self, offset: u64) -> Result<TensorInfo, WriteError> {
        let needed = self.dimensions.iter().try_fold(1_u64, |product, &d| product.checked_mul(d));
        let given = self.weights.len() as u64;
        match self.tensor_type.bytes(&self.dimensions) {
            Ok(bytes) if needed == Some(given) => Ok(TensorInfo {
                name: self.name.clone(),
                dimensions: self.dimensions.clone(),
                tensor_type: self.tensor_type,
                offset,
                bytes,
            }),
            _ => Err(WriteError::WrongCount { name: self.name.clone(), needed, given }),
        }
    }
}

fn put_info(out: &mut Vec<u8>, info: &TensorInfo) {
    put_text(out, &info.name);
    out.extend((info.dimensions.len() as u32).to_le_bytes());
    for dimension in &info.dimensions {
        out.extend(dimension.to_le_bytes());
    }
    out.extend(info.tensor_type.0.to_le_bytes());
    out.extend(info.offset.to_le_bytes());
}

fn put_weights(out: &mut Vec<u8>, tensor: &Tensor) {
    for &weight in &tensor.weights {
        if tensor.tensor_type == TensorType::F16 {
            out.extend(half(weight).to_le_bytes());
        } else {
            out.extend(weight.to_le_bytes());
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// `None` for an array that cannot be written.
fn put_value(out: &mut Vec<u8>, value: &Value) -> Option<()> {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(text) => put_text(out, text),
        Value::Array(array) => put_array(out, array)?,
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
    Some(())
}

fn put_array(out: &mut Vec<u8>, array: &Array) -> Option<()> {
    let items = array.items.as_ref().filter(|items| items.len() as u64 == array.len)?;
    let element: ValueType = array.element;
    out.extend((element as u32).to_le_bytes());
    out.extend(array.len.to_le_bytes());
    for item in items {
        if item.value_type() != element {
            return None;
        }
        put_value(out, item)?;
    }
    Some(())
}

fn pad(out: &mut Vec<u8>) {
    let padded = (out.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT);
    out.resize(padded as usize, 0);
}

/// IEEE 754 half precision, rounded to the nearest and ties to even.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // 65520 is half way between the largest half and the next power of two: from there on it is infinity.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    // Below 2^-14 halves are spaced evenly, by 2^-24; the product is exact and `round_ties_even` is the rounding wanted.
    if magnitude < 0x3880_0000 {
        let steps = (f32::from_bits(magnitude) * 16_777_216.0).round_ties_even();
        return sign | steps as u16;
    }
    let odd = (magnitude >> 13) & 1;
    let rounded = magnitude + 0x0fff + odd;
    sign | ((rounded - 0x3800_0000) >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_as_ieee_demands() {
        let cases = [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (65504.0, 0x7bff),
            (65519.9, 0x7bff),
            (65520.0, 0x7c00),
            (f32::INFINITY, 0x7c00),
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (5.960_464_5e-8, 0x0001),
            (2.980_232_2e-8, 0x0000),
            (6.103_515_6e-5, 0x0400),
            (6.097_555e-5, 0x03ff),
        ];
        for (value, expected) in cases {
            assert_eq!(half(value), expected, "{value}");
        }
        assert_eq!(half(f32::NAN) & 0x7c00, 0x7c00);
        assert_ne!(half(f32::NAN) & 0x03ff, 0);
    }

    #[test]
    fn a_tensor_with_the_wrong_number_of_weights_is_refused() {
        let error = Writer::new().with_f32("w", &[2, 2], vec![0.0; 3]).to_bytes().unwrap_err();
        assert_eq!(error, WriteError::WrongCount { name: "w".to_owned(), needed: Some(4), given: 3 });
    }

    #[test]
    fn an_array_that_was_skipped_while_reading_cannot_be_written() {
        let skipped = Array { element: ValueType::String, len: 7, items: None };
        let error = Writer::new().with("k", skipped).to_bytes().unwrap_err();
        assert_eq!(error, WriteError::BadArray { key: "k".to_owned() });
    }
}

//! The GGUF model file format, versions 2 and 3: what a file says about its model, without its weights.
//!
//! [`Header`] is the metadata and the tensor table. It is read from anything that implements [`std::io::Read`],
//! so the same code serves a local file ([`read_file`]) and the first megabytes of a file that still lies at a model
//! hub ([`Header::parse`] answers [`Error::Truncated`] until it was given enough). [`ModelInfo`] is the part of it that
//! decides whether a model fits a machine. [`Writer`] makes small files, for tests and demonstrations.
//!
//! This is not an inference library: no tensor is ever loaded, dequantised or mapped.
//!
//! The key decision: a header comes from strangers, so every length in it is a claim. Nothing is allocated because of a
//! claim, only because of bytes that really arrived, and every count, length and depth has a bound in [`Limits`].
//!
//! **Invariant:** parsing never panics, never recurses more than [`Limits::depth`] deep and never holds much more
//! memory than the bytes it consumed, whatever the bytes are.
//!
//! The format is described in <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod error;
mod file;
mod header;
mod model;
mod parse;
mod quant;
mod value;
mod writer;

pub use error::Error;
pub use file::{ModelFile, read_file, read_file_with, shard_paths};
pub use header::{Header, TensorInfo};
pub use model::{LatentAttention, ModelInfo, PerLayer, Split};
pub use parse::Limits;
pub use quant::{TensorType, file_type_name};
pub use value::{Array, Value, ValueType};
pub use writer::{WriteError, Writer};

//! Headers of local files, and the names of a model's shards.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::header::Header;
use crate::parse::Limits;

/// A local file and its header.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// The header.
    pub header: Header,
    /// The length of the file, in bytes.
    pub len: u64,
}

/// Reads the header of a local file with the default [`Limits`] and checks that the file holds all its tensors.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::FileTooShort`] if it was cut off, and whatever is wrong with the
/// header.
pub fn read_file(path: &Path) -> Result<ModelFile, Error> {
    read_file_with(path, &Limits::default())
}

/// [`read_file`] with bounds of one's own.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_with(path: &Path, limits: &Limits) -> Result<ModelFile, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let header = Header::read(BufReader::new(file), limits).map_err(|error| match error {
        Error::Read(source) => io(source),
        // The whole file was given, so it is the file that is too short, not the prefix of it.
        Error::Truncated { needed } => Error::FileTooShort { expected: needed, actual: len },
        other => other,
    })?;
    header.check_len(len)?;
    Ok(ModelFile { header, len })
}

/// The paths of all `count` shards of the model that `path` is one shard of, in order. `None` if the name does not end
/// in `-00001-of-00003.gguf`, the form that llama.cpp's `gguf-split` writes and its readers demand.
#[must_use]
pub fn shard_paths(path: &Path, count: u64) -> Option<Vec<PathBuf>> {
    /// No model has more; the name has room for five digits.
    const MOST: u64 = 9999;
    let (stem, number) =
        path.file_name()?.to_str()?.strip_suffix(&format!("-of-{count:05}.gguf"))?.rsplit_once('-')?;
    if number.len() != 5 || !number.bytes().all(|b| b.is_ascii_digit()) || count > MOST {
        return None;
    }
    Some((1..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_file_that_was_cut_off_is_told_from_a_whole_one() {
        let bytes = Writer::new()
            .with("general.architecture", "llama")
            .with_f32("w", &[8], vec![0.0; 8])
            .to_bytes()
            .unwrap();
        assert_eq!(read_file(file_with(&bytes).path()).unwrap().len, bytes.len() as u64);
        let cut_in_weights = read_file(file_with(&bytes[..bytes.len() - 1]).path());
        assert!(matches!(cut_in_weights, Err(Error::FileTooShort { .. })), "{cut_in_weights:?}");
        let cut_in_header = read_file(file_with(&bytes[..30]).path());
        assert!(matches!(cut_in_header, Err(Error::FileTooShort { actual: 30, .. })), "{cut_in_header:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_file(Path::new("/nowhere/model.gguf")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/model.gguf");
    }

    #[test]
    fn shards_are_named_after_any_one_of_them() {
        let second = Path::new("/models/big-00002-of-00003.gguf");
        let names = ["1", "2", "3"].map(|i| PathBuf::from(format!("/models/big-0000{i}-of-00003.gguf")));
        assert_eq!(shard_paths(second, 3).unwrap(), names);
        assert_eq!(shard_paths(second, 4), None);
        assert_eq!(shard_paths(Path::new("/models/big.gguf"), 3), None);
    }
}

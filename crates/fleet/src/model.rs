//! Models: how people name them, what a name stands for once resolved, and what is on disk or on its way.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{DownloadId, LaunchId};

/// A model as a person names it.
///
/// - `hf:owner/name[@revision][:file-or-quantisation]`, or bare `owner/name…`: a repository of a model hub;
/// - `file:/absolute/path.gguf`: a file of the hive's machine.
///
/// ASCII, at most 256 bytes. No segment is empty, holds `..` or starts with `-` or, but for directories of a `file:` path,
/// with `.`, so a reference can stand in a path, a URL or an argument list without being mistaken for something else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModelRef {
    /// A repository of a model hub.
    Hub {
        /// The account that owns the repository.
        owner: Arc<str>,
        /// The repository.
        name: Arc<str>,
        /// Branch, tag or commit; the hub's default branch if absent.
        revision: Option<Arc<str>>,
        /// A file of the repository, or the name of a quantisation such as `Q4_K_M`.
        file: Option<Arc<str>>,
    },
    /// A file of the hive's machine, by absolute path.
    File(Arc<str>),
}

/// Longest model reference, in bytes.
const MODEL_REF_MAX: usize = 256;

/// Why a string is no model reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelRefError {
    /// The empty string, or more than 256 bytes.
    #[error("a model reference has 1 to {MODEL_REF_MAX} characters, this one has {0}")]
    Length(usize),
    /// A character that no model reference holds.
    #[error("a model reference may not hold {found:?} (at position {at})")]
    Character {
        /// The refused character.
        found: char,
        /// Its byte offset.
        at: usize,
    },
    /// Neither of the two forms.
    #[error(
        "not a model reference: write hf:owner/name[@revision][:file-or-quant] or file:/absolute/path.gguf"
    )]
    Form,
    /// A part that is empty, holds `..`, or starts with `-` or `.`.
    #[error("{0:?} in a model reference is empty, holds `..`, or starts with `-` or `.`")]
    Segment(String),
}

fn check_segment(segment: &str) -> Result<(), ModelRefError> {
    let illegal = segment.is_empty() || segment.starts_with(['-', '.']) || segment.contains("..");
    if illegal { Err(ModelRefError::Segment(segment.to_owned())) } else { Ok(()) }
}

/// Directories such as `~/.cache` and `~/.local` hold models, and an absolute path cannot be taken for anything else.
fn check_path_segment(segment: &str) -> Result<(), ModelRefError> {
    let hidden = segment.strip_prefix('.').unwrap_or(segment);
    check_segment(hidden).map_err(|_| ModelRefError::Segment(segment.to_owned()))
}

fn check_characters(text: &str) -> Result<(), ModelRefError> {
    let legal = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '@' | ':' | '+' | '=' | ',')
    };
    match text.char_indices().find(|&(_, c)| !legal(c)) {
        Some((at, found)) => Err(ModelRefError::Character { found, at }),
        None => Ok(()),
    }
}

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, ModelRefError> {
        if text.is_empty() || text.len() > MODEL_REF_MAX {
            return Err(ModelRefError::Length(text.len()));
        }
        check_characters(text)?;
        if let Some(path) = text.strip_prefix("file:") {
            let rest = path.strip_prefix('/').ok_or(ModelRefError::Form)?;
            rest.split('/').try_for_each(check_path_segment)?;
            return Ok(Self::File(path.into()));
        }
        let rest = text.strip_prefix("hf:").unwrap_or(text);
        let (repository, file) = match rest.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (rest, None),
        };
        let (repository, revision) = match repository.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (repository, None),
        };
        let (owner, name) = repository.split_once('/').ok_or(ModelRefError::Form)?;
        if name.contains('/') || file.is_some_and(|f| f.contains(':')) {
            return Err(ModelRefError::Form);
        }
        [owner, name].into_iter().try_for_each(check_segment)?;
        for part in [revision, file].into_iter().flatten() {
            part.split('/').try_for_each(check_segment)?;
        }
        Ok(Self::Hub {
            owner: owner.into(),
            name: name.into(),
            revision: revision.map(Into::into),
            file: file.map(Into::into),
        })
    }
}

impl ModelRef {
    /// Whether this is how the reference is written, with nothing left out.
    #[must_use]
    pub fn is_written(&self, text: &str) -> bool {
        let mut rest = Some(text);
        self.parts().into_iter().for_each(|part| rest = rest.and_then(|rest| rest.strip_prefix(part)));
        rest == Some("")
    }

    /// What it is written with, one behind the other; absent ones are empty.
    fn parts(&self) -> [&str; 8] {
        match self {
            Self::File(path) => ["file:", path, "", "", "", "", "", ""],
            Self::Hub { owner, name, revision, file } => {
                let [at, revision] = revision.as_deref().map_or(["", ""], |revision| ["@", revision]);
                let [colon, file] = file.as_deref().map_or(["", ""], |file| [":", file]);
                ["hf:", owner, "/", name, at, revision, colon, file]
            }
        }
    }
}

impl Hash for ModelRef {
    /// Each request hashes one, and the name alone tells nearly all apart.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (Self::Hub { name, .. } | Self::File(name)) = self;
        name.hash(state);
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().into_iter().try_for_each(|part| f.write_str(part))
    }
}

impl TryFrom<String> for ModelRef {
    type Error = ModelRefError;

    fn try_from(text: String) -> Result<Self, ModelRefError> {
        text.parse()
    }
}

impl From<ModelRef> for String {
    fn from(model: ModelRef) -> Self {
        model.to_string()
    }
}

/// What a [`ModelRef`] stood for when it was resolved: for a hub a commit and a file, for a local file its path. Two
/// references with the same resolution are the same model and share one transfer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resolved(Arc<str>);

impl Resolved {
    /// The resolution as text; itself a legal, fully pinned model reference.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Resolved {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, ModelRefError> {
        Ok(Self(text.parse::<ModelRef>()?.to_string().into()))
    }
}

impl From<&Resolved> for ModelRef {
    fn from(resolved: &Resolved) -> Self {
        resolved.as_str().parse().unwrap_or_else(|_| unreachable!("a resolution is a model reference"))
    }
}

impl From<&ModelRef> for Resolved {
    /// Takes a reference that is already pinned, such as a file's path.
    fn from(pinned: &ModelRef) -> Self {
        Self(pinned.to_string().into())
    }
}

impl TryFrom<String> for Resolved {
    type Error = ModelRefError;

    fn try_from(text: String) -> Result<Self, ModelRefError> {
        text.parse()
    }
}

impl From<Resolved> for String {
    fn from(resolved: Resolved) -> Self {
        resolved.0.as_ref().to_owned()
    }
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits (SHA-256)")]
pub struct DigestError;

impl Digest {
    /// From the 32 bytes of a SHA-256.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(DigestError);
        }
        let nibble =
            |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok()).ok_or(DigestError);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A model that is complete in a hive's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredModel {
    /// What it is.
    pub resolved: Resolved,
    /// SHA-256 of the file (of the first one for a model in several shards); absent while it is being computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Size of all its files together, in bytes.
    pub bytes: u64,
    /// File names below the store, or an absolute path for a `file:` model; the first one is what an engine opens.
    pub files: Vec<String>,
}

/// One file of a model, as its source has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub digest: Digest,
}

/// What a reference stands for, down to the last byte: one revision, and its files with their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The revision and the first file.
    pub resolved: Resolved,
    /// All files, the one that an engine opens first.
    pub files: Vec<ModelFile>,
}

impl Pinned {
    /// Size of all files together; as large as a number can be where it does not fit into one.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

/// One transfer of a model into a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DownloadRecord {
    /// Its name within the launch.
    pub download_id: DownloadId,
    /// The launch that runs it.
    pub launch_id: LaunchId,
    /// The hive's revision of the last change to this record.
    pub rev: u64,
    /// The reference it was asked for by.
    pub model_ref: ModelRef,
    /// What that stands for; absent until the hub answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// Bytes on disk so far.
    pub bytes: u64,
    /// Bytes when complete, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes per second over the last few seconds.
    pub rate: u64,
    /// The file that it waits for the queen to bring, as it reaches no other hive that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<Digest>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: DownloadState,
}

/// Where a transfer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DownloadState {
    /// Waits for its turn.
    Queued,
    /// Bytes arrive.
    Downloading,
    /// All bytes are here; the digest is being checked.
    Verifying,
    /// In the store.
    Complete,
    /// Ended without a model.
    Failed {
        /// Machine-readable, such as `model_not_found`, `storage_full`, `digest_mismatch`.
        code: String,
        /// What was tried and why it failed.
        message: String,
    },
}

impl DownloadState {
    /// Whether nothing more will happen to the transfer.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Complete | Self::Failed { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_references_are_refused() {
        for text in [
            "",
            "x",
            "owner",
            "owner/",
            "/name",
            "../etc/passwd",
            "hf:../x",
            "hf:a/..",
            "hf:a/b:../../x",
            "hf:a/b@..",
            "hf:a/b/c",
            "hf:a/b:c:d",
            "hf:-a/b",
            "hf:a/-b",
            "hf:a/.b",
            "hf:a/b:-x",
            "file:relative.gguf",
            "file:/",
            "file:/a/../b.gguf",
            "file:/a/./b.gguf",
            "file:/a/.../b.gguf",
            "file:/a/.-b.gguf",
            "file://a.gguf",
            "hf:a/b;id",
            "hf:a/b$(id)",
            "hf:a/b`id`",
            "hf:a/b c",
            "hf:a/b\n",
            "hf:a/b|c",
            "hf:a/b&c",
            "hf:a/b'c",
            "hf:a/b\"c",
            "hf:a/b\\c",
            "hf:a/b*",
            "hf:a/b?",
            "hf:ä/b",
            "hf:a/b\u{0}",
        ] {
            assert!(text.parse::<ModelRef>().is_err(), "{text:?} was accepted");
        }
        assert_eq!("a/".repeat(200).parse::<ModelRef>(), Err(ModelRefError::Length(400)));
    }

    #[test]
    fn both_forms_and_every_optional_part_parse() {
        for (text, canonical) in [
            ("Qwen/Qwen3-0.6B-GGUF", "hf:Qwen/Qwen3-0.6B-GGUF"),
            ("hf:a/b@main:Q4_K_M", "hf:a/b@main:Q4_K_M"),
            ("hf:a/b:sub/model-00001-of-00002.gguf", "hf:a/b:sub/model-00001-of-00002.gguf"),
            ("file:/models/tiny.gguf", "file:/models/tiny.gguf"),
            ("file:/srv/.cache/tiny.gguf", "file:/srv/.cache/tiny.gguf"),
        ] {
            assert_eq!(text.parse::<ModelRef>().expect("legal").to_string(), canonical);
        }
    }

    #[test]
    fn a_digest_is_exactly_64_hexadecimal_digits() {
        let text = "00ff".repeat(16);
        assert_eq!(text.parse::<Digest>().expect("legal").to_string(), text);
        assert!("00".repeat(31).parse::<Digest>().is_err());
        assert!("+0".repeat(32).parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn what_was_accepted_reads_back_the_same(text in "(hf:)?[a-z.-]{1,5}/[a-z.]{1,5}(@[a-z/]{1,4})?(:[A-Z_/.]{1,6})?") {
            if let Ok(model) = text.parse::<ModelRef>() {
                prop_assert_eq!(model.to_string().parse::<ModelRef>(), Ok(model));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,300}") {
            let _ = text.parse::<ModelRef>();
        }
    }
}

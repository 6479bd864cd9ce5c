//! Why an engine is not there, with what to do about it.

use std::{io, path::PathBuf};

use fleet::{Digest, EngineName, EngineUrl};

/// Why an engine is not there.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The server was not reached, or its answer broke off. What came is kept for the next try.
    #[error("{url} could not be fetched: {reason}")]
    Broke {
        /// Where it was fetched.
        url: EngineUrl,
        /// What happened, after all tries.
        reason: String,
    },
    /// The server has no such file, or does not give it.
    #[error(
        "{url} could not be fetched: the server answered {status}. Check the URL of the engine in queen.toml"
    )]
    Refused {
        /// Where it was fetched.
        url: EngineUrl,
        /// Its answer.
        status: u16,
    },
    /// The server sent us where we do not go.
    #[error("{url} could not be fetched: {reason}")]
    Redirect {
        /// Where it was fetched.
        url: EngineUrl,
        /// Where it went wrong.
        reason: String,
    },
    /// Something else is there than what was meant.
    #[error(
        "what {url} gave has the SHA-256 {found}, and {expected} is configured; nothing of it was used. Either the file there \
         was replaced, or the digest in queen.toml is another file's"
    )]
    Digest {
        /// Where it was fetched.
        url: EngineUrl,
        /// What was configured.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More bytes than any engine has.
    #[error("{url} gives more than {most} bytes, which is no engine")]
    Large {
        /// Where it was fetched.
        url: EngineUrl,
        /// The most that is taken.
        most: u64,
    },
    /// The archive is none, or not one of a kind that is unpacked.
    #[error(
        "what {url} gave cannot be unpacked: {reason}. Take a .tar.gz, or unpack it and name the directory as path"
    )]
    Archive {
        /// Where it was fetched.
        url: EngineUrl,
        /// Why.
        reason: String,
    },
    /// The program is not in it.
    #[error("what {url} gave holds no {program}")]
    NoProgram {
        /// Where it was fetched.
        url: EngineUrl,
        /// The name that was looked for.
        program: EngineName,
    },
    /// The disk of this machine refuses.
    #[error("could not write {}", path.display())]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The transfer's task failed.
    #[error("the transfer of {url} ended by itself; the queen's log has more")]
    Lost {
        /// Where it was fetched.
        url: EngineUrl,
    },
}

impl EngineError {
    /// Whether the same try may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Broke { .. } | Self::Lost { .. } => true,
            Self::Disk { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Refused { .. }
            | Self::Redirect { .. }
            | Self::Digest { .. }
            | Self::Large { .. }
            | Self::Archive { .. }
            | Self::NoProgram { .. } => false,
        }
    }
}

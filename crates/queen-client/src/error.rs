//! Why a call gave nothing, in words for whoever typed it.

use queen_api::{ErrorCode, ErrorDetail};

/// An address that is none of a queen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a URL of a host.
    #[error("{address:?} is no address of a queen; write it as http://127.0.0.1:7833")]
    Malformed {
        /// What was given.
        address: String,
    },
    /// Another protocol than HTTP.
    #[error("{address:?}: this client speaks plain http only; put a tunnel or a proxy in front of it")]
    Scheme {
        /// What was given.
        address: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up: {reason}")]
    Setup {
        /// What the system said.
        reason: String,
    },
}

/// A failed call: what was asked, and what happened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not {action}: {kind}")]
pub struct ClientError {
    /// What was asked, as a verb and its object.
    pub action: &'static str,
    /// What happened.
    pub kind: ClientErrorKind,
}

/// Kinds of failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientErrorKind {
    /// Nobody listens.
    #[error(
        "no queen answers at {address} ({reason}); start one with `queen-rbee`, or give the address of the one that runs"
    )]
    NotRunning {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The queen said no.
    #[error("{0}")]
    Refused(ErrorDetail),
    /// What answers is no queen.
    #[error("what answers at {address} is not a queen: {reason}")]
    NotAQueen {
        /// Where it was looked for.
        address: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// Nothing came in time.
    #[error("the queen at {address} sent nothing in time")]
    Timeout {
        /// Where it was looked for.
        address: String,
    },
    /// The connection broke.
    #[error("the connection to the queen at {address} broke: {reason}")]
    Broke {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// An answer ended before its end.
    #[error("the answer is not complete: it ended before its end")]
    Truncated,
}

impl ClientError {
    pub(crate) const fn new(action: &'static str, kind: ClientErrorKind) -> Self {
        Self { action, kind }
    }

    /// The queen's own error, if it gave one.
    #[must_use]
    pub const fn refused(&self) -> Option<&ErrorDetail> {
        match &self.kind {
            ClientErrorKind::Refused(detail) => Some(detail),
            _ => None,
        }
    }

    /// The queen's code, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.refused().map(|detail| detail.code)
    }
}

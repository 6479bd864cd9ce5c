//! Why a call to a hive gave nothing.

use http_client::WrongCertificate;

use crate::ErrorDetail;

/// A failed call: which hive, which action, what kind of failure.
#[derive(Debug, thiserror::Error)]
#[error("hive {hive}: {action}: {kind}")]
pub struct ClientError {
    /// The hive's id, or its address where the id is not known yet.
    pub hive: String,
    /// What was asked of it.
    pub action: &'static str,
    /// What happened.
    pub kind: ClientErrorKind,
}

/// Kinds of failure.
#[derive(Debug, thiserror::Error)]
pub enum ClientErrorKind {
    /// No connection, or it broke.
    #[error("cannot be reached: {reason}")]
    Unreachable {
        /// The chain of causes.
        reason: String,
    },
    /// No whole answer within the deadline.
    #[error("did not answer in time")]
    Timeout,
    /// Another certificate was shown than the one that is known, so nothing was asked.
    #[error("{0}")]
    WrongCertificate(WrongCertificate),
    /// It said no.
    #[error("{0}")]
    Refused(ErrorDetail),
    /// What answers does not keep the contract.
    #[error("what answers there is not a usable hive: {reason}")]
    NotAHive {
        /// What was wrong with the answer.
        reason: String,
    },
}

impl ClientError {
    pub(super) fn new(hive: impl Into<String>, action: &'static str, kind: ClientErrorKind) -> Self {
        Self { hive: hive.into(), action, kind }
    }

    /// The hive's own error, if it answered one.
    #[must_use]
    pub const fn refused(&self) -> Option<&ErrorDetail> {
        match &self.kind {
            ClientErrorKind::Refused(detail) => Some(detail),
            _ => None,
        }
    }
}

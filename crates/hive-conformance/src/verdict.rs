//! How a check went.

use std::fmt;

use hive_api::client::ClientError;

/// One check and how it went.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CheckResult {
    /// What the contract asks, as a name.
    pub name: &'static str,
    /// Whether the hive does it.
    pub outcome: Outcome,
    /// What was seen instead, or why the check could not be made; empty for a success.
    pub detail: String,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The hive does what the contract asks.
    Passed,
    /// It does something else.
    Failed,
    /// The check could not be made, for a reason that is not the hive's fault.
    NotRun,
}

/// Why a check did not succeed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The hive does something else.
    Failed(String),
    /// The check needs what is not there.
    NotRun(String),
}

/// What a check gives.
pub(crate) type Check = Result<(), Fault>;

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Self {
        Self::Failed(causes::with_causes(&error))
    }
}

impl Fault {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

/// A failure, unless it holds.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Fault::Failed(otherwise())) }
}

/// A failure, unless both are the same.
pub(crate) fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Check {
    ensure(found == expected, || format!("{what} is {found:?} and should be {expected:?}"))
}

impl CheckResult {
    pub(crate) fn of(name: &'static str, check: Check) -> Self {
        let (outcome, detail) = match check {
            Ok(()) => (Outcome::Passed, String::new()),
            Err(Fault::Failed(detail)) => (Outcome::Failed, detail),
            Err(Fault::NotRun(detail)) => (Outcome::NotRun, detail),
        };
        Self { name, outcome, detail }
    }
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::NotRun => "not run",
        };
        write!(f, "{word:8} {}", self.name)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

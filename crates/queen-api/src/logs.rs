//! `GET /v1/logs`.

use std::{fmt, str::FromStr};

use fleet::{HiveId, WorkerId};
use serde::{Deserialize, Serialize};

/// Whose log: `hive:ID`, or `worker:HIVE/ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSource {
    /// A hive's own.
    Hive(HiveId),
    /// That of a worker, by its hive and its id there.
    Worker(HiveId, WorkerId),
}

/// Why a text names no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no log; write hive:ID or worker:HIVE/ID")]
pub struct LogSourceError(String);

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hive(hive) => write!(f, "hive:{hive}"),
            Self::Worker(hive, worker) => write!(f, "worker:{hive}/{worker}"),
        }
    }
}

impl FromStr for LogSource {
    type Err = LogSourceError;

    fn from_str(text: &str) -> Result<Self, LogSourceError> {
        let read = || match text.split_once(':')? {
            ("hive", hive) => Some(Self::Hive(hive.parse().ok()?)),
            ("worker", name) => {
                let (hive, worker) = name.split_once('/')?;
                Some(Self::Worker(hive.parse().ok()?, worker.parse().ok()?))
            }
            _ => None,
        };
        read().ok_or_else(|| LogSourceError(text.chars().take(80).collect()))
    }
}

/// `GET /v1/logs?source=&lines=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsReply {
    /// The last lines, oldest first.
    pub lines: Vec<String>,
}

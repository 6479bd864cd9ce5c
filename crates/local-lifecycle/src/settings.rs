//! What a queen sets.

use std::{path::PathBuf, time::Duration};

/// Where hives of this machine keep their state, and how they are started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The queen's data directory. A hive's own is `hives/<id>` below it.
    pub data_dir: PathBuf,
    /// The hive's program, if it is not the one beside the queen's or in `PATH`.
    pub binary: Option<PathBuf>,
    /// How long a hive may take until it answers.
    pub listen: Duration,
    /// Settings of the hive that the queen's owner chose, such as `RBEE_HIVE_HUB_URL`. They win over its `hive.toml`.
    pub environment: Vec<(&'static str, String)>,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            binary: None,
            listen: Duration::from_secs(10),
            environment: Vec::new(),
        }
    }
}

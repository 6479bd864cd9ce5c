//! How a hive comes to be: its directory and lock, who it is, its secret, `hive.json`.

mod directory;
mod identity;

pub use directory::{DataDir, default_data_dir};
pub use identity::{Launch, LaunchedBy};

use std::{io, net::SocketAddr, path::PathBuf};

use crate::SettingsError;

/// Why a hive did not start. [`StartError::exit_code`] says what its process ends with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another hive holds the data directory.
    #[error("the data directory {} is in use by {}", dir.display(), holder(*.pid))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// `hive.toml` or the environment is wrong.
    #[error("the configuration is wrong")]
    Settings(#[from] SettingsError),
    /// The secret did not come, or is none.
    #[error("no secret from {from}: {reason}")]
    Secret {
        /// Where it should have come from.
        from: String,
        /// What went wrong; never shows what was read.
        reason: String,
    },
    /// The address is no address of this machine that a hive may listen on.
    #[error("cannot listen on {host}: {reason}")]
    Address {
        /// What was asked for.
        host: String,
        /// Why not.
        reason: &'static str,
    },
    /// Somebody else listens on the port.
    #[error("port {} of {} is in use by another process{}; end that one, or give this hive another port", address.port(), address.ip(), used_by(.by.as_deref()))]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// Pid and name of that process, where the system tells.
        by: Option<String>,
    },
    /// The address could not be listened on for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No certificate for what other machines see.
    #[error("cannot serve TLS")]
    Tls(#[from] http_serve::IdentityError),
    /// A file or directory could not be read or written.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The model store could not be opened.
    #[error("the model store cannot be used")]
    Store(#[from] model_store::StoreError),
    /// The system does not tell what process this is.
    #[error("this process cannot be identified")]
    Process(#[from] process::ProcessError),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another hive".to_owned(), |pid| format!("the hive with pid {pid}"))
}

fn used_by(by: Option<&str>) -> String {
    by.map_or_else(String::new, |by| format!(" ({by})"))
}

impl StartError {
    /// The exit code of sysexits.h that tells a launcher what kind of failure it was.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::PortInUse { .. } | Self::Listen { .. } => 69,
            Self::Tls(_) => 71,
            Self::Locked { .. } => 73,
            Self::Io { .. } | Self::Store(_) | Self::Process(_) => 74,
            Self::Settings(_) | Self::Secret { .. } | Self::Address { .. } => 78,
        }
    }
}

//! Why the queen did not start, and with which code it says so (`sysexits.h`).

use std::{error::Error, fmt, io, net::SocketAddr, process::ExitCode};

use causes::with_causes;
use hive_manager::{KeyError, ManagerError};
use queen_config::Faults;
use registry_sqlite::OpenError;

/// A wrong command line.
pub(crate) const USAGE: u8 = 64;
/// A database that is not ours, or damaged.
const NOT_OURS: u8 = 65;
/// The port is taken.
const UNAVAILABLE: u8 = 69;
/// Something that should not happen.
const INTERNAL: u8 = 70;
/// The data directory is held by another process, or cannot be written.
const CANNOT_CREATE: u8 = 73;
/// A faulty configuration.
const CONFIGURATION: u8 = 78;

/// Why the queen did not start.
#[derive(Debug)]
pub(crate) enum Failure {
    Configuration(Faults),
    Log(telemetry::InitError),
    Port { address: SocketAddr, holder: Option<String>, source: io::Error },
    Store(OpenError),
    Key(KeyError),
    Hives(ManagerError),
    Connections(String),
    Runtime(io::Error),
    Service(String),
    Ssh(String),
}

impl Failure {
    pub(crate) fn service(error: &dyn Error) -> Self {
        Self::Service(with_causes(error))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        let code = match self {
            Self::Configuration(_) | Self::Ssh(_) | Self::Log(telemetry::InitError::Filter { .. }) => {
                CONFIGURATION
            }
            Self::Port { .. } => UNAVAILABLE,
            Self::Store(OpenError::NotOurs { .. } | OpenError::Newer { .. })
            | Self::Key(KeyError::Damaged(_)) => NOT_OURS,
            Self::Store(OpenError::Thread { .. }) => INTERNAL,
            Self::Store(_) | Self::Key(_) | Self::Service(_) => CANNOT_CREATE,
            Self::Log(_) | Self::Hives(_) | Self::Connections(_) | Self::Runtime(_) => INTERNAL,
        };
        ExitCode::from(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(faults) => write!(f, "{faults}"),
            Self::Log(error) => f.write_str(&with_causes(error)),
            Self::Port { address, holder: Some(holder), .. } => {
                write!(f, "{address} is in use by {holder}; stop it, or choose another address with --listen")
            }
            Self::Port { address, holder: None, source } => {
                write!(f, "could not listen on {address}: {source}; choose another address with --listen")
            }
            Self::Store(error) => f.write_str(&with_causes(error)),
            Self::Key(error) => f.write_str(&with_causes(error)),
            Self::Hives(error) => f.write_str(&with_causes(error)),
            Self::Connections(reason) => write!(f, "the HTTP client could not be set up: {reason}"),
            Self::Service(told) | Self::Ssh(told) => f.write_str(told),
            Self::Runtime(error) => write!(f, "the system did not give what a daemon needs: {error}"),
        }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::Configuration(faults)
    }
}

impl From<telemetry::InitError> for Failure {
    fn from(error: telemetry::InitError) -> Self {
        Self::Log(error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Store(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<ManagerError> for Failure {
    fn from(error: ManagerError) -> Self {
        Self::Hives(error)
    }
}

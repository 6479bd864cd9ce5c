//! Why a process could not be started, identified or signalled.

use std::{io, path::PathBuf};

/// A failed attempt. Its source is what the system said.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program could not be executed.
    #[error("could not start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The log file could not be opened.
    #[error("could not open the log file {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The line for standard input could not be written.
    #[error("could not write to standard input of {}", program.display())]
    Stdin {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel did not tell which process a pid stands for.
    #[error("could not identify process {pid}")]
    Identify {
        /// The pid.
        pid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A signal was refused for another reason than that the process is gone.
    #[error("could not signal process {pid}")]
    Signal {
        /// The pid.
        pid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The process could not be waited for.
    #[error("could not wait for process {pid}")]
    Wait {
        /// The pid.
        pid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

//! The [`fleet::HiveLauncher`] of other machines: a hive is brought there, started and found again over SSH, with nothing on the
//! other side but an SSH server and `/bin/sh`.
//!
//! [`SshLauncher`] logs in with a key, looks what machine it is, brings the files that are missing below one directory of the
//! remote account, starts the hive detached, and reads who it is back. It needs no root, no package and no agent there. It
//! decides nothing: whether and when a hive is started or ended is the caller's, and a host key that nobody accepted is refused.
//!
//! Two decisions. Whatever is done there is one script for `/bin/sh`, which travels on standard input and answers in lines that
//! carry a nonce: no login shell reads it, no noise of one is taken for an answer, and an answer that does not come to its end
//! is no answer. And each connection has a thread of its own (libssh2 is not safe to share) whose socket is shut down from
//! outside at the deadline, so a peer that freezes costs its own time and nothing else.
//!
//! Invariants:
//! - nothing is sent to a host whose key is unknown, changed or revoked;
//! - parameters are typed or quoted by one function, and secrets travel on standard input only, never in an argument list;
//! - a file is executed only after its size and SHA-256 were checked there, under the name of its content;
//! - only a process whose pid, start time and boot match is ended;
//! - every method ends within its bound, whatever the peer does: see [`Patience`].

mod auth;
mod built;
mod bundle;
mod config;
mod connect;
mod destination;
mod error;
mod host_key;
mod key_file;
mod known_hosts;
mod launcher;
mod machine;
mod remote;
mod scan;
mod script;
mod session;
mod settings;
mod upload;

pub use bundle::{BundleError, BundleFile};
pub use destination::{
    Destination, DestinationError, RemoteDir, RemoteDirError, RemoteUser, RemoteUserError,
};
pub use error::{Disk, SshError};
pub use host_key::{HostKey, HostKeyError};
pub use key_file::{KeyFault, PrivateKey};
pub use known_hosts::{KnownHosts, Place, Verdict};
pub use launcher::SshLauncher;
pub use machine::Machine;
pub use scan::{host_key, remember_host_key};
pub use script::quote;
pub use settings::{Patience, Settings};

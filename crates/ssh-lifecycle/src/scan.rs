//! A host's key, for whoever asks a person about it.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

use crate::session::Threads;
use crate::{
    Destination, HostKey, KnownHosts, Settings, SshError, Verdict, config, config::Resolved, connect,
};

pub(crate) fn known_hosts(to: &Resolved, destination: &Destination) -> KnownHosts {
    KnownHosts::read(&to.known_hosts).pinned_to(destination.host_key.clone())
}

/// Asks a host for its key and says what is known of it. Nothing else is sent there.
///
/// # Errors
/// When it cannot be reached or is no SSH server. That its key is unknown, changed or revoked is an answer.
pub async fn host_key(
    destination: &Destination,
    settings: &Settings,
) -> Result<(HostKey, Verdict), SshError> {
    let to = config::resolve(destination, settings).await?;
    let known = known_hosts(&to, destination);
    let (_session, key, verdict) =
        connect::greet(&to, known, settings.patience.connect, &Threads::default()).await?;
    Ok((key, verdict))
}

/// Makes a key known, as ssh does when somebody says yes: it is added to the first of ssh's known_hosts files, which is returned.
///
/// # Errors
/// When ssh's configuration cannot be used, or the file cannot be written.
pub async fn remember_host_key(
    destination: &Destination,
    settings: &Settings,
    key: &HostKey,
) -> Result<PathBuf, SshError> {
    let to = config::resolve(destination, settings).await?;
    let Some(file) = to.known_hosts.first() else {
        let reason = "it names no known_hosts file".to_owned();
        return Err(SshError::Config { host: to.host, reason });
    };
    let write = || -> io::Result<()> {
        if let Some(dir) = file.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut open = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
        // The line before may have no end.
        open.write_all(format!("\n{} {}\n", to.lookup_name, key.line()).as_bytes())
    };
    write().map_err(|source| SshError::Write { path: file.clone(), source })?;
    Ok(file.clone())
}

/// The error for a key that is not known to be the host's.
pub(crate) fn accept(to: &Resolved, key: HostKey, verdict: Verdict) -> Result<(), SshError> {
    let (host, port) = (to.host.clone(), to.port);
    match verdict {
        Verdict::Known { .. } => Ok(()),
        Verdict::Changed { at } => Err(SshError::HostKeyChanged { host, port, key, at }),
        Verdict::Revoked { at } => Err(SshError::HostKeyRevoked { host, port, key, at }),
        Verdict::Unknown { other_kinds } => {
            let accept = accepting(to, &key);
            Err(SshError::HostKeyUnknown { host, port, key, other_kinds, accept })
        }
    }
}

/// The command that makes this very key known, and no other that somebody shows later.
fn accepting(to: &Resolved, key: &HostKey) -> String {
    let file =
        to.known_hosts.first().map_or_else(|| "~/.ssh/known_hosts".into(), |file| file.display().to_string());
    let file = if file.starts_with("~/") { Some(file) } else { crate::quote(&file) };
    format!("echo '{} {}' >> {}", to.lookup_name, key.line(), file.unwrap_or_default())
}

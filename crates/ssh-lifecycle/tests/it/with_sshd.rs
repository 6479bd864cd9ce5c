//! Everything that needs the system's `sshd`. Tests of this module are named as not run where there is none.

mod hosts;
mod login;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ssh_lifecycle::{Destination, Patience, Settings, SshError, SshLauncher};
use throwaway_sshd::Sshd;

/// Bounds that a loaded machine keeps, but for the ones that a test waits for.
fn patience() -> Patience {
    let long = Duration::from_secs(60);
    Patience { connect: long, login: long, command: long, stall: long, listen: long, reach: long }
}

fn sshd() -> Sshd {
    Sshd::start(&[]).unwrap()
}

/// Nothing of the account that runs the test: no configuration, no keys, no agent, no known hosts but the server's.
fn settings(sshd: &Sshd) -> Settings {
    let config = sshd.dir().join("ssh_config");
    fs::write(&config, "").unwrap();
    Settings {
        ssh_config: Some(config),
        known_hosts: Some(vec![sshd.known_hosts()]),
        dir: sshd.dir().join("remote/rbee-hive").display().to_string().parse().unwrap(),
        agent: false,
        patience: patience(),
        ..Settings::default()
    }
}

fn destination(sshd: &Sshd) -> Destination {
    Destination {
        port: Some(sshd.port()),
        key_path: Some(sshd.client_key()),
        ..Destination::new("127.0.0.1".parse().unwrap())
    }
}

async fn probe(destination: &Destination, settings: &Settings) -> Result<ssh_lifecycle::Machine, SshError> {
    SshLauncher::new(settings.clone()).unwrap().probe(destination).await
}

/// Waits for something that is sure to come.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

//! Everything that needs the system's `sshd`. Tests of this module are named as not run where there is none.

mod faults;
mod hosts;
mod login;
mod shells;
mod uploads;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fleet::{
    HiveLauncher, HiveMode, HiveSpec, LaunchError, LaunchId, LaunchObserver, LaunchOrder, LaunchProgress,
    LaunchStage, ProcessIdentity, RunningHive, SshTarget, StoreError, Target,
};
use ssh_lifecycle::{Destination, Patience, Settings, SshError, SshLauncher};
use throwaway_sshd::Sshd;

/// Bounds that a loaded machine keeps, but for the ones that a test waits for.
fn patience() -> Patience {
    let long = Duration::from_secs(60);
    Patience {
        connect: long,
        login: long,
        shell: long,
        command: long,
        stall: long,
        listen: long,
        reach: long,
    }
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

/// Does something at each step of a launch.
struct At(Box<dyn Fn(&LaunchProgress) + Send + Sync>);

#[async_trait]
impl LaunchObserver for At {
    fn progress(&self, _: &LaunchId, progress: LaunchProgress) {
        (self.0)(&progress);
    }

    async fn spawned(&self, _: &LaunchId, _: &ProcessIdentity) -> Result<(), StoreError> {
        Ok(())
    }
}

fn spec(port: u16, key: PathBuf) -> HiveSpec {
    let ssh = SshTarget { port: Some(port), key_path: Some(key), ..SshTarget::default() };
    let local = HiveSpec::local("box".parse().unwrap(), "127.0.0.1".parse().unwrap(), 0);
    HiveSpec { mode: HiveMode::Network, ssh, ..local }
}

async fn launch(
    launcher: &SshLauncher,
    spec: HiveSpec,
    at: impl Fn(&LaunchProgress) + Send + Sync + 'static,
) -> Result<RunningHive, LaunchError> {
    let (launch_id, token) = ("l-1".parse().unwrap(), "0123456789abcdef".parse().unwrap());
    launcher.launch(&LaunchOrder { spec, launch_id, token }, Arc::new(At(Box::new(at)))).await
}

/// The reason of a failed step.
fn reason(failed: Result<RunningHive, LaunchError>) -> (LaunchStage, bool, SshError) {
    match failed {
        Err(LaunchError::Remote { stage, retry, source, .. }) => (stage, retry, *source.downcast().unwrap()),
        other => unreachable!("{other:?}"),
    }
}

async fn probe(destination: &Destination, settings: &Settings) -> Result<ssh_lifecycle::Machine, SshError> {
    SshLauncher::new(settings.clone()).unwrap().probe(destination).await
}

/// A program that is a shell script.
fn program(path: &Path, script: &str) -> PathBuf {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// Waits for something that is sure to come.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

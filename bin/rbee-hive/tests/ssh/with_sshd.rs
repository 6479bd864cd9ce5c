//! Tests of this module are named as not run where there is no `sshd`.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use fleet::{
    HiveLauncher, HiveMode, HiveSpec, LaunchError, LaunchId, LaunchObserver, LaunchOrder, LaunchProgress,
    LaunchStage, ProcessIdentity, RunningHive, SshTarget, StoreError,
};
use ssh_lifecycle::{Destination, Patience, Settings, SshLauncher, Target};
use throwaway_sshd::Sshd;

#[derive(Default)]
struct Observer {
    told: Mutex<Vec<LaunchProgress>>,
    spawned: Mutex<Vec<ProcessIdentity>>,
}

#[async_trait]
impl LaunchObserver for Observer {
    fn progress(&self, _: &LaunchId, progress: LaunchProgress) {
        self.told.lock().unwrap().push(progress);
    }

    async fn spawned(&self, _: &LaunchId, process: &ProcessIdentity) -> Result<(), StoreError> {
        self.spawned.lock().unwrap().push(process.clone());
        Ok(())
    }
}

/// A machine that can be logged in to, and whoever starts a hive there.
struct Machine {
    sshd: Sshd,
    settings: Settings,
    launcher: SshLauncher,
}

/// The hive without what only a debugger reads: it is sent over and over.
fn hive(sshd: &Sshd) -> PathBuf {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_rbee-hive"));
    let stripped = sshd.dir().join("rbee-hive");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(&own).status();
    if strip.is_ok_and(|status| status.success()) { stripped } else { own }
}

impl Machine {
    fn new() -> Self {
        let sshd = Sshd::start(&[]).unwrap();
        let config = sshd.dir().join("ssh_config");
        fs::write(&config, "").unwrap();
        let long = Duration::from_secs(60);
        let settings = Settings {
            binaries: [(Target::own(), hive(&sshd))].into(),
            dir: sshd.dir().join("remote dir").display().to_string().parse().unwrap(),
            listen: "127.0.0.1".parse().unwrap(),
            ssh_config: Some(config),
            known_hosts: Some(vec![sshd.known_hosts()]),
            agent: false,
            patience: Patience {
                connect: long,
                login: long,
                command: long,
                stall: long,
                listen: long,
                reach: long,
            },
            ..Settings::default()
        };
        let launcher = SshLauncher::new(settings.clone()).unwrap();
        Self { sshd, settings, launcher }
    }

    fn dir(&self) -> PathBuf {
        self.settings.dir.as_str().into()
    }

    fn spec(&self) -> HiveSpec {
        let ssh = SshTarget {
            port: Some(self.sshd.port()),
            key_path: Some(self.sshd.client_key()),
            ..SshTarget::default()
        };
        let local = HiveSpec::local("box".parse().unwrap(), "127.0.0.1".parse().unwrap(), 0);
        HiveSpec { mode: HiveMode::Network, ssh, ..local }
    }

    fn destination(&self) -> Destination {
        let spec = self.spec();
        Destination::of(&spec.hostname, &spec.ssh).unwrap()
    }

    async fn launch(&self, launch_id: &str) -> (Result<RunningHive, LaunchError>, Arc<Observer>) {
        let order = LaunchOrder {
            spec: self.spec(),
            launch_id: launch_id.parse().unwrap(),
            token: "0123456789abcdef".parse().unwrap(),
        };
        let observer = Arc::new(Observer::default());
        let launched = self.launcher.launch(&order, Arc::<Observer>::clone(&observer)).await;
        (launched, observer)
    }
}

/// Whatever happens to a test, no hive of its stays.
impl Drop for Machine {
    fn drop(&mut self) {
        let text = fs::read_to_string(self.dir().join("hive.json")).unwrap_or_default();
        if let Ok(file) = hive_api::HiveFile::parse(&text)
            && process::is_alive(&file.process)
        {
            let _ = Command::new("kill").arg("-KILL").arg(file.process.pid.to_string()).status();
        }
    }
}

fn uploaded(observer: &Observer) -> Vec<u64> {
    let told = observer.told.lock().unwrap();
    told.iter().filter(|told| told.stage == LaunchStage::Upload).filter_map(|told| told.bytes).collect()
}

#[tokio::test]
async fn a_hive_is_brought_started_found_ended_and_removed() {
    let machine = Machine::new();
    assert_eq!(machine.launcher.discover(&machine.spec()).await.unwrap(), None);
    let (launched, observer) = machine.launch("l-1").await;
    let running = launched.unwrap();
    assert!(process::is_alive(&running.process));
    assert_eq!(*observer.spawned.lock().unwrap(), std::slice::from_ref(&running.process));
    let size = fs::metadata(hive(&machine.sshd)).unwrap().len();
    let sent = uploaded(&observer);
    assert!(sent.is_sorted() && sent.last() == Some(&size), "{sent:?}");
    assert_eq!(machine.launcher.discover(&machine.spec()).await.unwrap(), Some(running.clone()));
    let stages: Vec<LaunchStage> = observer.told.lock().unwrap().iter().map(|told| told.stage).collect();
    assert!(stages.first() == Some(&LaunchStage::Connect) && stages.last() == Some(&LaunchStage::Reach));

    // The same launch again: the answer was lost, the hive was not.
    let (again, observer) = machine.launch("l-1").await;
    assert_eq!((again.unwrap(), uploaded(&observer)), (running.clone(), vec![]));
    // Another launch does not take its place.
    let (refused, _) = machine.launch("l-2").await;
    let Err(LaunchError::Remote { stage, retry, source, .. }) = refused else { unreachable!("it is taken") };
    assert_eq!((stage, retry), (LaunchStage::Probe, false));
    assert!(source.to_string().contains("in use by hive box (launch l-1)"), "{source}");
    assert!(process::is_alive(&running.process));

    let log = machine.launcher.log_tail(&machine.spec(), 5).await;
    assert!(log.iter().any(|line| line.contains("listening")), "{log:?}");
    let refused = machine.launcher.purge(&machine.destination()).await.unwrap_err();
    assert!(refused.to_string().contains("still runs"), "{refused}");
    assert_eq!(machine.launcher.kill(&machine.spec(), &running).await.unwrap(), 1);
    assert!(!process::is_alive(&running.process));
    assert_eq!(machine.launcher.kill(&machine.spec(), &running).await.unwrap(), 0);

    // What lies there already is not sent again.
    let (launched, observer) = machine.launch("l-3").await;
    let running = launched.unwrap();
    assert_eq!(uploaded(&observer), [0; 0]);
    machine.launcher.kill(&machine.spec(), &running).await.unwrap();
    machine.launcher.purge(&machine.destination()).await.unwrap();
    assert!(!machine.dir().exists());
}

#[tokio::test]
async fn no_secret_is_in_an_argument_list_or_left_in_a_file() {
    let machine = Machine::new();
    let running = machine.launch("l-1").await.0.unwrap();
    let pid = running.process.pid;
    for place in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{pid}/{place}")).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("0123456789abcdef"), "{place}");
    }
    assert!(!machine.dir().join("secret-l-1").exists(), "the hive takes it away");
    assert!(!machine.sshd.log().contains("0123456789abcdef"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(machine.dir()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    machine.launcher.kill(&machine.spec(), &running).await.unwrap();
}
